"""A model in parts over two processes is the model: same logits, losses, training, text, saved weights."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from ..launch import torchrun

SCRIPT = """
import json, sys, torch
import numpy as np
from pathlib import Path
from torch.distributed.tensor import DTensor
from niwaki.distillation.correction import distill_and_correct
from niwaki.distillation.hidden import HiddenLoss
from niwaki.distillation.train import distill
from niwaki.evaluation.loss import held_out_loss
from niwaki.ground import processes
from niwaki.ground.model import load_model
from niwaki.ground.parts import gather_model, is_in_parts, load_in_parts, load_together
from niwaki.ground.saved import save_model
from niwaki.ground.spread import running
from niwaki.ground.stream import Rows

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
rows = Rows(np.random.default_rng(0).integers(3, 90, 600), sequence_length=12, seed=0)
found = {}

def distilled(load, name):
    student, teacher = load(folder, dtype=torch.float32), load(folder, dtype=torch.float32)
    before = held_out_loss(student, rows, num_rows=7, batch_rows=2, teacher=teacher)
    with torch.no_grad(), running(student):
        noise = torch.randn(90, 20, generator=torch.Generator().manual_seed(0))
        student.get_input_embeddings().weight.add_(0.1 * noise)
    options = dict(num_steps=3, batch_rows=4, micro_rows=1, learning_rate=1e-2, weight_decay=0.1,
        held_out=rows, held_out_rows=3, save_every_steps=2)
    distill(student, teacher, rows, out=out / f"{name}-logits", **options)
    # A second training of the same models, with hidden states and recomputed activations; and of both.
    states = HiddenLoss(parts=("output", "embedding", "attention"), layers={-1: -1}, alpha=0.5)
    distill(student, teacher, rows, out=out / f"{name}-hidden", hidden=states, checkpointing=True, **options)
    options["teacher_learning_rate"] = 1e-3
    distill_and_correct(student, teacher, rows, out=out / f"{name}-both", **options)
    after = held_out_loss(student, rows, num_rows=7, batch_rows=2, teacher=teacher)
    found[name] = {"before": before.row_nats, "after": after.row_nats, "kl": after.kl_to_teacher.mean}
    return student

with processes.together():
    assert load_together(folder).model.layers[0].mlp.up_proj.weight.__class__ is (
        DTensor if processes.are_sharded() else torch.nn.Parameter)
    whole = distilled(load_model, "whole")
    if processes.are_sharded():
        divided = distilled(load_in_parts, "parts")
        own = divided.model.layers[0].mlp.up_proj.weight.to_local()
        found["own_bytes"] = processes.gather(own.untyped_storage().nbytes())
        assert is_in_parts(divided) and not is_in_parts(whole)
        gathered = gather_model(divided, torch.bfloat16)
        def save():
            save_model(gathered, folder, out / "saved")
        processes.by_main(save)
        assert (gathered is None) != processes.is_main()
    if processes.is_main():
        (out / "found.json").write_text(json.dumps(found))
"""


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 20, "intermediate_size": 31, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=90, head_dim=10, num_key_value_heads=1, **sizes)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def run(tmp_path, folder, name, *, processes, sharded):
    (tmp_path / "script.py").write_text(SCRIPT)
    out = tmp_path / name
    out.mkdir(exist_ok=True)
    done = torchrun(str(tmp_path / "script.py"), str(folder), str(out), processes=processes, sharded=sharded)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((out / "found.json").read_text())


def losses(out):
    return [json.loads(line)["loss"] for line in out.open() if '"loss"' in line]


def test_what_two_processes_do_with_parts_is_what_they_do_with_all(tmp_path, folder):
    found = run(tmp_path, folder, "two", processes=2, sharded=True)
    assert found["parts"]["before"] == found["whole"]["before"]
    np.testing.assert_allclose(found["parts"]["after"], found["whole"]["after"], rtol=1e-6)
    assert found["whole"]["after"] != found["whole"]["before"]
    # 31 rows in two parts, the second padded.
    assert found["own_bytes"] == [16 * 20 * 4, 16 * 20 * 4]
    for training in ("logits", "hidden", "both"):
        names = [tmp_path / "two" / f"{name}-{training}" / "metrics.jsonl" for name in ("whole", "parts")]
        np.testing.assert_allclose(losses(names[0]), losses(names[1]), rtol=1e-6)
    saved = load_file(tmp_path / "two" / "saved" / "model.safetensors")
    assert saved.keys() == load_file(folder / "model.safetensors").keys()
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
