"""The loop under `torchrun` with two processes on one machine: same losses as one process, same resume."""

import json
from pathlib import Path

import numpy as np
import pytest

from ..launch import torchrun

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

if len(sys.argv) > 3:  # the disk of this process fills up at its second snapshot
    from niwaki.ground import part_files, processes

    save, saved = part_files.save_file, []

    def full(*arguments):
        saved.append(arguments)
        if len(saved) > 2 and processes.number() == int(sys.argv[3]):
            raise OSError(28, "No space left on device")
        save(*arguments)

    part_files.save_file = full

fit(model, Uneven(), loss, out=Path(sys.argv[1]), num_steps=int(sys.argv[2]), batch_rows=8, micro_rows=2,
    learning_rate=1e-2, min_learning_rate=1e-2, precision="float32", save_every_steps=2, held_out=rows,
    held_out_rows=5, evaluate_every_steps=2)
"""


def launch(tmp_path: Path, out: Path, *more: int, processes: int, sharded: bool = False) -> tuple[int, str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = torchrun(str(script), str(out), *map(str, more), processes=processes, sharded=sharded)
    return done.returncode, done.stderr


def run(tmp_path: Path, out: Path, num_steps: int, *, processes: int, sharded: bool = False) -> None:
    code, errors = launch(tmp_path, out, num_steps, processes=processes, sharded=sharded)
    assert code == 0, errors[-4000:]


def curve(out: Path) -> dict[str, list[float]]:
    records = [json.loads(line) for line in (out / "metrics.jsonl").open()]
    return {name: [r[name] for r in records if name in r] for name in ("loss", "held_out_loss", "grad_norm")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    folder = tmp_path_factory.mktemp("alone")
    run(folder, folder / "run", 6, processes=1)
    return curve(folder / "run")


@pytest.mark.parametrize(
    "launches", [[(2, False), (1, False)], [(1, False), (2, True), (1, False)]], ids=["ddp", "fsdp2"]
)
def test_each_launch_goes_on_where_the_one_before_stopped_as_one_process_does(tmp_path, alone, launches):
    out = tmp_path / "run"
    for number, (processes, sharded) in enumerate(launches):
        num_steps = 6 if number == len(launches) - 1 else 2 * (number + 1)
        run(tmp_path, out, num_steps, processes=processes, sharded=sharded)
        newest = out / "checkpoints" / f"step-{num_steps:07d}"
        assert json.loads((newest / "state.json").read_text())["step"] == num_steps
        num_files = processes if sharded else 1
        assert len(list(newest.glob("model-*.safetensors"))) == num_files
    found = curve(out)
    for name in alone:
        np.testing.assert_allclose(found[name], alone[name], rtol=1e-4, err_msg=name)


def test_a_process_whose_disk_is_full_leaves_the_snapshot_before_whole(tmp_path):
    code, errors = launch(tmp_path, tmp_path / "run", 6, 1, processes=2, sharded=True)
    assert code != 0
    assert "checkpoints/step-0000004: cannot be saved" in errors
    assert "No space left on device" in errors
    left = tmp_path / "run" / "checkpoints"
    assert [path.name for path in left.iterdir()] == ["step-0000002"]
    assert len(list((left / "step-0000002").glob("*-of-2.safetensors"))) == 4
