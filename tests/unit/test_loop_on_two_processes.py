"""The loop under `torchrun` with two processes on one machine: same losses as one process, same resume."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

SCRIPT = """
import sys, torch
import numpy as np
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from niwaki.ground.loop import fit
from niwaki.ground.stream import Rows
from pathlib import Path

torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, head_dim=8, tie_word_embeddings=True))
rows = Rows(np.random.default_rng(0).integers(0, 64, 2000), sequence_length=8, seed=0)

class Uneven:
    def take(self, start, count):
        batch = rows.take(start, count)
        number = torch.arange(start, start + count)[:, None] % 8
        return batch | {"mask": torch.arange(8)[None] <= number}

def loss(model, batch):
    logits = model(input_ids=batch["inputs"]).logits[batch["mask"]]
    total = F.cross_entropy(logits, batch["targets"][batch["mask"]], reduction="sum")
    return total, {}

fit(model, Uneven(), loss, out=Path(sys.argv[1]), num_steps=int(sys.argv[2]), batch_rows=8, micro_rows=2,
    learning_rate=1e-2, min_learning_rate=1e-2, precision="float32", save_every_steps=2, held_out=rows,
    held_out_rows=5, evaluate_every_steps=2)
"""


def run(tmp_path: Path, out: Path, num_steps: int, *, processes: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*(launch if processes > 1 else [sys.executable]), str(script), str(out), str(num_steps)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


def curve(out: Path) -> dict[str, list[float]]:
    records = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    return {name: [r[name] for r in records if name in r] for name in ("loss", "held_out_loss", "grad_norm")}


def test_two_processes_train_as_one_and_one_goes_on_where_two_stopped(tmp_path):
    run(tmp_path, tmp_path / "one", 4, processes=1)
    run(tmp_path, tmp_path / "two", 2, processes=2)
    resumed = json.loads((tmp_path / "two" / "checkpoints" / "step-0000002" / "state.json").read_text())
    assert resumed["step"] == 2
    run(tmp_path, tmp_path / "two", 4, processes=1)
    expected, found = curve(tmp_path / "one"), curve(tmp_path / "two")
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, err_msg=name)
