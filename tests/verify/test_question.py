"""The record of a question and its file."""

import json

import pytest

from niwaki.errors import DataError
from niwaki.verify.question import Question, read_questions, write_questions
from niwaki.verify.verdict import Type

QUESTIONS = [
    Question("a-1", "What is a half of 1?", r"\frac{1}{2}", domain="math", source="mine"),
    Question("a-2", "Which city?", "B", Type.MC, ("Rome", "Paris"), "gpr", "mine", "mc", {"pass": [1, 8]}),
    Question("a-3", "Wie heißt er?\nUnd warum?", "", Type.TEXT),
]


def test_a_file_gives_the_same_questions_back(tmp_path):
    assert write_questions(tmp_path / "q.jsonl", iter(QUESTIONS)) == 3
    assert list(read_questions(tmp_path / "q.jsonl")) == QUESTIONS
    assert len((tmp_path / "q.jsonl").read_text("utf-8").splitlines()) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]


def test_a_question_grades_with_its_own_options():
    assert QUESTIONS[0].check("0.5").correct
    assert QUESTIONS[1].check(r"So \boxed{B}").correct
    assert QUESTIONS[1].check(r"\boxed{Paris}").correct
    assert not QUESTIONS[1].check(r"\boxed{Rome}").correct
    assert not QUESTIONS[2].check("anything").correct


def test_fields_that_are_left_out():
    row = {"id": "1", "question": "Q?", "gold": "A"}
    assert Question.from_row(row, where="here") == Question("1", "Q?", "A")
    assert Question.from_row({**row, "options": ["x", "y"]}, where="here").template == "mc"
    assert Question.from_row({**row, "options": None, "meta": None}, where="here").template == "open"


@pytest.mark.parametrize(
    "row, says",
    [
        ("[1]", "row 2: holds a list"),
        ('{"id": "1", "question": "Q"}', "row 2: has no field 'gold' (fields: id, question)"),
        ('{"id": "1", "question": "Q", "gold": 5}', "row 2: gold is 5 (a value of type int); text was"),
        ('{"id": "1", "question": "Q", "gold": null}', "row 2: gold is None (nothing)"),
        (
            '{"id": "1", "question": " ", "gold": "5"}',
            "row 2: question is ' ' (text); text that is not empty",
        ),
        ('{"id": "1", "question": "Q", "gold": "5", "options": ["a", 2]}', "row 2: options is ['a', 2]"),
        ('{"id": "1", "question": "Q", "gold": "5", "options": []}', "row 2: options is []"),
        ('{"id": "1", "question": "Q", "gold": "5", "type": "maths"}', "row 2: type is 'maths'"),
        ('{"id": "1", "question": "Q", "gold": "5", "answer": "5"}', "row 2: has an unknown field 'answer'"),
        ('{"id": "1", "question": "Q", "gold": "5"', "row 2: is not JSON"),
    ],
)
def test_a_row_that_is_no_question_is_named(tmp_path, row, says):
    good = json.dumps(QUESTIONS[0].as_row())
    (tmp_path / "q.jsonl").write_text(f"{good}\n{row}\n", "utf-8")
    rows = read_questions(tmp_path / "q.jsonl")
    assert next(rows) == QUESTIONS[0]
    with pytest.raises(DataError) as error:
        next(rows)
    assert says in str(error.value)


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        next(read_questions(tmp_path / "none.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    with pytest.raises(DataError, match="is not UTF-8"):
        next(read_questions(tmp_path / "latin.jsonl"))


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    write_questions(tmp_path / "q.jsonl", QUESTIONS)
    with pytest.raises(DataError, match=r"'b'.*cannot be written"):
        write_questions(tmp_path / "q.jsonl", [Question("b", "Q", "1", meta={"x": {1, 2}})])
    assert list(read_questions(tmp_path / "q.jsonl")) == QUESTIONS
