"""Halving stops the worse half at every rung, compares equals only, and forgets nothing when killed."""

import json

import pytest

from niwaki.errors import EvaluationError, RunError
from niwaki.pruning.halving import field_sizes, halve, rung_steps, total_steps
from niwaki.pruning.trial import Trial

SHAPES = [{"layer": number} for number in range(1, 6)]
RUNGS = (10, 20, 40)
# Loss of the candidate with so many layers at each rung: 4 starts badly, and would have been best.
LOSSES = {
    1: {10: 5.0, 20: 4.0, 40: 3.0},
    2: {10: 4.5, 20: 3.9, 40: 3.1},
    3: {10: 6.0, 20: 5.0, 40: 2.0},
    4: {10: 9.0, 20: 1.0, 40: 0.5},
    5: {10: 7.0, 20: 6.0, 40: 5.0},
}


class Trainer:
    """Ranks from the table; keeps what it was asked."""

    def __init__(self, fail_after=None):
        self.calls, self.dropped, self.fail_after = [], [], fail_after

    def rank(self, sizes, until_step, so_far):
        if len(self.calls) == self.fail_after:
            raise KeyboardInterrupt
        self.calls.append((sizes["layer"], until_step, so_far and so_far.num_steps))
        curve = tuple(sorted((s, loss) for s, loss in LOSSES[sizes["layer"]].items() if s <= until_step))
        return Trial(sizes, 10, 9.9, curve[-1][1], loss_curve=curve, num_steps=until_step)

    def drop(self, sizes):
        self.dropped.append(sizes["layer"])


def run(trainer=None, rungs=RUNGS, **options):
    trainer = trainer or Trainer()
    return halve(SHAPES, trainer.rank, trainer.drop, rungs=rungs, **options), trainer


def test_the_worse_half_stops_and_the_rest_go_on_from_where_they_were():
    choice, trainer = run()
    assert trainer.calls == [
        *((layer, 10, None) for layer in (1, 2, 3, 4, 5)),
        *((layer, 20, 10) for layer in (1, 2, 3)),
        *((layer, 40, 20) for layer in (1, 2)),
    ]
    assert [(t.sizes["layer"], t.num_steps) for t in choice.trials] == [
        (1, 40),
        (2, 40),
        (3, 20),
        (5, 10),
        (4, 10),
    ]


def test_a_beaten_candidate_is_dropped_at_once_and_told_why():
    choice, trainer = run()
    assert trainer.dropped == [4, 5, 3]
    assert choice.trials[-1].stopped == "3 of 5 had less than its loss of 9.0000 at step 10"
    assert choice.best.stopped is None


@pytest.mark.parametrize("num_calls", range(10))
def test_killed_at_any_trial_it_goes_on_and_ends_with_the_same_bytes(tmp_path, num_calls):
    straight, killed = tmp_path / "straight.jsonl", tmp_path / "killed.jsonl"
    expected, whole = run(trials_file=straight)
    first = Trainer(fail_after=num_calls)
    with pytest.raises(KeyboardInterrupt):
        run(first, trials_file=killed)
    with killed.open("a") as file:
        file.write('{"sizes": {"lay')
    found, second = run(trials_file=killed)
    assert found == expected
    assert first.calls + second.calls == whole.calls
    assert killed.read_bytes() == straight.read_bytes()


def test_a_kill_between_a_result_and_a_stop_loses_neither(tmp_path):
    straight, killed = tmp_path / "straight.jsonl", tmp_path / "killed.jsonl"
    run(trials_file=straight)
    lines = straight.read_text().splitlines(keepends=True)
    stop = next(number for number, line in enumerate(lines) if json.loads(line)["stopped"])
    killed.write_text("".join(lines[:stop]))
    run(trials_file=killed)
    assert killed.read_bytes() == straight.read_bytes()


def test_one_rung_is_no_halving():
    choice, trainer = run(rungs=(40,))
    assert [t.sizes["layer"] for t in choice.trials] == [4, 3, 1, 2, 5]
    assert trainer.dropped == []


def test_the_search_ends_when_one_is_left():
    trainer = Trainer()
    choice = halve(SHAPES[:2], trainer.rank, trainer.drop, rungs=RUNGS)
    assert [call[1] for call in trainer.calls] == [10, 10]
    assert choice.best.sizes == {"layer": 2}


@pytest.mark.parametrize(
    ("num_steps", "halvings", "every", "steps"),
    [
        (400, 2, 50, (100, 200, 400)),
        (400, 0, 50, (400,)),
        (100, 3, 12, (12, 24, 48, 100)),
        (5, 3, 1, (1, 2, 5)),
        (1, 3, 1, (1,)),
    ],
)
def test_rungs_double_and_fall_on_recorded_steps(num_steps, halvings, every, steps):
    assert rung_steps(num_steps, halvings, every_steps=every) == steps


def test_fields_halve_and_the_steps_of_all_trials_are_counted():
    assert field_sizes(8, 3) == [8, 4, 2]
    assert field_sizes(5, 4) == [5, 3, 2]
    assert total_steps(8, (100, 200, 400)) == 8 * 100 + 4 * 100 + 2 * 200
    assert total_steps(8, (400,)) == 8 * 400
    _, trainer = run()
    assert total_steps(5, RUNGS) == sum(until - (before or 0) for _, until, before in trainer.calls)


def test_what_cannot_be_compared_is_refused(tmp_path):
    def too_short(sizes, until_step, so_far):
        return Trial(sizes, 10, 9.0, 1.0, num_steps=until_step - 1)

    with pytest.raises(EvaluationError, match="trained 9 steps, not 10"):
        halve(SHAPES, too_short, print, rungs=RUNGS)
    run(trials_file=tmp_path / "trials.jsonl")
    with pytest.raises(RunError, match="no candidate here"):
        halve(SHAPES[:3], too_short, print, rungs=RUNGS, trials_file=tmp_path / "trials.jsonl")
