"""The next-line task: honest questions, from held-out modules alone, rebuilt byte for byte."""

import dataclasses
import json
import random
import sys
from collections import Counter
from importlib.util import find_spec

import pytest

from niwaki.errors import DataError
from niwaki.ground.text import stdlib_documents
from niwaki.sapling.next_line.__main__ import write_questions
from niwaki.sapling.next_line.dataset import QUESTIONS, load_questions
from niwaki.sapling.next_line.questions import build_questions

# The Python whose standard library the shipped questions quote (see NOTICE).
BUILT_WITH = (3, 11, 7)


def shipped():
    return [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]


def documents():
    """Six modules of made-up code, a third of it comments, blanks, brackets and prose in strings."""
    generator = random.Random(0)
    words = ["tree", "needle", "branch", "trunk", "root", "moss", "stone", "gravel", "wire", "pot"]

    def line():
        a, b, c = generator.sample(words, 3)
        junk = [
            "    # a comment about the tree",
            "",
            "    ]",
            '    """Prose about\n    the needle and moss."""',
        ]
        return generator.choice([f"    {a} = shape({b}, {c}, {generator.randrange(99)})"] * 8 + junk)

    modules = {}
    for number in range(6):
        body = "\n".join(line().replace("    ]", "    [\n    ]") for _ in range(80))
        modules[f"module{number}.py"] = f"def grow():\n    pass\n{body}\n"
    return modules


def test_every_shipped_question_is_well_made():
    questions = shipped()
    assert len(questions) == 400
    assert len({question["id"] for question in questions}) == 400
    assert Counter(question["answer"] for question in questions) == {0: 100, 1: 100, 2: 100, 3: 100}
    for question in questions:
        context, choices = question["context"], question["choices"]
        assert len({choice.strip() for choice in choices}) == 4, question["id"]
        assert len({len(choice) - len(choice.lstrip()) for choice in choices}) == 1, question["id"]
        assert not any(choice.strip() in context for choice in choices), question["id"]
        assert all(choice == choice.rstrip() and choice.isascii() for choice in choices), question["id"]
        assert sum(bool(line.strip()) for line in context.split("\n")) == 16, question["id"]
        assert context.isascii()
        assert not context.endswith("\n")


def test_every_shipped_context_is_from_a_held_out_module():
    held_out = {document.name for document in stdlib_documents("held_out")}
    trained_on = {document.name for document in stdlib_documents("train")}
    modules = {question["module"] for question in shipped()}
    assert not modules & trained_on
    if sys.version_info[:2] == BUILT_WITH[:2]:
        assert modules <= held_out


def test_the_length_of_a_choice_does_not_give_the_answer_away():
    ranks = Counter()
    for question in shipped():
        lengths = [len(choice) for choice in question["choices"]]
        assert lengths.count(lengths[question["answer"]]) == 1, question["id"]
        ranks[sorted(lengths).index(lengths[question["answer"]])] += 1
    assert ranks == {0: 100, 1: 100, 2: 100, 3: 100}


@pytest.mark.skipif(sys.version_info[:3] != BUILT_WITH, reason="another standard library than the one quoted")
def test_the_shipped_file_is_what_the_builder_makes(tmp_path):
    write_questions(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == QUESTIONS.read_bytes()


def test_the_right_choice_follows_its_context_and_the_others_are_lines_of_other_places():
    modules = documents()
    all_lines = {line for text in modules.values() for line in text.split("\n")}
    questions = build_questions(modules.items(), num_questions=40)
    for question in questions:
        gold = question.choices[question.answer]
        source = [line.rstrip() for line in modules[question.module].split("\n")]
        number = int(question.id.rpartition(":")[2])
        context = question.context.split("\n")
        assert source[number - 1] == gold
        assert source[number - 1 - len(context) : number - 1] == context
        assert set(question.choices) <= all_lines
        assert not any(
            "Prose" in choice or "#" in choice or 'moss."' in choice for choice in question.choices
        )
    counts = Counter(question.module for question in questions)
    assert min(counts.values()) >= 4


def test_the_order_of_the_documents_changes_nothing_and_the_seed_does():
    modules = list(documents().items())
    first = build_questions(modules, num_questions=40)
    assert build_questions(modules[::-1], num_questions=40) == first
    assert build_questions(modules, num_questions=40, seed=1) != first
    assert Counter(question.answer for question in first) == {0: 10, 1: 10, 2: 10, 3: 10}


def test_too_little_text_and_text_that_is_not_python_are_refused():
    with pytest.raises(DataError, match="1 documents hold 0 questions; 400 were asked for"):
        build_questions([("short.py", "x = 1\n")])
    with pytest.raises(DataError, match=r"broken\.py does not parse"):
        build_questions([("broken.py", "def broken(:\n")])


@pytest.mark.skipif(find_spec("datasets") is None, reason="needs datasets")
def test_the_dataset_holds_the_file_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = load_questions(version=1.0)["test"]
    assert [dict(row) for row in rows] == shipped()
    names = {
        field.name for field in dataclasses.fields(build_questions(documents().items(), num_questions=4)[0])
    }
    assert set(rows.features) == names
