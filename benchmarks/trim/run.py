"""Time and memory of trimming a sharded checkpoint, against copying it and against copying the result.

    python benchmarks/trim/run.py

Writes a synthetic llama of 2.9 GB in six shards to a temporary folder, one tensor at a time, trims it to
about two thirds in a process that can be allowed a quarter of that memory, and deletes everything.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig

from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.checkpoint_writer import Writer
from niwaki.ground.family import family_of
from niwaki.ground.folder import flush
from niwaki.ground.shard import Spec
from niwaki.pruning.trim import trim

NUM_SHARDS = 6
KEPT = {"hidden": 1664, "ffn": 4608, "layer": 28}
CONFIG = LlamaConfig(
    vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=30, num_attention_heads=32,
    num_key_value_heads=4, head_dim=64, tie_word_embeddings=False, dtype="bfloat16",
    architectures=["LlamaForCausalLM"],
)  # fmt: skip


def build(folder: Path, config: LlamaConfig) -> None:
    """Write random bf16 weights; nothing but one tensor is ever in memory."""
    folder.mkdir()
    family = family_of(config)
    shapes = family.shapes(family.axis_sizes(config), saved=True)
    total_bytes = sum(Spec(torch.bfloat16, shape).num_bytes for shape in shapes.values())
    shards, filled = [{} for _ in range(NUM_SHARDS)], 0
    for name, shape in shapes.items():
        spec = Spec(torch.bfloat16, shape)
        shards[filled * NUM_SHARDS // total_bytes][name] = spec
        filled += spec.num_bytes
    config.save_pretrained(folder)
    writer = Writer(folder, shards)
    for name, shape in shapes.items():
        writer.add(name, torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02))
    writer.close()


def keep_for(config: LlamaConfig) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(size: int, kept: int) -> torch.Tensor:
        return torch.randperm(size, generator=generator)[:kept].sort().values

    sizes = family_of(config).axis_sizes(config)
    keep = {axis: draw(sizes[axis], kept) for axis, kept in KEPT.items() if axis != "ffn"}
    return keep | {"ffn": torch.stack([draw(sizes["ffn"], KEPT["ffn"]) for _ in range(sizes["layer"])])}


def status_bytes(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def worker(source: Path, out: Path, warm_up: Path, allowed_bytes: int) -> None:
    """Trim under a limit on all writable memory; print the time and the growth of the resident memory."""
    trim(warm_up, out.with_name("warm-up-out"), keep={"hidden": torch.arange(32)})
    shutil.rmtree(out.with_name("warm-up-out"))
    if allowed_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (allowed_bytes, allowed_bytes))
    before_bytes = status_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # starts VmHWM, the peak, afresh
    start, start_cpu = time.perf_counter(), time.process_time()
    record = trim(source, out, keep=keep_for(Checkpoint(source).config))
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
    extra_bytes = status_bytes("VmHWM") - before_bytes
    print(json.dumps({"s": seconds, "cpu_s": cpu_s, "extra_bytes": extra_bytes, "checked": record.checked}))


def run_worker(*arguments: Path | int) -> dict:
    command = [sys.executable, __file__, "--worker", *map(str, arguments)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def read_once(folder: Path) -> None:
    """Bring the files of a folder into the page cache, so that what is timed next finds them there."""
    buffer = bytearray(1 << 20)
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    os.sync()


def copy(source: Path, out: Path) -> dict[str, float]:
    """Seconds to copy a folder until the copy is on the disk, and processor seconds."""
    read_once(source)
    start, start_cpu = time.perf_counter(), time.process_time()
    shutil.copytree(source, out)
    for path in out.iterdir():
        flush(path)
    times = {"s": time.perf_counter() - start, "cpu_s": time.process_time() - start_cpu}
    shutil.rmtree(out)
    return times


def main(num_rounds: int, allowed_bytes: int) -> None:
    with tempfile.TemporaryDirectory(prefix="niwaki-trim-") as temporary:
        root = Path(temporary)
        source, out, warm_up = root / "source", root / "out", root / "warm-up"
        tiny = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 6, "vocab_size": 256}
        build(warm_up, LlamaConfig(**CONFIG.to_diff_dict() | tiny))
        build(source, CONFIG)
        os.sync()
        checkpoint = Checkpoint(source)
        largest_bytes = max(checkpoint.spec(name).num_bytes for name in checkpoint.names())
        rounds = []
        for _ in range(num_rounds):
            read_once(source)
            trimmed = run_worker(source, out, warm_up, allowed_bytes)
            rounds.append((trimmed, copy(source, root / "copy"), copy(out, root / "copy")))
            out_bytes = Checkpoint(out).num_bytes
            shutil.rmtree(out)
            print("round:", *({key: round(t[key], 2) for key in ("s", "cpu_s")} for t in rounds[-1]))
        extra_bytes = max(trimmed["extra_bytes"] for trimmed, _, _ in rounds)
        print(f"source {checkpoint.num_bytes / 1e9:.2f} GB in {len(checkpoint.shards)} shards, ", end="")
        print(f"result {out_bytes / 1e9:.2f} GB ({out_bytes / checkpoint.num_bytes:.0%})")
        print(f"memory allowed {allowed_bytes / 1e6:.0f} MB, checked by {rounds[0][0]['checked']}")
        print(f"median of {len(rounds)} rounds, until on the disk:")
        for index, label in enumerate(("trim", "copy the source", "copy the result")):
            print(f"{label:16}", end="")
            for key, unit in (("s", "s"), ("cpu_s", "processor s")):
                middle = statistics.median(times[index][key] for times in rounds)
                ratio = statistics.median(times[0][key] / times[index][key] for times in rounds)
                print(f"{middle:7.2f} {unit} (trim / this {ratio:.2f})", end="")
            print()
        print(f"largest tensor {largest_bytes / 1e6:.0f} MB, ", end="")
        print(f"peak extra memory {extra_bytes / 1e6:.0f} MB = {extra_bytes / largest_bytes:.2f} of it")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--allowed-mb", type=int, default=0, help="0: no limit")
    parser.add_argument("--worker", nargs=4, metavar="ARGUMENT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(*map(Path, options.worker[:3]), int(options.worker[3]))
    else:
        main(options.rounds, options.allowed_mb * 1_000_000)
