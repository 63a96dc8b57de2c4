"""Items of benchmarks are found in training questions, long and short ones, and innocents are left alone."""

import pytest

from niwaki.curation.decontaminate import Benchmarks
from niwaki.curation.generators import generate
from niwaki.curation.planted import audit
from niwaki.verify.question import Question

LONG = "A merchant from Samarkand buys 12 bolts of blue silk and 7 of red silk and sells all in Tabriz."
RULES = " Express your answer as a common fraction in lowest terms with a positive denominator please."
SHORT = "What is the capital of Burkina Faso?"
CHOICE = "Which of the following is true?"


def items():
    return [
        ("long", Question("long-1", LONG + " How many bolts?", "19")),
        ("rules", Question("rules-1", "What is the probability of two heads?" + RULES, "1/4")),
        ("rules", Question("rules-2", "What is the ratio of the two areas?" + RULES, "2/3")),
        ("short", Question("short-1", SHORT, "Ouagadougou")),
        ("choice", Question("choice-1", CHOICE, "B", options=("Cows fly.", "Cows eat grass.", "Cows sing."))),
        (
            "latex",
            Question("latex-1", r"Find the value of $\left(16 \cdot \frac{a^2}{7} \right)$ at 3.", "2"),
        ),
        ("tiny", Question("tiny-1", "What is 17 * 3?", "51")),
        ("tiny", Question("tiny-2", "Define entropy.", "disorder")),
        ("tiny", Question("tiny-3", "Remarriages are", "A", options=("rare", "common", "new"))),
    ]


@pytest.mark.parametrize(
    "text, fields, item",
    [
        (LONG + " How many bolts?", {}, "long-1"),
        ("Think hard! " + LONG.upper().replace(" ", "  ") + " What did he sell?", {}, "long-1"),
        (LONG.replace("12", "13").replace("7", "9"), {}, None),
        (r"FIND THE VALUE OF \LEFT(16 \CDOT \FRAC{A^2}{7} \RIGHT) AT 3.", {"gold": "2"}, "latex-1"),
        ("How many odd numbers are there?" + RULES, {}, None),
        ("What is the ratio of the two areas?" + RULES, {"gold": "2/3"}, "rules-2"),
        (SHORT, {"gold": "Ouagadougou"}, "short-1"),
        (f"Solve this. {SHORT} Answer briefly.", {"gold": "ouagadougou"}, "short-1"),
        ("What is the capital of Mali?", {"gold": "Bamako"}, None),
        (CHOICE, {"gold": "A", "options": ("Cows eat grass.", "Cows sing.", "Cows fly.")}, "choice-1"),
        (CHOICE, {"gold": "A", "options": ("Fish swim.", "Fish walk.", "Fish talk.")}, None),
        (CHOICE, {"gold": "Cows eat grass."}, "choice-1"),
        (CHOICE, {"gold": "Fish swim."}, None),
        ("What is 17 * 3?", {"gold": "51"}, "tiny-1"),
        ("Please say: what is 17 * 3? Thank you.", {"gold": "51"}, "tiny-1"),
        ("What is 17 + 3?", {"gold": "20"}, None),
        ("Define entropy.", {"gold": "disorder"}, "tiny-2"),
        ("Look at the box. Define entropy. Then stop.", {"gold": "disorder"}, None),
        ("Now think. Remarriages are ...", {"gold": "B", "options": ("new", "rare", "common")}, "tiny-3"),
        ("Now think. Remarriages are ...", {"gold": "B", "options": ("new", "rare", "old")}, None),
        ("", {}, None),
    ],
)
def test_what_is_found(text, fields, item):
    fields = {"gold": "?"} | fields
    hit = Benchmarks(items()).find(Question("q", text or "?", **fields))
    assert (hit.item if hit else None) == item
    if hit:
        assert hit.words
        assert hit.benchmark == item.split("-")[0]


def test_shared_text_of_items_is_no_evidence():
    benchmarks = Benchmarks(items())
    assert benchmarks.num_boilerplate > 0
    assert benchmarks.num_items == {"long": 1, "rules": 2, "short": 1, "choice": 1, "latex": 1, "tiny": 3}


def test_formulas_of_the_same_words_are_told_apart():
    """202 of 700 training formulas were once called copies of 100 held-out ones."""
    train = list(generate("truth_value", num_questions=700, split="train", difficulty=1, seed=0))
    test = list(generate("truth_value", num_questions=100, split="test", difficulty=1, seed=0))
    benchmarks = Benchmarks(("test", item) for item in test)
    assert [item.question for item in train if benchmarks.find(item)] == []
    assert all(benchmarks.find(item) for item in test)


def test_no_benchmarks_find_nothing():
    assert Benchmarks([]).find(Question("q", LONG, "1")) is None


def test_planted_copies_are_found_and_innocents_left_alone():
    tasks = list(generate(num_questions=150, split="test", difficulty=4))
    tasks += list(generate(num_questions=150, split="test", difficulty=3, template="mc", seed=1))
    result = audit(Benchmarks([("made-up", one) for one in tasks]), tasks, num_items=200)
    assert result.num_found >= 0.98 * result.num_copies
    assert result.num_accused <= 0.01 * result.num_innocents
    figures = result.as_dict()
    assert figures["recall"]["low"] < figures["recall"]["mean"] <= 1
    assert set(figures["by_kind"]) >= {"verbatim", "other layout", "shuffled options", "other numbers"}
