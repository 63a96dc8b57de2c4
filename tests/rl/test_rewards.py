"""The reward is accuracy AND form, in one function, and nothing earns by accident."""

import threading
import time

import pytest

from niwaki.errors import RecipeError, TrainingError
from niwaki.rl.extra import Guarded
from niwaki.rl.form import Form, form_of
from niwaki.rl.order import Order
from niwaki.rl.rewards import Completion, grader
from niwaki.rl.rollouts import Rollout, summary
from niwaki.verify.question import Question

QUESTION = Question("q", "How much is 6 * 7?", "42", domain="math")
RIGHT, WRONG = "<think>6 * 7</think>\\boxed{42}", "<think>6 + 7</think>\\boxed{13}"
BARE_RIGHT, BARE_WRONG = "The answer is 42", "The answer is 13"


def completion(text, question=QUESTION, *, ended=True):
    return Completion(question, text, len(text), ended)


@pytest.mark.parametrize(
    "rule, rewards",
    [
        ("and", [1.0, 0.0, 0.0, 0.0]),  # golden: acc and format (1,1) -> 1; (1,0), (0,1), (0,0) -> 0
        ("sum", [1.0, 0.5, 0.5, 0.0]),
        ("accuracy", [1.0, 1.0, 0.0, 0.0]),
    ],
)
def test_rules(rule, rewards):
    answers = [completion(text) for text in (RIGHT, BARE_RIGHT, WRONG, BARE_WRONG)]
    assert [grade.reward for grade in grader(rule)(answers)] == rewards


@pytest.mark.parametrize(
    "text, form",
    [
        (RIGHT, Form.OK),
        ("<think></think>\nIt is \\boxed{42}.", Form.OK),
        ("<think>a \\boxed{1}</think>\\boxed{42}", Form.OK),
        ("\\boxed{42}", Form.NO_THOUGHT),
        ("Well, <think>x</think>\\boxed{42}", Form.TEXT_BEFORE_THOUGHT),
        ("<think>x</think><think>y</think>\\boxed{42}", Form.SEVERAL_THOUGHTS),
        ("<think>x\\boxed{42}", Form.UNFINISHED_THOUGHT),
        ("<think>x \\boxed{42}</think>", Form.NO_BOX),
        ("<think>x</think>\\boxed{42", Form.UNCLOSED_BOX),
        ("<think>x</think>\\boxed{ }", Form.EMPTY_BOX),
    ],
)
def test_forms(text, form):
    assert form_of(text) is form


def test_an_answer_cut_by_the_limit_earns_nothing_under_any_rule():
    cut = completion(RIGHT, ended=False)
    for rule in ("and", "sum", "accuracy"):
        [grade] = grader(rule)([cut])
        assert (grade.reward, grade.correct, grade.reason) == (0.0, False, "truncated")


def test_a_thought_that_the_prompt_opened_is_part_of_the_form():
    [grade] = grader(thought_is_open=True)([completion("6 * 7</think>\\boxed{42}")])
    assert grade.reward == 1.0
    [grade] = grader()([completion("6 * 7</think>\\boxed{42}")])
    assert grade.reward == 0.0


def test_exact_is_the_papers_rule_and_typed_reads_values():
    half = Question("h", "1/2?", "\\frac{1}{2}")
    answer = completion("<think></think>\\boxed{0.5}", half)
    assert grader(accuracy="typed")([answer])[0].reward == 1.0
    assert grader(accuracy="exact")([answer])[0].reward == 0.0


def test_an_unreadable_gold_is_never_rewarded():
    for gold in ("", "  ", "\\boxed{"):
        broken = Question("b", "?", gold)
        [grade] = grader()([completion("<think></think>\\boxed{}", broken)])
        assert grade.reward == 0.0


def test_what_cannot_be_graded_earns_nothing_and_does_not_stop_the_batch():
    class Broken(Question):
        def check(self, answer, **options):
            raise RuntimeError("no grader")

    broken = Broken("b", "?", "42")
    grades = grader()([completion(RIGHT, broken), completion(RIGHT)])
    assert [(g.reward, g.reason) for g in grades] == [(0.0, "grader_error"), (1.0, "same_text")]
    with pytest.raises(TrainingError, match=r"Not one of 2 answers .*no grader"):
        grader()([completion(RIGHT, broken)] * 2)


def test_hostile_answers_of_a_whole_batch_end_in_time():
    tower = completion("<think></think>\\boxed{" + "9^" * 300 + "9}")
    began = time.monotonic()
    grades = grader(limit_s=0.5, batch_limit_s=1.0)([tower] * 64)
    assert all(grade.reward == 0.0 for grade in grades)
    assert time.monotonic() - began < 30  # 64 verdicts of half a second each would take longer


def test_the_random_control_knows_nothing_of_the_answer():
    answers = [completion(text) for text in [RIGHT, BARE_WRONG] * 200]
    rewards = [grade.reward for grade in grader("random")(answers)]
    assert set(rewards) == {0.0, 1.0}
    assert abs(sum(rewards[::2]) - sum(rewards[1::2])) < 60
    assert rewards == [grade.reward for grade in grader("random")(answers)]
    assert rewards != [grade.reward for grade in grader("random", seed=1)(answers)]


def test_an_unknown_rule_is_refused_by_name():
    with pytest.raises(RecipeError, match="'both'"):
        grader("both")


def test_a_reward_that_raises_hangs_or_returns_no_number_pays_nothing():
    def nonsense(*, completions, **columns):
        return [float("nan"), float("inf"), "x", None][: len(completions)]

    assert Guarded(nonsense, name="odd")(completions=list("abcd")) == [0.0, 0.0, 0.0, None]

    def hangs(*, completions, **columns):
        threading.Event().wait(60)

    slow = Guarded(hangs, name="slow", limit_s=0.05)
    assert slow(completions=["a"]) == [0.0]
    assert slow(completions=["a"]) == [0.0]
    with pytest.raises(TrainingError, match=r"'slow' failed 3 times in a row: no answer within 0\.05 s"):
        slow(completions=["a"])


def test_failures_are_counted_in_a_row():
    turns = iter([True, True, False, True, True])

    def sometimes(*, completions, **columns):
        if next(turns):
            raise ValueError("now and then")
        return [1.0] * len(completions)

    guarded = Guarded(sometimes, name="flaky")
    assert [guarded(completions=["a"])[0] for _ in range(5)] == [0.0, 0.0, 1.0, 0.0, 0.0]
    assert guarded.num_failures == 4


def test_a_reward_for_other_completions_than_were_asked_about_pays_nothing():
    assert Guarded(lambda **_: [1.0], name="short")(completions=["a", "b"]) == [0.0, 0.0]


def rollouts(rewards_by_group):
    grade = grader()
    rows = []
    for group, (domain, texts) in enumerate(rewards_by_group):
        question = Question(f"q{group}", "How much is 6 * 7?", "42", domain=domain)
        answers = [completion(text, question) for text in texts]
        rows += [Rollout(group, a, g) for a, g in zip(answers, grade(answers), strict=True)]
    return rows


def test_groups_without_signal_are_counted_by_what_they_lack():
    counts = summary(
        rollouts([("math", [RIGHT] * 4), ("math", [WRONG] * 4), ("law", [RIGHT, WRONG, WRONG, WRONG])])
    )
    assert (counts["groups"], counts["groups_all_right"], counts["groups_all_wrong"]) == (3, 1, 1)
    assert counts["domains"]["law"]["groups_all_wrong"] == 0
    assert counts["reasons"] == {"different": 7, "same_text": 5}


def test_counts_of_domains_add_up_to_those_of_the_whole():
    counts = summary(rollouts([("math", [RIGHT, WRONG]), ("law", [WRONG, BARE_RIGHT])]))
    for name in ("rollouts", "reward", "right", "well_formed", "tokens", "groups"):
        assert counts[name] == sum(domain[name] for domain in counts["domains"].values())
    assert counts["domains"]["law"]["right"] == 1
    assert counts["domains"]["law"]["reward"] == 0


def test_order_asks_the_file_first_and_then_everything_again_in_another_order():
    questions = [Question(str(i), "?", "1") for i in range(7)]
    order = Order(questions, seed=3)
    asked = [order[place].id for place in range(21)]
    assert asked[:7] == [q.id for q in questions]
    assert sorted(asked[7:14]) == sorted(asked[14:]) == sorted(asked[:7])
    assert asked[7:14] != asked[14:]
    assert [Order(questions, seed=3)[place].id for place in (20, 3, 9)] == [asked[20], asked[3], asked[9]]
