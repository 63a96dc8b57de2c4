"""`niwaki compare`: models of finished runs in pairs, on the same rows and questions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from niwaki.cli import EXIT_USER_ERROR, app
from niwaki.errors import EvaluationError, RunError
from niwaki.evaluation.paired import Measure, Paired, difference, load_paired, rows_hash, save_paired
from niwaki.ground.stats import paired_difference
from niwaki.ground.stream import Rows
from niwaki.pipelines.compare_runs import compare_runs

NUM_ROWS = 40
TOKENS = [int(count) for count in np.random.default_rng(7).integers(5, 20, NUM_ROWS)]


def column(shift: float, seed: int) -> list[float]:
    """Sums of nats for each row: hard and easy rows, the same in every model, plus `shift` a token."""
    common = np.random.default_rng(0).normal(4, 1.5, NUM_ROWS)
    noise = np.random.default_rng(seed).normal(shift, 0.02, NUM_ROWS)
    return list((common + noise) * TOKENS)


def write_run(folder: Path, shift: float, *, seed: int = 1, units: str = "a", questions: str = "q") -> Path:
    values = {"teacher": column(-1, 0), "trimmed": column(3, 5), "distilled": column(shift, seed)}
    answers = {name: [float(i % 3 != index) for i in range(NUM_ROWS)] for index, name in enumerate(values)}
    measures = {
        "held-out loss": Measure("nats per token", False, units, values, TOKENS),
        "next_line acc": Measure("mean over questions", True, questions, answers),
    }
    (folder / "5-evaluate").mkdir(parents=True)
    save_paired(folder / "5-evaluate" / "paired.json", Paired("distilled", "teacher", measures))
    return folder


def test_what_is_saved_reads_back(tmp_path):
    run = write_run(tmp_path / "a", 0.0)
    path = run / "5-evaluate" / "paired.json"
    paired = load_paired(path)
    assert (paired.product, paired.baseline) == ("distilled", "teacher")
    assert paired.measures["held-out loss"].values["trimmed"] == column(3, 5)
    assert paired.measures["next_line acc"].counts is None
    assert len(path.read_text().splitlines()) < 20  # a line for each model, for people who open it
    save_paired(path, paired)
    assert load_paired(path) == paired


def test_a_small_difference_is_seen_because_rows_are_paired(tmp_path):
    runs = [
        write_run(tmp_path / name, shift, seed=seed) for name, shift, seed in (("a", 0, 1), ("b", -0.05, 2))
    ]
    found = compare_runs(runs)
    loss = found["measures"][0]
    first, second = loss["models"]
    assert (first["verdict"], second["verdict"]) == (None, "better")
    assert first["difference"] is None
    expected = paired_difference(column(-0.05, 2), column(0, 1), counts=TOKENS)
    assert second["difference"] == pytest.approx(vars(expected))
    assert second["difference"]["high"] < 0
    # The intervals of the two means overlap by far: without pairs there is nothing to see.
    assert second["mean"]["high"] > first["mean"]["low"]
    assert compare_runs(runs[::-1])["measures"][0]["models"][1]["verdict"] == "worse"


def test_for_accuracies_more_is_better_and_equal_answers_leave_it_open(tmp_path):
    runs = [write_run(tmp_path / name, 0.0) for name in "ab"]
    found = compare_runs(runs)
    assert [m["models"][1]["verdict"] for m in found["measures"]] == ["open", "open"]
    paired = load_paired(runs[1] / "5-evaluate" / "paired.json")
    paired.measures["next_line acc"].values["distilled"][:] = [1.0] * NUM_ROWS
    save_paired(runs[1] / "5-evaluate" / "paired.json", paired)
    assert compare_runs(runs)["measures"][1]["models"][1]["verdict"] == "better"


def test_one_run_is_its_models_against_the_one_it_began_with(tmp_path):
    found = compare_runs([write_run(tmp_path / "a", 0.0)])
    models = found["measures"][0]["models"]
    assert [m["model"] for m in models] == ["teacher", "trimmed", "distilled"]
    assert [m["verdict"] for m in models] == [None, "worse", "worse"]
    assert models[1]["difference"]["mean"] == pytest.approx(4, abs=0.1)


def test_a_family_is_its_members_and_a_model_can_be_named(tmp_path):
    for name in ("1-50pct", "2-25pct"):
        write_run(tmp_path / "family" / name, 0.0)
    found = compare_runs([tmp_path / "family"], model="trimmed")
    assert [(Path(m["run"]).name, m["model"]) for m in found["measures"][0]["models"]] == [
        ("1-50pct", "trimmed"),
        ("2-25pct", "trimmed"),
    ]
    with pytest.raises(RunError, match="no model 'random'"):
        compare_runs([tmp_path / "family"], model="random")


def test_other_rows_are_no_pairs(tmp_path):
    one, two = write_run(tmp_path / "a", 0.0), write_run(tmp_path / "b", 0.0, units="other")
    found = compare_runs([one, two])
    assert [m["measure"] for m in found["measures"]] == ["next_line acc"]
    assert [(each["measure"], each["run"]) for each in found["left_out"]] == [("held-out loss", str(two))]
    with pytest.raises(EvaluationError, match="nothing to compare"):
        compare_runs([one, write_run(tmp_path / "c", 0.0, units="other", questions="other")])
    paired = load_paired(one / "5-evaluate" / "paired.json").measures
    with pytest.raises(EvaluationError, match="no pairs"):
        difference(paired["held-out loss"], "teacher", paired["next_line acc"], "teacher")


def test_the_hash_knows_tokens_length_and_number_of_rows():
    tokens = np.arange(100)
    rows = Rows(tokens, sequence_length=10)
    other = np.where(tokens == 39, 0, tokens)
    same = [rows_hash(rows, 4), rows_hash(Rows(tokens.astype("<u2"), sequence_length=10), 4)]
    assert len(set(same)) == 1
    assert rows_hash(rows, 3) not in same
    assert rows_hash(Rows(tokens, sequence_length=8), 5) not in same
    assert rows_hash(Rows(other, sequence_length=10), 4) not in same
    assert rows_hash(Rows(other, sequence_length=10), 3) == rows_hash(rows, 3)


@pytest.mark.parametrize(
    "damage", ["{", '{"measures": []}', '{"product": "a", "baseline": "b", "measures": {"m": {}}}']
)
def test_a_damaged_file_is_named(tmp_path, damage):
    run = write_run(tmp_path / "a", 0.0)
    (run / "5-evaluate" / "paired.json").write_text(damage)
    with pytest.raises(EvaluationError, match=r"paired\.json"):
        compare_runs([run])


def test_the_verb(tmp_path):
    runs = [str(write_run(tmp_path / name, shift)) for name, shift in (("a", 0.0), ("b", 0.5))]
    shown = CliRunner().invoke(app, ["compare", *runs])
    assert shown.exit_code == 0
    assert "worse" in shown.stdout
    assert "40 pairs; lower is better" in shown.stdout
    asked = CliRunner().invoke(app, ["compare", *runs, "--json", "--confidence", "0.9"])
    assert json.loads(asked.stdout)["confidence"] == 0.9
    nothing = CliRunner().invoke(app, ["compare", str(tmp_path)])
    assert nothing.exit_code == 0  # the two lie in one folder, as members of a family do
    empty = CliRunner().invoke(app, ["compare", str(tmp_path / "a" / "5-evaluate")])
    assert empty.exit_code == EXIT_USER_ERROR
    assert "older niwaki" in empty.stderr
