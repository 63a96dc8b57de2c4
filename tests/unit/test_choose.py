"""Every candidate is tried once, ranked by loss after training, and kept for the record."""

import json

import pytest

from niwaki.errors import EvaluationError, RunError
from niwaki.pruning.choose import choose
from niwaki.pruning.trial import Trial

SHAPES = [{"layer": 2, "ffn": 8}, {"layer": 3, "ffn": 4}, {"layer": 4, "ffn": 2}]
BEFORE = {2: 5.0, 3: 6.0, 4: 7.0}
AFTER = {2: 3.0, 3: 2.0, 4: 2.5}


def untrained(sizes):
    return Trial(sizes=sizes, num_parameters=10 * sizes["layer"], loss_before=BEFORE[sizes["layer"]])


def trained(sizes):
    layer = sizes["layer"]
    curve = ((1, BEFORE[layer]), (2, AFTER[layer]))
    return Trial(sizes, 10 * layer, BEFORE[layer], AFTER[layer], loss_curve=curve, seed=7, num_steps=2)


def test_trained_candidates_are_ranked_by_the_loss_after_training():
    assert [trial.sizes["layer"] for trial in choose(SHAPES, trained).trials] == [3, 4, 2]


def test_untrained_candidates_are_ranked_by_the_loss_before_training(recwarn):
    assert [trial.sizes["layer"] for trial in choose(SHAPES, untrained).trials] == [2, 3, 4]
    assert not recwarn


def test_close_untrained_losses_are_warned_about(monkeypatch):
    monkeypatch.setitem(BEFORE, 4, 5.1)
    with pytest.warns(UserWarning, match="best 2 untrained candidates lie within 3%"):
        choice = choose(SHAPES, untrained)
    assert [trial.sizes["layer"] for trial in choice.undecided] == [2, 4]


def test_the_trials_file_holds_one_json_line_for_each(tmp_path):
    choose(SHAPES, trained, trials_file=tmp_path / "trials.jsonl")
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[1]) == {
        "sizes": {"layer": 3, "ffn": 4},
        "num_parameters": 30,
        "loss_before": 6.0,
        "loss_after": 2.0,
        "loss_curve": [[1, 6.0], [2, 2.0]],
        "seed": 7,
        "num_steps": 2,
        "stopped": None,
    }


@pytest.mark.parametrize("torn", ["", '{"sizes": {"layer": 3'])
def test_a_rerun_skips_finished_trials_and_ends_with_the_same_bytes(tmp_path, torn):
    straight, resumed = tmp_path / "straight.jsonl", tmp_path / "resumed.jsonl"
    expected = choose(SHAPES, trained, trials_file=straight)
    resumed.write_text(straight.read_text().splitlines(keepends=True)[0] + torn)
    tried = []

    def rank(sizes):
        tried.append(sizes)
        return trained(sizes)

    assert choose(SHAPES, rank, trials_file=resumed) == expected
    assert tried == SHAPES[1:]
    assert resumed.read_bytes() == straight.read_bytes()


def test_trials_of_other_candidates_are_refused(tmp_path):
    choose(SHAPES, trained, trials_file=tmp_path / "trials.jsonl")
    with pytest.raises(RunError, match="'layer': 4"):
        choose(SHAPES[:2], trained, trials_file=tmp_path / "trials.jsonl")


@pytest.mark.parametrize("content", ["nonsense\n", '{"sizes": {}}\n'])
def test_a_damaged_trials_file_is_refused(tmp_path, content):
    (tmp_path / "trials.jsonl").write_text(content)
    with pytest.raises(RunError, match="is damaged"):
        choose(SHAPES, trained, trials_file=tmp_path / "trials.jsonl")


def test_a_trial_whose_loss_is_not_finite_is_refused(monkeypatch):
    monkeypatch.setitem(AFTER, 3, float("nan"))
    with pytest.raises(EvaluationError, match="has loss nan"):
        choose(SHAPES, trained)


def test_a_trial_of_another_shape_is_refused():
    with pytest.raises(EvaluationError, match="reports sizes"):
        choose(SHAPES, lambda sizes: trained(SHAPES[0]))


def test_trained_and_untrained_trials_are_not_ranked_together():
    with pytest.raises(EvaluationError, match="some not"):
        choose(SHAPES, lambda sizes: (trained if sizes["layer"] > 2 else untrained)(sizes))


@pytest.mark.parametrize("shapes", [[], [SHAPES[0], SHAPES[0]]])
def test_candidates_must_be_there_and_differ(shapes):
    with pytest.raises(EvaluationError, match="Give different shapes"):
        choose(shapes, trained)
