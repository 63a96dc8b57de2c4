"""Curation as a whole: the funnel adds up, a killed run goes on to the same result, bad rows stop nothing."""

import json
from collections import Counter

import pytest

from niwaki.curation import first_pass
from niwaki.curation.curate import curate
from niwaki.curation.generators import generate
from niwaki.curation.sources import Aside, read_source
from niwaki.errors import DataError
from niwaki.verify.question import Question, read_questions


def stream(questions, aside=()):
    def read(put_aside):
        for one in aside:
            put_aside(one)
        yield from questions

    return read


def questions(prefix, count=24, **settings):
    settings = {"split": "train", "difficulty": 3, **settings}
    return [
        Question(f"{prefix}-{q.id}", q.question, q.gold, q.type, q.options, q.domain, prefix, q.template)
        for q in generate(num_questions=count, **settings)
    ]


@pytest.fixture
def sources():
    test = questions("test", split="test")
    one, other = questions("one"), questions("other", seed=1, template="mc")
    bad = [
        Question("bad-1", "What is it?", "", domain="math", source="one"),
        Question("bad-2", "Which is it?", "D", options=("x", "y"), source="one"),
    ]
    again = [Question(f"again-{q.id}", q.question.upper(), q.gold, q.type, source="other") for q in one[:5]]
    leaked = [Question(f"leak-{q.id}", q.question, q.gold, q.type, source="other") for q in test[:4]]
    asides = [Aside("one", "row 7", "has no gold", "{}")]
    return (
        {"one": stream([*one, *bad], asides), "other": stream([*other, *again, *leaked])},
        {"bench": stream(test)},
    )


def run(sources, out, **settings):
    return curate(sources[0], out, benchmarks=sources[1], workers=1, **settings)


def rows(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_funnel_adds_up_and_every_drop_is_written_down(sources, tmp_path):
    summary = run(sources, tmp_path)
    kept, dropped = list(read_questions(tmp_path / "questions.jsonl")), rows(tmp_path / "dropped.jsonl")
    one, other = summary["sources"]["one"], summary["sources"]["other"]
    assert one == {
        "aside": 1,
        "questions": 26,
        "dropped": {"empty_gold": 1, "gold_not_an_option": 1},
        "kept": {"open": 24},
    }
    assert other["dropped"] == {"contaminated": 4, "duplicate": 5}
    assert other["questions"] == 33
    assert other["kept"] == {"mc": 24}
    assert len(kept) == summary["num_questions"] == 48
    reasons = Counter(row["reason"] for row in dropped)
    assert reasons == {"empty_gold": 1, "gold_not_an_option": 1, "contaminated": 4, "duplicate": 5}
    [leak] = [row for row in dropped if row["question"]["id"].startswith("leak")][:1]
    assert leak["evidence"]["item"] == leak["question"]["id"].removeprefix("leak-")
    [copy] = [row for row in dropped if row["question"]["id"].startswith("again")][:1]
    assert copy["evidence"] == {"of": copy["question"]["id"].removeprefix("again-"), "similarity": 1.0}
    assert summary["contamination"]["found"] == {"other": {"bench": 4}}
    assert summary["contamination"]["planted"]["num_accused"] == 0
    assert rows(tmp_path / "aside.jsonl") == [
        {"source": "one", "where": "row 7", "problem": "has no gold", "row": "{}"}
    ]
    assert json.loads((tmp_path / "curation.json").read_text("utf-8")) == json.loads(json.dumps(summary))
    assert len(list(read_questions(tmp_path / "benchmarks" / "bench.jsonl"))) == 24
    assert not (tmp_path / "work").exists()


def test_two_processes_find_the_same(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(first_pass, "BLOCK_ROWS", 10)
    run(sources, tmp_path / "one")
    curate(sources[0], tmp_path / "two", benchmarks=sources[1], workers=2)
    for name in ("questions.jsonl", "dropped.jsonl", "aside.jsonl"):
        assert (tmp_path / "one" / name).read_text("utf-8") == (tmp_path / "two" / name).read_text("utf-8")


@pytest.mark.parametrize("killed_at", [0, 2, 5])
def test_a_killed_run_goes_on_to_the_same_result(sources, tmp_path, monkeypatch, killed_at):
    monkeypatch.setattr(first_pass, "BLOCK_ROWS", 10)
    run(sources, tmp_path / "straight", open_template="mc")
    look, looked = first_pass._look, []

    def dies(block, folder, place):
        if place == killed_at and not looked:
            looked.append(place)
            (folder / f"{place:06d}.npz").write_bytes(b"half")
            raise KeyboardInterrupt
        look(block, folder, place)

    monkeypatch.setattr(first_pass, "_look", dies)
    with pytest.raises(KeyboardInterrupt):
        run(sources, tmp_path / "killed", open_template="mc")
    again = []
    monkeypatch.setattr(first_pass, "_look", lambda *block: (again.append(block[2]), look(*block)))
    run(sources, tmp_path / "killed", open_template="mc")
    assert again == list(range(killed_at, 6))
    for name in ("questions.jsonl", "dropped.jsonl", "aside.jsonl"):
        assert (tmp_path / "straight" / name).read_text() == (tmp_path / "killed" / name).read_text()


def test_templates_change_forms_and_are_audited(tmp_path):
    mc = [
        Question(
            "m-1", "Who wrote Hamlet?", "B", options=("Marlowe", "Shakespeare"), source="mc", template="mc"
        ),
        Question(
            "m-2",
            "Which of the following is a fish?",
            "A",
            options=("cod", "cow"),
            source="mc",
            template="mc",
        ),
        Question("m-3", "Why?", "A", options=(" ".join("abcdefghijkl"), "no"), source="mc", template="mc"),
    ]
    sums = [q for q in questions("sums", 60) if q.type == "number"]
    sources = {"mc": stream(mc), "sums": stream(sums)}
    summary = curate(sources, tmp_path / "out", mc_template="open", open_template="mc", workers=1)
    kept = {q.id: q for q in read_questions(tmp_path / "out" / "questions.jsonl")}
    assert kept["m-1"].gold == "Shakespeare"
    assert summary["sources"]["mc"]["dropped"] == {"points_at_options": 1, "open_long_gold": 1}
    audit = summary["templates"]["to_open"]
    assert (audit["changed"], audit["dropped"]) == (1, {"points_at_options": 1, "open_long_gold": 1})
    assert audit["examples"]["points_at_options"][0]["id"] == "m-2"
    letters = summary["gold_letters"]["sums"]
    assert max(letters.values()) - min(letters.values()) <= 1
    both = curate(sources, tmp_path / "both", mc_template="both", workers=1)
    assert both["sources"]["mc"]["kept"] == {"mc": 3, "open": 1}
    assert "m-1-open" in {q.id for q in read_questions(tmp_path / "both" / "questions.jsonl")}


def test_the_same_question_with_another_answer_is_told_apart(tmp_path):
    text = "How many apples does the merchant from the old town sell on a rainy day in March?"
    asked = [Question("a", text, "3", source="s"), Question("b", text, "4", source="s")]
    assert curate({"s": stream(asked)}, tmp_path, workers=1)["sources"]["s"]["dropped"] == {
        "duplicate_with_other_gold": 1
    }


def test_a_source_with_bad_rows_is_kept_going(tmp_path):
    good = [json.dumps(q.as_row()) for q in questions("one")]
    (tmp_path / "s.jsonl").write_text("\n".join([*good[:9], '{"id": 1}', "garbage", *good[9:]]), "utf-8")

    def source(aside):
        return read_source("s", adapter="questions", path=str(tmp_path / "s.jsonl"), aside=aside)

    summary = curate({"s": source}, tmp_path / "out", workers=1)
    assert summary["sources"]["s"]["aside"] == 2
    assert [one["where"] for one in summary["aside_examples"]["s"]] == ["s.jsonl, row 10", "s.jsonl, row 11"]
    assert summary["num_questions"] == 24


def test_nothing_kept_and_empty_benchmarks_are_errors(tmp_path):
    empty = [Question("a", "Why?", "", domain="math", source="s")]
    with pytest.raises(DataError, match="no question was kept of 1; most were dropped as empty_gold"):
        curate({"s": stream(empty)}, tmp_path / "out", workers=1)
    with pytest.raises(DataError, match="benchmark 'b': has no questions"):
        curate({"s": stream(questions("s"))}, tmp_path / "two", benchmarks={"b": stream(empty)}, workers=1)
