"""2,000 steps of distillation, killed at random moments: is anything lost, and does memory grow?

Trains the same student twice, once undisturbed and once in processes that are killed (SIGKILL) after a random
time and started again, and compares every byte of what both leave. Each process is a fork of this one, so
that a start costs nothing. Writes results.json beside this file.

    python benchmarks/soak/run.py
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import resource
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from niwaki.distillation.train import distill
from niwaki.ground.metrics import read_metrics
from niwaki.ground.stream import Rows

VOCAB = 512
BATCH_ROWS, MICRO_ROWS, ROW_TOKENS = 4, 2, 32
SAVE_EVERY_STEPS, EVALUATE_EVERY_STEPS = 20, 250
MEMORY_EVERY_STEPS = 20


def model(hidden: int) -> LlamaForCausalLM:
    """A Llama of two layers, the same each time."""
    torch.manual_seed(hidden)
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=VOCAB, hidden_size=hidden, intermediate_size=2 * hidden, **heads)
    )


def train(out: Path, num_steps: int) -> None:
    """Distil to the end, from wherever `out` is; memory by step goes to `memory.jsonl`, times nowhere."""
    rows = Rows(np.random.default_rng(0).integers(0, VOCAB, 200_000), sequence_length=ROW_TOKENS, seed=0)
    student = model(48)

    def note(step: int) -> None:
        if step % MEMORY_EVERY_STEPS == 0:
            status = Path("/proc/self/status").read_text()
            kilobytes = int(status.split("VmRSS:")[1].split()[0])
            with (out / "memory.jsonl").open("a") as file:
                file.write(
                    json.dumps({"process": os.getpid(), "step": step, "bytes": kilobytes * 1024}) + "\n"
                )

    out.mkdir(exist_ok=True)
    distill(
        student,
        model(96).to(torch.float32),
        rows,
        out=out,
        num_steps=num_steps,
        batch_rows=BATCH_ROWS,
        micro_rows=MICRO_ROWS,
        learning_rate=1e-3,
        save_every_steps=SAVE_EVERY_STEPS,
        held_out=rows,
        held_out_rows=8,
        evaluate_every_steps=EVALUATE_EVERY_STEPS,
        before_step=note,
        label=out.name,
    )
    student.save_pretrained(out / "model")


def fork(out: Path, num_steps: int) -> int:
    """Start `train` in a fork; its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(out, num_steps)
            code = 0
        finally:
            os._exit(code)
    return child


def digest(out: Path) -> dict[str, str]:
    """Hashes of all that has to be equal; of the metrics all but the speeds."""
    found = {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("model", "checkpoints")
        for path in sorted((out / folder).rglob("*"))
        if path.is_file()
    }
    records = [
        {k: v for k, v in r.items() if k != "tokens_per_s"} for r in read_metrics(out / "metrics.jsonl")
    ]
    return found | {"metrics.jsonl": hashlib.sha256(json.dumps(records).encode()).hexdigest()}


def memory(out: Path) -> list[dict[str, Any]]:
    """What `note` wrote; a line that was cut short by a kill is left out."""
    return read_metrics(out / "memory.jsonl")


def slope_bytes_per_1000_steps(records: list[dict[str, Any]], first_step: int) -> float:
    """Least squares over one process, without its beginning."""
    later = [(r["step"], r["bytes"]) for r in records if r["step"] >= first_step]
    steps, held = np.array(later, dtype=float).T
    return float(np.polyfit(steps, held, 1)[0] * 1000)


def main() -> None:
    """Run both and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    work = Path(tempfile.mkdtemp(prefix="soak-"))
    began = time.monotonic()
    assert os.waitpid(fork(work / "undisturbed", options.steps), 0)[1] == 0
    undisturbed_s = time.monotonic() - began
    rng = random.Random(options.seed)
    killed_at, disturbed = [], work / "disturbed"
    while True:
        child = fork(disturbed, options.steps)
        if len(killed_at) == options.kills:
            assert os.waitpid(child, 0)[1] == 0
            break
        # On average the kills are spread over the whole training.
        time.sleep(rng.uniform(0.0, 2.5 * undisturbed_s / options.kills))
        os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0)[1] == 0:
            break
        steps = [r["step"] for r in read_metrics(disturbed / "metrics.jsonl")]
        killed_at.append(max(steps, default=0))
        print(f"kill {len(killed_at)} at step {killed_at[-1]}", flush=True)
    calm = memory(work / "undisturbed")
    settled = [r["bytes"] for r in calm if r["step"] >= options.steps // 10]
    by_process: dict[int, int] = {}
    for record in memory(disturbed):
        by_process[record["process"]] = max(by_process.get(record["process"], 0), record["bytes"])
    expected, found = digest(work / "undisturbed"), digest(disturbed)
    result = {
        "steps": options.steps,
        "kills": len(killed_at),
        "killed_at_step": killed_at,
        "files_compared": len(expected),
        "files_that_differ": sorted(
            k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k)
        ),
        "left_over": sorted(p.name for p in disturbed.rglob(".*")),
        "undisturbed_s": round(undisturbed_s, 1),
        "memory": {
            "after_a_tenth_bytes": settled[0],
            "at_the_end_bytes": settled[-1],
            "most_bytes": max(settled),
            "slope_bytes_per_1000_steps": round(slope_bytes_per_1000_steps(calm, options.steps // 10)),
            "most_bytes_of_any_killed_process": max(by_process.values()),
        },
        "machine": {"processor": platform.processor(), "torch": torch.__version__, "threads": 1},
        "peak_bytes_of_children": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
