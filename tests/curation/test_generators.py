"""Made-up questions: right, graded, split by construction."""

import itertools
import re
from fractions import Fraction

import pytest

from niwaki.curation.generators import DOMAINS, TASKS, generate, split_of
from niwaki.errors import DataError

EVERY = [(name, level) for name in TASKS for level in (1, 3, 5)]


@pytest.mark.parametrize("name, level", EVERY)
def test_gold_and_nothing_else_is_accepted(name, level):
    for question in generate(name, num_questions=30, split="train", difficulty=level):
        assert question.check(rf"I think it is \boxed{{{question.gold}}}.").correct, question
    for question in generate(name, num_questions=30, split="train", difficulty=level, template="mc"):
        assert len(set(question.options)) == len(question.options) >= 2
        right = [option for option in question.options if question.check(option).correct]
        assert right == [question.options["ABCD".index(question.gold)]], question


@pytest.mark.parametrize("name", TASKS)
def test_training_and_test_share_no_question(name):
    sides = {
        split: {
            question.question
            for seed, level in itertools.product((0, 1), (1, 2))
            for question in generate(name, num_questions=40, split=split, difficulty=level, seed=seed)
        }
        for split in ("train", "test")
    }
    assert not sides["train"] & sides["test"]
    assert all(split_of(text) == side for side, texts in sides.items() for text in texts)


def test_the_same_seed_gives_the_same_questions_and_another_seed_others():
    first, again, other = (
        [question.question for question in generate(num_questions=60, split="train", seed=seed)]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert len(set(first)) == 60
    assert len(set(first) & set(other)) < 20


def test_open_and_multiple_choice_ask_the_same_questions():
    open_, mc = (
        list(generate(num_questions=60, split="test", template=template)) for template in ("open", "mc")
    )
    assert [q.question for q in open_] == [q.question for q in mc]
    assert [q.gold for q in open_] == [q.options["ABCD".index(q.gold)] for q in mc]
    assert {q.domain for q in mc} == set(DOMAINS)


def test_gold_is_at_every_place():
    places = [
        q.gold for q in generate("addition", num_questions=200, split="train", difficulty=3, template="mc")
    ]
    assert all(places.count(letter) > 30 for letter in "ABCD")


def test_sums_and_chains_are_right():
    def value(text):
        return eval(
            re.sub(r"(\d+)", r"Fraction(\1)", text), {"Fraction": Fraction}
        )  # our own arithmetic only

    names = ["addition", "subtraction", "multiplication", "arithmetic_chain", "fraction_sum"]
    for question in generate(names, num_questions=200, split="train", difficulty=3):
        asked = re.fullmatch(r"What is ([\d+*/ -]+)\?", question.question)[1]
        assert value(asked) == Fraction(question.gold)


def test_truth_values_are_right():
    for question in generate("truth_value", num_questions=100, split="train", difficulty=3):
        formula = question.question.removeprefix("Is this true or false: ").removesuffix("?")
        assert str(eval(formula.replace("true", "True").replace("false", "False"))).lower() == question.gold


def test_more_than_there_are_and_unknown_names_are_refused():
    with pytest.raises(DataError, match="task 'subtraction': fewer than"):
        list(generate("subtraction", num_questions=1000, split="train"))
    with pytest.raises(DataError, match="no task or domain 'chess'"):
        list(generate(["logic", "chess"], num_questions=1, split="train"))
    with pytest.raises(DataError, match="difficulty is 6"):
        list(generate("logic", num_questions=1, split="train", difficulty=6))


def test_worked_solutions_are_right_step_by_step():
    steps = 0
    for task in TASKS:
        for difficulty in (1, 3):
            for question in generate(task, num_questions=30, split="train", difficulty=difficulty, seed=5):
                for step in re.findall(r"(?:^|, )([^,<>]+?) = ([^,]+)", question.meta.get("solution", "")):
                    expression = step[0].replace("true", "True").replace("false", "False")
                    assert str(eval(expression, {"__builtins__": {}})).lower() == step[1], question
                    steps += 1
    assert steps > 500


@pytest.mark.parametrize("task", ["arithmetic_chain", "truth_value", "remainder", "weekday_after"])
def test_worked_solutions_end_with_the_answer(task):
    for question in generate(task, num_questions=50, split="train", seed=6):
        assert question.meta.get("solution", question.gold).split()[-1] in (question.gold, "0")


def test_tasks_without_a_worked_solution_have_none():
    [question] = generate("liar", num_questions=1, split="train")
    assert "solution" not in question.meta
