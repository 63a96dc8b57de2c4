"""GRPO as two processes, with copies of the model (DDP) or parts of it (FSDP2): the training of one."""

import json
import signal
import sys
from subprocess import run

import pytest
import torch
from safetensors.torch import load_file

from niwaki.ground.model import load_model

from ..launch import end_all, start_each, torchrun

pytest.importorskip("trl")

SCRIPT = """
import hashlib, json, os, signal, sys
from collections import Counter
from pathlib import Path
import torch
from accelerate import DistributedType, PartialState
from transformers import LlamaForCausalLM
from niwaki.ground import processes
from niwaki.rl.form import Form
from niwaki.rl.rewards import Grade
from niwaki.rl.train import Lora, train_rl
from niwaki.verify.question import Question

start, out, options = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])

def dense(completions):
    is_due = options.get("killed") and (out / "checkpoints" / "step-0000002").exists()
    if is_due and processes.number() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return [Grade(len(set(c.text)) / 20, False, Form.NO_BOX, "different") for c in completions]

def written(self, input_ids, attention_mask, **ignored):
    '''Completions that follow from the prompt and how often it came before, not from the process.'''
    seen, rows = Counter(), []
    for row, is_read in zip(input_ids, attention_mask):
        prompt = tuple(row[is_read.bool()].tolist())
        digest = hashlib.sha1(repr((prompt, seen[prompt])).encode()).digest()
        seen[prompt] += 1
        tokens = torch.tensor([100 + byte % 100 for byte in digest[:8]])
        end = 2 + digest[8] % 8
        tokens[end:] = self.generation_config.pad_token_id
        tokens[end:end + 1] = self.generation_config.eos_token_id
        rows.append(torch.cat([row, tokens]))
    return torch.stack(rows)

if options.get("as_on_gpus"):  # there accelerate would shard the model itself
    init = PartialState.__init__
    def on_gpus(self, *arguments, **settings):
        init(self, *arguments, **settings)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    PartialState.__init__ = on_gpus
if options.get("written"):
    LlamaForCausalLM.generate = written
questions = [Question(f"s{n}", f"{n}+1=?", str(n + 1), domain="math") for n in range(8)]
with processes.together():
    train_rl(start, questions, out=out, num_steps=options.get("steps", 3), prompts_per_step=4,
        num_generations=4, micro_rollouts=options.get("micro", 4), prompt="bare-1", max_prompt_tokens=40,
        max_completion_tokens=8, learning_rate=1e-3, precision="float32", grade=dense, save_every_steps=1,
        lora=Lora(rank=2) if options.get("lora") else None)
"""

UNEVEN = """
import sys
from types import SimpleNamespace
import torch
from torch.distributed.tensor import DTensor
from niwaki.ground import processes
from niwaki.ground.model import load_model
from niwaki.rl.divided import in_parts

def nobody_asks(*arguments, **options):
    raise AssertionError("asked whether all have ended")

def are_in_parts(module):
    return all(isinstance(parameter, DTensor) for parameter in module.parameters())

with processes.together():
    model = load_model(sys.argv[1])
    ids = torch.arange(100, 108).reshape(2, 4)
    options = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "do_sample": False,
        "max_new_tokens": 2 + 6 * processes.number(), "eos_token_id": None}
    whole = model.generate(**options)
    with in_parts(SimpleNamespace(model=model, ref_model=None)):
        assert are_in_parts(model)
        torch.distributed.all_reduce = nobody_asks
        assert torch.equal(model.generate(**options), whole)
        assert are_in_parts(model.model.layers)
        model.reshard()  # what is outside the layers waits for the backward pass of the step
"""


@pytest.fixture
def trained(start, tmp_path):
    """Train in the folder `name`, on some processes and with some options; returns the folder."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def train(name, *, processes=2, sharded=False, **options):
        command = [str(script), str(start), str(tmp_path / name), json.dumps(options)]
        if processes == 1:
            done = run([sys.executable, *command], capture_output=True, text=True)
        else:
            done = torchrun(*command, processes=processes, sharded=sharded)
        assert done.returncode == 0, done.stderr[-4000:]
        return tmp_path / name

    return train


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").open()]


def assert_same_training(ours, theirs, start):
    """Rollouts to the letter; losses, gradients and what was learned to float rounding."""
    assert (ours / "rollouts.jsonl").read_text() == (theirs / "rollouts.jsonl").read_text()
    for our, their in zip(metrics(ours), metrics(theirs), strict=True):
        assert our["loss"] == pytest.approx(their["loss"], rel=1e-3, abs=1e-6)
        assert our["grad_norm"] == pytest.approx(their["grad_norm"], rel=1e-5)
        for name in ("step", "tokens_seen", "rollouts", "groups", "reward"):
            assert our[name] == pytest.approx(their[name])
    folders = (ours / "model", theirs / "model", start)
    model, expected, before = (load_file(folder / "model.safetensors") for folder in folders)
    assert model.keys() == expected.keys()
    learned = torch.cat([(expected[name] - before[name]).flatten() for name in expected])
    apart = torch.cat([(expected[name] - model[name]).flatten() for name in expected])
    assert apart.norm() < 1e-3 * learned.norm()


@pytest.mark.slow
def test_rollouts_of_all_processes_are_counted_once_and_one_process_goes_on(trained):
    out = trained("out", steps=2)
    assert [(r["step"], r["rollouts"], r["groups"]) for r in metrics(out)] == [(1, 16, 4), (2, 16, 4)]
    load_model(out / "model")
    trained("out", processes=1, steps=3)
    assert [r["step"] for r in metrics(out)] == [1, 2, 3]


@pytest.mark.slow
def test_the_same_rollouts_are_the_same_steps_on_any_number_of_processes(trained, start):
    """Also when a step takes twice as many micro-batches, and where accelerate would rather shard itself."""
    one = trained("one", processes=1, written=True)
    assert_same_training(trained("copies", written=True), one, start)
    assert_same_training(trained("parts", sharded=True, written=True, micro=2, as_on_gpus=True), one, start)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapter"])
def test_parts_of_the_model_sample_and_learn_as_copies_do(trained, start, lora):
    parts = trained("parts", sharded=True, lora=lora)
    assert_same_training(parts, trained("copies", lora=lora), start)
    kept = {path.suffix for path in parts.rglob("*") if path.is_file()}
    assert kept <= {".json", ".jsonl", ".safetensors"}


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["ddp, then fsdp2", "fsdp2, then ddp"])
def test_a_training_goes_on_in_the_other_form_where_a_process_was_killed(trained, start, tmp_path, sharded):
    command = [str(tmp_path / "script.py"), str(start), str(tmp_path / "out"), json.dumps({"killed": True})]
    started = start_each(command, tmp_path, processes=2, sharded=sharded)
    try:
        ends = [process.wait(timeout=120) for process in started]
    finally:
        end_all(started)
    assert ends[1] == -signal.SIGKILL
    assert "Another process of the run ended" in (tmp_path / "0.err").read_text()
    assert not (tmp_path / "out" / "model").exists()
    assert_same_training(trained("out", sharded=not sharded), trained("straight"), start)


@pytest.mark.slow
def test_no_process_waits_for_the_longer_rollouts_of_another(start, tmp_path):
    (tmp_path / "script.py").write_text(UNEVEN)
    done = torchrun(str(tmp_path / "script.py"), str(start), processes=2, sharded=True)
    assert done.returncode == 0, done.stderr[-4000:]
