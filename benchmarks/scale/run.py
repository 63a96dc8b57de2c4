"""What `niwaki check` predicts against what training takes, at small scale; its predictions at large scale.

Small: distils a Llama of random weights for a few steps in a fresh fork, and compares the peak of its
resident memory (over what it held before) and its processor time with the predicted cost of the stage. The
processor's speed is measured in the same fork, as `check` does. Some are trained by two such processes.
Another fork counts the bytes of tensors alone, as a GPU's allocator does.
Large: plans the recipes of `recipes/` for their teachers' configs, written by hand, without weights.

    python benchmarks/scale/run.py
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from niwaki.distillation.train import distill
from niwaki.ground.parts import load_together
from niwaki.ground.processes import join, supposing
from niwaki.ground.stream import Rows
from niwaki.pipelines.costs import StageCost, Work, stage_costs
from niwaki.pipelines.plan import own_shape, plan
from niwaki.recipe.kinds import load_recipe

ROW_TOKENS, NUM_STEPS, EFFICIENCY = 256, 3, 0.4
# name: hidden, layers, vocabulary, rows at a time, activations kept or not, processes, sharded
SMALL = {
    "7M": (256, 4, 8192, 4, False, 1, False),
    "23M": (384, 6, 16384, 4, False, 1, False),
    "23M, checkpointing": (384, 6, 16384, 4, True, 1, False),
    "23M, 2 processes, DDP": (384, 6, 16384, 2, False, 2, False),
    "23M, 2 processes, FSDP2": (384, 6, 16384, 2, False, 2, True),
}
RECIPES = Path(__file__).parents[2] / "recipes"
HEADS_128 = {"head_dim": 128, "num_key_value_heads": 8}
CONFIGS = {
    "Llama-3.2-1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "head_dim": 64}
    | {"num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True},
    "Llama-3.1-8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
    | {"num_attention_heads": 32} | HEADS_128,
    "Llama-3.1-70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}
    | {"num_attention_heads": 64} | HEADS_128,
}  # fmt: skip
# recipe, teacher, processes, sharded; H100: 989.5 TFLOP/s at most, of which 40 % are supposed.
LARGE = (
    ("llama-1b-to-half.yaml", "Llama-3.2-1B", 1, False),
    ("llama-1b-to-half.yaml", "Llama-3.2-1B", 8, False),
    ("llama-8b-to-4b.yaml", "Llama-3.1-8B", 8, False),
    ("llama-8b-to-4b.yaml", "Llama-3.1-8B", 8, True),
    ("llama-8b-to-4b.yaml", "Llama-3.1-8B", 64, True),
    ("llama-70b-to-half.yaml", "Llama-3.1-70B", 32, True),
    ("llama-70b-to-half.yaml", "Llama-3.1-70B", 64, True),
)
H100_FLOPS_PER_S = 989.5e12 * EFFICIENCY


def config(hidden: int, layers: int, vocab: int) -> LlamaConfig:
    """A Llama with heads of 64."""
    heads = hidden // 64
    return LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
    )


def predicted(name: str) -> StageCost:
    """The cost of the stage, for one process."""
    hidden, layers, vocab, micro_rows, checkpointing, num_processes, sharded = SMALL[name]
    student, teacher = own_shape(config(hidden, layers, vocab)), own_shape(config(hidden, layers + 2, vocab))
    work = Work(
        sequence_length_tokens=ROW_TOKENS,
        calibration_rows=1,
        calibration_batch_rows=1,
        micro_rows=micro_rows,
        distill_tokens=NUM_STEPS * 4 * ROW_TOKENS,
        trial_tokens=0,
        num_candidates=1,
        evaluate_tokens=1,
        has_baseline=False,
        num_processes=num_processes,
        is_sharded=sharded,
        checkpointing=checkpointing,
    )
    costs = stage_costs(teacher, student, work, bytes_per_weight=4, bytes_per_activation=4)
    return next(cost for cost in costs if cost.name == "distill")


def cpu_flops_per_s() -> float:
    """As `niwaki check` measures it, but in processor time, which other work does not stretch."""
    matrix = torch.ones(768, 768)
    times = []
    for _ in range(6):
        began = time.process_time()
        (matrix @ matrix)[0, 0].item()
        times.append(time.process_time() - began)
    return EFFICIENCY * 2 * 768**3 / min(times[1:])


def held_bytes(field: str) -> int:
    """VmRSS, or VmHWM, its peak."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024


def measure(name: str, out: Path, *, counted: bool) -> dict[str, float]:
    """Distil and report what this process took; `counted` adds the peak of its tensors, and takes more."""
    _, layers, vocab, micro_rows, checkpointing, *_ = SMALL[name]
    torch.set_num_threads(1)
    flops_per_s = cpu_flops_per_s()
    rows = Rows(np.random.default_rng(0).integers(0, vocab, 50_000), sequence_length=ROW_TOKENS, seed=0)
    folders = [out.with_name(f"{num_layers}-layers") for num_layers in (layers, layers + 2)]
    join()  # what the connections hold is not counted
    Path("/proc/self/clear_refs").write_text("5")
    before = held_bytes("VmRSS")
    counting = profile(activities=[ProfilerActivity.CPU], profile_memory=True) if counted else nullcontext()
    with counting:
        student, teacher = (load_together(folder, dtype=torch.float32) for folder in folders)
        if counted:  # weights may be views of a mapped file, which no allocator knows of
            for parameter in [*student.parameters(), *teacher.parameters()]:
                parameter.data = parameter.data.clone()
        began = time.process_time()
        distill(
            student,
            teacher,
            rows,
            out=out,
            num_steps=NUM_STEPS,
            batch_rows=4,
            micro_rows=micro_rows,
            learning_rate=1e-3,
            checkpointing=checkpointing,
            save_every_steps=10**6,
        )
    found = {
        "memory_bytes": held_bytes("VmHWM") - before,
        "cpu_s": time.process_time() - began,
        "flops_per_s": flops_per_s,
    }
    if counted:
        trace = out.with_name(f"{os.getpid()}.trace.json")
        counting.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
        found["tensor_bytes"] = max(e["args"]["Total Allocated"] for e in events if e["name"] == "[memory]")
    return found


def save_models(name: str, folder: Path) -> None:
    """Random student and teacher, in a process of its own, which takes its memory along when it ends."""
    hidden, layers, vocab, *_ = SMALL[name]
    for num_layers in (layers, layers + 2):
        model = LlamaForCausalLM(config(hidden, num_layers, vocab))
        model.save_pretrained(folder / f"{num_layers}-layers")


def run_small(name: str) -> dict[str, Any]:
    """Prediction and measurement."""
    found, counted = run_forks(name, counted=False), run_forks(name, counted=True)
    cost = predicted(name)
    return {
        "name": name,
        "predicted_memory_bytes": cost.memory_bytes,
        "measured_memory_bytes": found["memory_bytes"],
        "memory_ratio": round(cost.memory_bytes / found["memory_bytes"], 2),
        "tensor_bytes": counted["tensor_bytes"],
        "tensor_ratio": round(cost.memory_bytes / counted["tensor_bytes"], 2),
        "predicted_cpu_s": round(cost.flops / found["flops_per_s"], 2),
        "measured_cpu_s": round(found["cpu_s"], 2),
        "time_ratio": round(cost.flops / found["flops_per_s"] / found["cpu_s"], 2),
        "gflops_per_s": round(found["flops_per_s"] / 1e9, 1),
    }


def run_forks(name: str, *, counted: bool) -> dict[str, float]:
    """What the first process measures, in forks of this one: one, or several that find each other."""
    *_, num_processes, sharded = SMALL[name]
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        free.close()
        maker = multiprocessing.Process(target=save_models, args=(name, Path(folder)))
        maker.start()
        maker.join()
        children = [
            fork(name, Path(folder), rank, num_processes, sharded, meeting, counted)
            for rank in range(num_processes)
        ]
        assert all(os.waitpid(child, 0)[1] == 0 for child in children)
        found: dict[str, float] = json.loads((Path(folder) / "0.json").read_text())
    return found


def fork(
    name: str,
    folder: Path,
    rank: int,
    num_processes: int,
    sharded: bool,
    meeting: dict[str, str],
    counted: bool,
) -> int:
    """Start one process of the measurement; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if num_processes > 1:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes}
            place["LOCAL_WORLD_SIZE"] = num_processes
            os.environ |= {key: str(value) for key, value in place.items()} | meeting
            if sharded:
                os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
        found = measure(name, folder / "out", counted=counted)
        (folder / f"{rank}.json").write_text(json.dumps(found))
        code = 0
    finally:
        os._exit(code)


def run_large(recipe: str, teacher: str, num_processes: int, sharded: bool) -> dict[str, Any]:
    """What a plan says about a recipe for a teacher of which only the config is here."""
    with tempfile.TemporaryDirectory() as folder:
        common = {"vocab_size": 128256, "max_position_embeddings": 131072, "dtype": "bfloat16"}
        LlamaConfig(**(common | CONFIGS[teacher])).save_pretrained(folder)
        read = load_recipe(RECIPES / recipe).model_copy(update={"teacher": folder})
        with supposing(num_processes, is_sharded=sharded):
            planned = plan(read, out=Path(folder) / "run", flops_per_s=H100_FLOPS_PER_S)
    stages = [
        {
            "name": stage.name,
            "memory_gb": round(stage.memory_bytes / 1e9, 1),
            "hours": round(stage.flops / H100_FLOPS_PER_S / 3600, 2),
        }
        for stage in planned.stages
    ]
    return {
        "recipe": recipe,
        "teacher": teacher,
        "student_parameters": max(shape.num_parameters for shape in planned.candidates),
        "processes": num_processes,
        "sharded": sharded,
        "micro_rows": read.distill.micro_rows,
        "checkpointing": read.distill.checkpointing,
        "tokens": read.distill.tokens,
        "written_gb": round(sum(s.written_bytes for s in planned.stages) / 1e9, 1),
        "hours": round(planned.duration_s / 3600, 1),
        "stages": stages,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, plan, and write results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large-only", action="store_true", help="keep the measurements that are there")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    options = parser.parse_args(arguments)
    kept = json.loads(options.out.read_text())["small"] if options.large_only else None
    small = kept or [run_small(name) for name in SMALL]
    result = {"torch": torch.__version__, "small": small, "large": [run_large(*each) for each in LARGE]}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
