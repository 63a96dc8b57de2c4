"""Killed at every system call that writes: what was whole stays whole, and the same call ends the same."""

import json
import shutil
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from niwaki.distillation.train import next_token_loss
from niwaki.ground import snapshot
from niwaki.ground.loop import fit
from niwaki.ground.metrics import read_metrics
from niwaki.ground.run import DONE, stage, write_atomically
from niwaki.ground.saved import save_model
from niwaki.ground.stream import Rows
from niwaki.ground.tensor_file import save_tensors
from niwaki.pruning.trial import Trial, append, read
from niwaki.pruning.trim import trim

from ..conftest import make_tiny_model
from .killing import kill_at, needs_strace, places_of

pytestmark = needs_strace
SHAPES = [{"hidden": 8}, {"hidden": 16}]


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def sweep(tmp_path, before, work, check, *, every=1):
    """Kill `work(folder)` at each place (or every so many), check what is left, and do it again.

    `before` makes the folder that the work starts from. The end must have the bytes of undisturbed work.
    Says how many places there were, and how many of them it tried, which docs/reliability.md counts.
    """
    start, folder, expected = tmp_path / "start", tmp_path / "folder", tmp_path / "expected"
    start.mkdir()
    before(start)

    def begin(at):
        shutil.rmtree(at, ignore_errors=True)
        shutil.copytree(start, at)
        return at

    work(begin(expected))
    whole = contents(expected)
    places = places_of(partial(work, begin(folder)), tmp_path / "log")
    assert contents(folder) == whole
    for place in places[::every]:
        kill_at(place, partial(work, begin(folder)))
        check(folder)
        work(folder)
        assert contents(folder) == whole, place
        assert names(folder) == names(expected), place
    assert len(places) > 15
    print(f"\n{tmp_path.name}: killed at {len(places[::every])} of {len(places)} calls that write")


def thorough(every):
    """Every so many places here, and all of them among the slow tests."""
    return pytest.mark.parametrize("every", [every, pytest.param(1, marks=pytest.mark.slow)])


def trained(steps):
    """A tiny model and its optimiser after so many steps, the same each time."""
    model = make_tiny_model()
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(steps):
        torch.manual_seed(step)
        model(input_ids=torch.randint(0, 300, (1, 8))).logits.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_a_snapshot_and_those_before_it(tmp_path):
    states = {steps: trained(steps) for steps in (1, 2, 3)}

    def save(folder, steps):
        snapshot.save(folder, (steps, 10 * steps), *states[steps], keep=2)

    def before(folder):
        save(folder, 1)
        save(folder, 2)

    def check(folder):
        found = snapshot.newest(folder)
        step, tokens = snapshot.restore(found, *trained(1))
        assert step in (2, 3)
        assert tokens == 10 * step
        for each in folder.glob("step-*"):
            names = [set(load_file(path / "model-1-of-1.safetensors")) for path in (each, found)]
            assert names[0] == names[1]
            json.loads((each / "state.json").read_text())

    sweep(tmp_path, before, partial(save, steps=3), check)
    assert [p.name for p in sorted((tmp_path / "expected").iterdir())] == ["step-0000002", "step-0000003"]


@thorough(7)
def test_a_stage_that_saves_a_model_over_an_earlier_one(tmp_path, tokenizer, every):
    source = tmp_path / "source"
    make_tiny_model().save_pretrained(source)
    tokenizer.save_pretrained(source)
    older, newer = (trained(steps)[0] for steps in (1, 2))
    earlier = {}

    def before(run):
        save_model(older, source, run / "4-distill" / "model")
        write_atomically(run / "4-distill" / "BEGUN", json.dumps({"inputs": "x", "values": {}}))
        earlier.update(contents(run / "4-distill" / "model"))
        shutil.rmtree(run / "4-distill")

    def work(run):
        def save(folder):
            if not (folder / "model").exists():
                save_model(older, source, folder / "model", replace=True)
            save_model(newer, source, folder / "model", replace=True)

        stage(run, "4-distill", {"seed": 1}, save)

    whole = {}

    def check(run):
        folder = run / "4-distill"
        kept = [folder / name for name in ("model", ".model.previous") if (folder / name).exists()]
        now = [contents(each) for each in kept]
        whole.setdefault("newer", contents(tmp_path / "expected" / "4-distill" / "model"))
        if (folder / "model").exists():
            assert now[0] in (earlier, whole["newer"])
            return
        assert not now or now[0] == earlier
        assert not (folder / DONE).exists()

    sweep(tmp_path, before, work, check, every=every)


@thorough(7)
def test_a_trimmed_model(tmp_path, tokenizer, every):
    source = tmp_path / "source"
    make_tiny_model().save_pretrained(source, max_shard_size="16KB")
    tokenizer.save_pretrained(source)
    kept = contents(source)

    def work(run):
        keep = {"hidden": torch.arange(0, 32, 2)}
        stage(run, "3-trim", {}, lambda folder: trim(source, folder / "model", keep=keep))

    def check(run):
        assert contents(source) == kept
        if (run / "3-trim" / "model").exists():
            assert contents(run / "3-trim" / "model") == contents(tmp_path / "expected" / "3-trim" / "model")

    sweep(tmp_path, lambda run: None, work, check, every=every)


def test_small_files_of_a_stage(tmp_path):
    def work(run):
        def fill(folder):
            save_tensors(folder / "scores.safetensors", {"a": torch.arange(9.0)}, {"format": "x"})
            write_atomically(folder / "results.json", json.dumps({"loss": 1.5}))
            known = [trial.sizes for trial in read(folder / "trials.jsonl", SHAPES)]
            for shape in SHAPES:
                if shape not in known:
                    append(folder / "trials.jsonl", Trial(shape, 5, 2.0))

        stage(run, "2-choose", {}, fill)

    def check(run):
        folder = run / "2-choose"
        for name in ("scores.safetensors", "results.json"):
            if (folder / name).exists():
                assert (folder / name).read_bytes() == (
                    tmp_path / "expected" / "2-choose" / name
                ).read_bytes()

    sweep(tmp_path, lambda run: None, work, check)


@thorough(17)
def test_a_training(tmp_path, every, monkeypatch):
    """Begun before, so that the kills also fall on taking it up again."""
    ticks = count()  # for the speeds in the metrics, which are never the same
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    rows = Rows(np.random.default_rng(0).integers(0, 300, 2000), sequence_length=8, seed=0)

    def train(out, until):
        model = make_tiny_model()
        fit(
            model, rows, next_token_loss, out=out, num_steps=6, until_step=until, batch_rows=4, micro_rows=2,
            learning_rate=1e-2, save_every_steps=2, held_out=rows, held_out_rows=4, evaluate_every_steps=2,
        )  # fmt: skip

    def before(out):
        train(out, 3)

    def check(out):
        snapshots = sorted((out / "checkpoints").glob("step-*"))
        assert int(snapshots[-1].name.removeprefix("step-")) >= 3
        for each in snapshots:
            load_file(each / "optimizer-1-of-1.safetensors")
        assert {0, 1, 2, 3} <= {record["step"] for record in read_metrics(out / "metrics.jsonl")}

    sweep(tmp_path, before, partial(train, until=None), check, every=every)
