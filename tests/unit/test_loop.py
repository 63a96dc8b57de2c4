import copy
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import SafetensorError

from niwaki.errors import TrainingError
from niwaki.ground import snapshot
from niwaki.ground.loop import fit, learning_rate_at
from niwaki.ground.stream import Rows

ROWS = Rows(np.random.default_rng(0).integers(0, 300, 4000), sequence_length=16, seed=0)
HELD_OUT = Rows(np.random.default_rng(1).integers(0, 300, 400), sequence_length=16)


def next_token_loss(model, batch):
    logits = model(input_ids=batch["inputs"]).logits[batch["mask"]]
    loss = F.cross_entropy(logits, batch["targets"][batch["mask"]], reduction="sum")
    return loss, {"cross_entropy": loss.detach()}


def train(model, out, **changes):
    settings = {"num_steps": 6, "batch_rows": 4, "micro_rows": 4, "learning_rate": 1e-2, "warmup_steps": 2}
    fit(model, ROWS, next_token_loss, out=out, **settings | changes)
    return model.state_dict()


def losses(out):
    return [r["loss"] for line in (out / "metrics.jsonl").open() if "loss" in (r := json.loads(line))]


def assert_same_bytes(first, second):
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_one_step_is_one_step_of_adamw_on_the_mean_over_targets(tiny_model, tmp_path):
    reference = copy.deepcopy(tiny_model)
    trained = train(tiny_model, tmp_path, num_steps=1, warmup_steps=0, clip_norm=1e9, weight_decay=0.0)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    batch = ROWS.take(0, 4)
    logits = reference(input_ids=batch["inputs"]).logits
    F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten()).backward()
    optimizer.step()
    for name, tensor in reference.state_dict().items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("micro_rows", [1, 2])
def test_accumulation_changes_nothing_but_rounding(tiny_model, tmp_path, micro_rows):
    whole = train(copy.deepcopy(tiny_model), tmp_path / "whole")
    parts = train(tiny_model, tmp_path / "parts", micro_rows=micro_rows)
    np.testing.assert_allclose(losses(tmp_path / "whole"), losses(tmp_path / "parts"), rtol=1e-5)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=2e-3, atol=2e-4)


class Masked:
    """Rows with an uneven number of targets: row i has i % 16 + 1."""

    def take(self, start, count):
        batch = ROWS.take(start, count)
        number = torch.arange(start, start + count)[:, None] % 16
        return batch | {"mask": torch.arange(16)[None] <= number}


def test_the_loss_is_normalised_over_the_global_batch_not_over_its_parts(tiny_model, tmp_path):
    settings = {"out": tmp_path / "a", "num_steps": 1, "batch_rows": 4, "learning_rate": 0.0}
    fit(copy.deepcopy(tiny_model), Masked(), next_token_loss, micro_rows=4, **settings)
    fit(tiny_model, Masked(), next_token_loss, micro_rows=1, **settings | {"out": tmp_path / "b"})
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), rel=1e-6)


def test_a_killed_run_resumes_to_the_same_bytes_and_the_same_metrics(tiny_model, tmp_path):
    straight = train(copy.deepcopy(tiny_model), tmp_path / "straight")
    killed = copy.deepcopy(tiny_model)

    def die_at_step_5(model, batch):
        if snapshot.newest(tmp_path / "killed" / "checkpoints") and torch.is_grad_enabled():
            seen.append(1)
            if len(seen) == 2:
                raise KeyboardInterrupt
        return next_token_loss(model, batch)

    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        fit(
            killed,
            ROWS,
            die_at_step_5,
            out=tmp_path / "killed",
            num_steps=6,
            batch_rows=4,
            micro_rows=4,
            learning_rate=1e-2,
            warmup_steps=2,
            save_every_steps=3,
        )
    assert len(losses(tmp_path / "killed")) == 4
    resumed = train(tiny_model, tmp_path / "killed", save_every_steps=3)
    assert_same_bytes(straight, resumed)
    assert losses(tmp_path / "killed") == losses(tmp_path / "straight")


def test_a_pause_leaves_no_trace(tiny_model, tmp_path):
    settings = {"held_out": HELD_OUT, "held_out_rows": 4, "evaluate_every_steps": 2}
    straight = train(copy.deepcopy(tiny_model), tmp_path / "straight", **settings)
    train(copy.deepcopy(tiny_model), tmp_path / "paused", until_step=3, **settings)
    assert len(losses(tmp_path / "paused")) == 3
    paused = train(tiny_model, tmp_path / "paused", **settings)
    assert_same_bytes(straight, paused)
    expected, found = (
        [{**json.loads(line), "tokens_per_s": 0} for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("straight", "paused")
    )
    assert found == expected


def test_a_finished_run_trains_no_further(tiny_model, tmp_path):
    first = copy.deepcopy(train(tiny_model, tmp_path))
    assert_same_bytes(first, train(tiny_model, tmp_path))


def test_a_torn_metrics_line_does_not_stop_a_resume(tiny_model, tmp_path):
    train(copy.deepcopy(tiny_model), tmp_path, num_steps=6)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')
    train(tiny_model, tmp_path, num_steps=8)
    assert len(losses(tmp_path)) == 8


def test_held_out_metrics_are_means_over_the_targets(tiny_model, tmp_path):
    fit(
        tiny_model,
        ROWS,
        next_token_loss,
        out=tmp_path,
        num_steps=2,
        batch_rows=4,
        micro_rows=4,
        learning_rate=1e-2,
        held_out=HELD_OUT,
        held_out_rows=7,
        evaluate_every_steps=1,
    )
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    held_out = {r["step"]: r["held_out_cross_entropy"] for r in records if "held_out_cross_entropy" in r}
    assert sorted(held_out) == [0, 1, 2]
    batch = HELD_OUT.take(0, 7)
    with torch.no_grad():
        logits = tiny_model(input_ids=batch["inputs"]).logits
    expected = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
    assert held_out[2] == pytest.approx(float(expected), rel=1e-5)


def test_only_the_newest_snapshots_stay(tiny_model, tmp_path):
    train(tiny_model, tmp_path, save_every_steps=1, keep_snapshots=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-0000005", "step-0000006"]


@pytest.mark.parametrize(
    "refusal", [OSError(28, "No space left on device"), SafetensorError("No space left")]
)
def test_a_snapshot_that_cannot_be_written_leaves_the_older_one_whole(
    tiny_model, tmp_path, monkeypatch, refusal
):
    train(copy.deepcopy(tiny_model), tmp_path, num_steps=3)

    def full(*_):
        raise refusal

    monkeypatch.setattr("niwaki.ground.part_files.save_file", full)
    with pytest.raises(TrainingError, match="No space left"):
        train(copy.deepcopy(tiny_model), tmp_path)
    monkeypatch.undo()
    assert snapshot.newest(tmp_path / "checkpoints").name == "step-0000003"
    train(tiny_model, tmp_path)
    assert len(losses(tmp_path)) == 6


def test_a_loss_that_is_not_finite_stops_at_its_step(tiny_model, tmp_path):
    def nan_loss(model, batch):
        loss, metrics = next_token_loss(model, batch)
        return loss * float("nan"), metrics

    with pytest.raises(TrainingError, match="step 0: loss nan"):
        fit(
            tiny_model,
            ROWS,
            nan_loss,
            out=tmp_path,
            num_steps=2,
            batch_rows=4,
            micro_rows=4,
            learning_rate=1.0,
        )


def test_a_batch_that_does_not_divide_is_refused_before_training(tiny_model, tmp_path):
    with pytest.raises(TrainingError, match="batch_rows 4 does not divide"):
        train(tiny_model, tmp_path, micro_rows=3)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_frozen_parameters_stay_as_they_are(tiny_model, tmp_path):
    tiny_model.model.embed_tokens.requires_grad_(False)
    before = tiny_model.model.embed_tokens.weight.clone()
    trained = train(tiny_model, tmp_path)
    assert torch.equal(trained["model.embed_tokens.weight"], before)


def test_the_learning_rate_warms_up_and_falls_as_a_cosine():
    rates = [learning_rate_at(s, 12, peak=1.0, minimum=0.1, warmup_steps=4) for s in (0, 3, 4, 8, 12)]
    assert rates == pytest.approx([0.25, 1.0, 1.0, 0.55, 0.1])


def test_each_part_has_its_own_rate_and_its_own_clipping(tiny_model, tmp_path):
    """Two copies in one module end as each would alone, though one has a thousand times the gradient."""

    def both(pair, batch):
        (small, _), (large, _) = next_token_loss(pair[0], batch), next_token_loss(pair[1], batch)
        return small + 1000 * large, {}

    pair = torch.nn.ModuleList([copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)])
    settings = {"num_steps": 3, "batch_rows": 4, "micro_rows": 4, "learning_rate": 1e-2, "clip_norm": 0.1}
    fit(pair, ROWS, both, out=tmp_path / "pair", rate_factors={"0": 1.0, "1": 0.1}, **settings)
    for number, rate in ((0, 1e-2), (1, 1e-3)):
        alone = train(
            copy.deepcopy(tiny_model),
            tmp_path / str(number),
            **settings | {"learning_rate": rate, "warmup_steps": 0},
        )
        for name, tensor in pair[number].state_dict().items():
            torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-6)


def test_a_tracker_gets_the_metrics_too(tiny_model, tmp_path):
    train(tiny_model, tmp_path, num_steps=2, trackers=("tensorboard",))
    assert list(tmp_path.rglob("events.out.tfevents.*"))
