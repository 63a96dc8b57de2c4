"""Score and measure a checkpoint several times larger than the memory allowed, against doing it in memory.

    python benchmarks/larger_than_memory/run.py

Writes a random llama of about 1.5 GB to a temporary folder, tensor by tensor. Then one process after another
scores it and measures its loss: with as much memory as there is, and with `--allowed-mb` above what the
interpreter and its libraries have taken (RLIMIT_DATA, all writable memory). A last one calls stock
`from_pretrained` under that limit, to show that it is one. Everything is deleted.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from niwaki.evaluation.loss import held_out_loss
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.checkpoint_writer import Writer
from niwaki.ground.family import family_of
from niwaki.ground.shard import Spec
from niwaki.ground.stream import Rows
from niwaki.ground.streamed import is_streamed, load_or_stream
from niwaki.pruning.score import score
from niwaki.pruning.scores import Scores

NUM_ROWS, BATCH_ROWS, ROW_TOKENS = 16, 2, 16
CONFIG = LlamaConfig(
    vocab_size=4096, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
    num_key_value_heads=4, head_dim=64, tie_word_embeddings=True, dtype="float32",
    architectures=["LlamaForCausalLM"],
)  # fmt: skip


def build(folder: Path, config: LlamaConfig) -> None:
    """Write random float32 weights; nothing but one tensor is ever in memory."""
    folder.mkdir()
    config.save_pretrained(folder)
    family = family_of(config)
    shapes = family.shapes(family.axis_sizes(config), saved=True)
    writer = Writer(folder, [{name: Spec(torch.float32, shape) for name, shape in shapes.items()}])
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        is_norm = len(shape) == 1
        writer.add(
            name, torch.ones(shape) if is_norm else torch.empty(shape).normal_(std=0.03, generator=generator)
        )
    writer.close()


def status_bytes(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def work(folder: Path, out: Path) -> dict:
    """Score and measure; the scores go to `out`."""
    model = load_or_stream(folder)
    rng = np.random.default_rng(0)
    rows = Rows(rng.integers(0, CONFIG.vocab_size, NUM_ROWS * ROW_TOKENS + 1), sequence_length=ROW_TOKENS)
    start = time.perf_counter()
    score(model, rows, num_samples=NUM_ROWS, batch_rows=BATCH_ROWS).save(out)
    scored = time.perf_counter()
    loss = held_out_loss(model, rows, num_rows=NUM_ROWS, batch_rows=BATCH_ROWS)
    return {
        "streamed": is_streamed(model),
        "score_s": scored - start,
        "loss_s": time.perf_counter() - scored,
        "loss": loss.nats_per_token.mean,
    }


def worker(kind: str, folder: Path, warm_up: Path, out: Path, allowed_bytes: int) -> None:
    """Do the work of one process under a limit; print what it took."""
    work(warm_up, out)  # loads what the libraries load once
    before_bytes = status_bytes("RssAnon")
    if allowed_bytes:
        limit = status_bytes("VmData") + allowed_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    Path("/proc/self/clear_refs").write_text("5")  # starts VmHWM, the peak, afresh
    before_cpu_s = time.process_time()
    if kind == "stock":
        try:
            AutoModelForCausalLM.from_pretrained(folder)
            result = {"stock": "loaded"}
        except (MemoryError, RuntimeError) as error:
            result = {"stock": f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"}
    else:
        result = work(folder, out)
    files_bytes = status_bytes("RssFile")
    result["peak_bytes"] = status_bytes("VmHWM") - before_bytes - files_bytes
    result["cpu_s"] = time.process_time() - before_cpu_s
    print(json.dumps(result))


def run_worker(*arguments: object) -> dict:
    command = [sys.executable, __file__, "--worker", *map(str, arguments)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def main(allowed_mb: int) -> None:
    with tempfile.TemporaryDirectory(prefix="niwaki-large-") as temporary:
        root = Path(temporary)
        tiny = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        build(root / "warm-up", LlamaConfig(**CONFIG.to_diff_dict() | tiny))
        build(root / "model", CONFIG)
        os.sync()
        num_bytes = Checkpoint(root / "model").num_bytes
        print(
            f"checkpoint {num_bytes / 1e6:.0f} MB, allowed {allowed_mb} MB "
            f"({num_bytes / allowed_mb / 1e6:.1f} times)"
        )
        found = {}
        for label, allowed in (("in memory", 0), ("layer by layer", allowed_mb), ("stock", allowed_mb)):
            kind, out = label.partition(" ")[0], root / f"{label}.safetensors"
            found[label] = run_worker(kind, root / "model", root / "warm-up", out, allowed * 1_000_000)
            print(f"{label}: {json.dumps(found[label])}")
        whole, streamed = (
            Scores.load(root / f"{label}.safetensors") for label in ("in memory", "layer by layer")
        )
        apart = max(float((whole.sums[key] - streamed.sums[key]).abs().max()) for key in whole.sums)
        print(f"largest difference between their scores {apart:g}, ", end="")
        print(f"between their losses {abs(found['in memory']['loss'] - found['layer by layer']['loss']):g}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--allowed-mb", type=int, default=400)
    parser.add_argument("--worker", nargs=5, metavar="ARGUMENT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, *paths, allowed_bytes = options.worker
        worker(kind, *map(Path, paths), int(allowed_bytes))
    else:
        main(options.allowed_mb)
