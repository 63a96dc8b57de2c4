"""The forms of public sets become one record; rows that do not are named, counted and set aside."""

import json

import pytest

from niwaki.curation.adapters import ADAPTERS, adapter
from niwaki.curation.fields import split_options, text, unlabelled
from niwaki.curation.sources import read_source
from niwaki.errors import DataError
from niwaki.verify.question import Question, write_questions

# adapter, a row as the public set has it, question, gold, options, domain
ROWS = [
    (
        "crossthink",
        {
            "meta_data": {"question": "Who?\nA) Ann\nB) Bob", "index": 3},
            "reward_model": {"style": "rule", "ground_truth": "B"},
        },
        "Who?",
        "B",
        ("Ann", "Bob"),
        "gpr",
    ),
    (
        "crossthink",
        {
            "data_source": "nvidia_math",
            "prompt": [{"role": "user", "content": "1 + 1?"}],
            "reward_model": {"ground_truth": "2"},
        },
        "1 + 1?",
        "2",
        None,
        "math",
    ),
    (
        "natural_reasoning",
        {"question": "Why?", "reference_answer": "gravity"},
        "Why?",
        "gravity",
        None,
        "gpr",
    ),
    (
        "mmlu",
        {"question": "Q?", "choices": ["w", "x"], "answer": 1, "subject": "law"},
        "Q?",
        "B",
        ("w", "x"),
        "gpr",
    ),
    (
        "mmlu_auxiliary",
        {"train": {"question": "Q?", "choices": ["w", "x"], "answer": 0}},
        "Q?",
        "A",
        ("w", "x"),
        "gpr",
    ),
    ("mmlu_pro", {"question": "Q?", "options": list("wxyz"), "answer": "C"}, "Q?", "C", tuple("wxyz"), "gpr"),
    (
        "supergpqa",
        {"question": "Q?", "options": list("wx"), "answer_letter": "B"},
        "Q?",
        "B",
        ("w", "x"),
        "gpr",
    ),
    ("numina", {"problem": "P?", "solution": r"So \boxed{\frac{1}{2}}."}, "P?", r"\frac{1}{2}", None, "math"),
    ("math", {"problem": "P?", "answer": "7", "level": "5"}, "P?", "7", None, "math"),
    ("gsm8k", {"question": "P?", "answer": "2*9=<<2*9=18>>18\n#### 18"}, "P?", "18", None, "math"),
    (
        "svamp",
        {"Body": "Two here", "Question": "How many?", "Answer": 51.0},
        "Two here. How many?",
        "51",
        None,
        "math",
    ),
    ("aqua", {"question": "Q?", "options": ["A)1", "B)2"], "correct": "B"}, "Q?", "B", ("1", "2"), "math"),
    (
        "agieval",
        {"passage": "Once.", "question": "Q?", "options": ["(A)w", "(B)x"], "label": "A", "answer": None},
        "Once.\n\nQ?",
        "A",
        ("w", "x"),
        "gpr",
    ),
    (
        "bbh",
        {"input": "Sort?\nOptions:\n(A) up\n(B) down", "target": "(B)"},
        "Sort?",
        "(B)",
        ("up", "down"),
        "gpr",
    ),
    ("bbh", {"input": "not True is", "target": "False"}, "not True is", "False", None, "gpr"),
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.mark.parametrize("form, row, asked, gold, options, domain", ROWS)
def test_a_row_of_every_form(tmp_path, form, row, asked, gold, options, domain):
    [question] = read_source("set", adapter=form, path=write(tmp_path / "r.jsonl", [row]))
    assert (question.question, question.gold, question.options) == (asked, gold, options)
    assert (question.domain, question.source, question.id) == (domain, "set", "set-1")
    assert question.template == ("open" if options is None else "mc")
    assert question.check(rf"\boxed{{{gold}}}").correct


def test_every_adapter_has_a_row_above():
    assert {form for form, *_ in ROWS} | {"gpqa"} == set(ADAPTERS)


def test_gpqa_is_shuffled_the_same_way_every_time(tmp_path):
    wrong = {f"Incorrect Answer {n}": f"wrong {n}" for n in (1, 2, 3)}
    rows = [{"Question": f"Q{n}?", "Correct Answer": "right", **wrong} for n in range(40)]
    path = write(tmp_path / "r.jsonl", rows)
    first, again = (list(read_source("gpqa", adapter="gpqa", path=path)) for _ in range(2))
    assert first == again
    assert all(q.check("right").correct for q in first)
    assert {q.gold for q in first} == set("ABCD")


def test_rows_without_what_is_needed_are_named_and_set_aside(tmp_path):
    good = {"question": "P?", "answer": "#### 18"}
    rows = [
        good,
        {"question": "P?"},
        {"question": ["P?"], "answer": "#### 1"},
        {"question": "P?", "answer": "18"},
        {"question": " ", "answer": "#### 18"},
        "no object",
        good,
    ]
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"broken\n', "utf-8")
    aside = []
    questions = list(read_source("set", adapter="gsm8k", path=str(path), aside=aside.append))
    assert [q.id for q in questions] == ["set-1", "set-7"]
    assert [(one.where, one.problem[:24]) for one in aside] == [
        ("r.jsonl, row 2", "no field 'answer' (field"),
        ("r.jsonl, row 3", "field 'question' is list"),
        ("r.jsonl, row 4", "field 'answer' has no '#"),
        ("r.jsonl, row 5", "question is '' (text); t"),
        ("r.jsonl, row 6", "holds str, no object"),
        ("r.jsonl, row 8", "is not JSON (Invalid con"),
    ]
    with pytest.raises(DataError, match="row 2: no field 'answer'"):
        list(read_source("set", adapter="gsm8k", path=str(path)))


def test_the_wrong_adapter_is_noticed_early(tmp_path):
    path = write(tmp_path / "r.jsonl", [{"question": "P?", "gold": "1"}] * 150)
    with pytest.raises(DataError, match="the first 100 rows are not of the form 'gsm8k'"):
        list(read_source("set", adapter="gsm8k", path=path, aside=lambda one: None))


def test_files_of_all_kinds_say_the_same(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"prompt": f"P{n}?", "answer": str(n)} for n in range(3)]
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "r.jsonl", rows)
    (tmp_path / "r.json").write_text(json.dumps({"version": 1, "data": rows}))
    (tmp_path / "r.csv").write_text("prompt,answer\n" + "".join(f"P{n}?,{n}\n" for n in range(3)))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet")
    columns = {"question": "prompt", "gold": "answer"}
    found = [
        [
            (q.question, q.gold)
            for q in read_source("s", adapter="columns", path=str(tmp_path / name), columns=columns)
        ]
        for name in ("a", "r.json", "r.csv", "r.parquet")
    ]
    assert found == [[("P0?", "0"), ("P1?", "1"), ("P2?", "2")]] * 4


def test_columns_with_options_take_letters_indices_and_texts(tmp_path):
    rows = [{"q": "Q?", "o": ["5", "1", "0"], "g": gold} for gold in ("B", 1, "1")]
    path = write(tmp_path / "r.jsonl", rows)
    columns = {"question": "q", "gold": "g", "options": "o"}
    assert [q.gold for q in read_source("s", adapter="columns", path=path, columns=columns)] == [
        "B",
        "B",
        "B",
    ]


def test_our_own_record_goes_in_and_out(tmp_path):
    question = Question("x", "Q?", "A", "mc", ("a", "b"), "law", "old", "mc", {"k": 1})
    write_questions(tmp_path / "q.jsonl", [question])
    [read] = read_source("new", adapter="questions", path=str(tmp_path / "q.jsonl"))
    assert (read.source, read.domain, read.meta, read.id) == ("new", "law", {"k": 1}, "x")


def test_anyone_can_add_a_form(tmp_path):
    @adapter("diary", domain="gpr")
    def diary(row):
        return {"question": text(row, "asked"), "gold": text(row, "said")}

    try:
        path = write(tmp_path / "r.jsonl", [{"asked": "Q?", "said": "yes"}])
        [question] = read_source("s", adapter="diary", path=path)
        assert (question.question, question.gold) == ("Q?", "yes")
    finally:
        del ADAPTERS["diary"]


def test_a_limit_and_unknown_names(tmp_path):
    path = write(tmp_path / "r.jsonl", [{"question": "P?", "answer": "#### 1"}] * 5)
    assert len(list(read_source("s", adapter="gsm8k", path=path, limit=2))) == 2
    with pytest.raises(DataError, match="no adapter 'gsm9k'"):
        list(read_source("s", adapter="gsm9k", path=path))
    with pytest.raises(DataError, match="nothing is there"):
        list(read_source("s", adapter="gsm8k", path="./none.jsonl"))
    with pytest.raises(DataError, match="no path"):
        list(read_source("s", adapter="agieval"))


def test_options_in_the_text():
    assert split_options("Q?\n\nOptions:\n(A) a\n(B) b") == ("Q?", ("a", "b"))
    assert split_options("Q?\nA) a\nC) c") == ("Q?\nA) a\nC) c", None)
    assert split_options("A) a\nB) b")[1] is None
    assert unlabelled(["A)1", "C)2"]) == ("A)1", "C)2")
