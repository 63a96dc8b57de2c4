"""A run directory as the pipeline writes it, with made-up but plausible numbers; needs no torch.

`PYTHONPATH=src python tests/unit/fake_run.py OUT` writes one with its report, for looking at the page.
"""

from __future__ import annotations

import json
import math
import random
import sys
from dataclasses import asdict
from pathlib import Path

from niwaki.pruning.pareto import front, knee
from niwaki.pruning.settle import settle

TEACHER = {"layer": 8, "hidden": 256, "ffn": 704, "kv": 4, "group": 2, "dim": 32, "vocab": 4096}
STUDENT = {"layer": 6, "hidden": 192, "ffn": 512, "kv": 4, "group": 1, "dim": 32, "vocab": 4096}

RECIPE = """\
kind: compress
model: sapling
out: runs/demo
seed: 0
budget: {parameters: 50%}
score: {samples: 256, sequence_length: 256}
choose: {candidates: 12, rank: distill, distill_tokens: 200k}
distill: {tokens: 4M, batch_rows: 32, learning_rate: 2.0e-3, warmup: 5%}
data: stdlib
"""

TEXTS = [
    (
        "def read_config(path):\n",
        '    """Read the configuration file and return a dict."""\n'
        '    with open(path, encoding="utf-8") as f:\n        return json.load(f)\n',
        '    """Read the config file."""\n    with open(path) as f:\n        return f.read()\n',
    ),
    (
        "class Queue:\n    def __init__(self, maxsize=0):\n",
        "        self.maxsize = maxsize\n        self._init(maxsize)\n"
        "        self.mutex = threading.Lock()\n",
        "        self.maxsize = maxsize\n        self.queue = []\n        self._lock = threading.Lock()\n",
    ),
    (
        "for name, value in sorted(",
        "self.headers.items()):\n    if value is None:\n        continue\n"
        "    self.send_header(name, value)\n",
        "self.items()):\n    if name not in self._names:\n        self._names[name] = value\n",
    ),
]


def num_parameters(sizes: dict[str, int]) -> int:
    heads, kv = sizes["kv"] * sizes["group"] * sizes["dim"], sizes["kv"] * sizes["dim"]
    hidden, ffn = sizes["hidden"], sizes["ffn"]
    layer = 2 * hidden * heads + 2 * hidden * kv + 3 * hidden * ffn + 2 * hidden
    return sizes["vocab"] * hidden + sizes["layer"] * layer + hidden


def write_fake_run(out: Path, stages: int = 5, seed: int = 0) -> Path:
    """Write the first `stages` of the five stages."""
    rng = random.Random(seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    _json(out / "manifest.json", _manifest())
    importance = _importance(rng)
    keep = _keep(importance)
    if stages >= 1:
        _json(out / "1-score" / "importance.json", importance)
    if stages >= 2:
        _json(out / "2-choose" / "candidates.json", _candidates(rng))
        _json(out / "2-choose" / "depth.json", _depth())
    if stages >= 3:
        trim = {
            "keep": keep,
            "dropped_layers": [
                f"model.layers.{n}" for n in range(TEACHER["layer"]) if n not in keep["layer"]
            ],
            "parent_sizes": TEACHER,
            "sizes": STUDENT,
            "num_parent_parameters": num_parameters(TEACHER),
            "num_parameters": num_parameters(STUDENT),
        }
        _json(out / "3-trim" / "model" / "trim.json", trim)
    if stages >= 4:
        _metrics(out / "4-distill" / "metrics.jsonl", rng, start=6.4, floor=1.26, speed=0.55)
        _json(out / "4-distill" / "model" / "config.json", {"model_type": "llama"})
    if stages >= 5:
        _metrics(out / "5-evaluate" / "random" / "metrics.jsonl", rng, start=8.3, floor=1.42, speed=0.36)
        _json(out / "5-evaluate" / "results.json", _results())
    return out


def _json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _manifest() -> dict[str, object]:
    return {
        "niwaki": "0.1.0",
        "created": "2026-11-23T15:02:11+00:00",
        "command": "niwaki run recipes/demo.yaml",
        "versions": {"python": "3.11.2", "torch": "2.13.0", "transformers": "5.23.0"},
        "hardware": {
            "cpu": "x86_64, 2 cores",
            "num_cpus": 2,
            "memory_bytes": 16_700_000_000,
            "accelerators": [],
        },
        "seed": 0,
        "teacher": {"path": "models/sapling", "fingerprint": "9f2c41d07be3a8825c0e1f64d1b7c3aa"},
        "data": {
            "source": "stdlib",
            "fingerprint": "41c80a9d7e6b52f3",
            "num_train_tokens": 4_812_544,
            "num_held_out_tokens": 262_144,
        },
    }


def _importance(rng: random.Random) -> dict[str, object]:
    def spread(scale: float) -> float:
        return scale * math.exp(rng.gauss(0, 0.8))

    layers = range(TEACHER["layer"])
    depth = [1.0 + 0.5 * layer for layer in layers]
    return {
        "layer": [0.62, 0.21, 0.11, 0.09, 0.07, 0.08, 0.13, 0.34],
        "ffn": [[spread(depth[layer]) for _ in range(TEACHER["ffn"])] for layer in layers],
        "group": [
            [[spread(depth[layer]) for _ in range(TEACHER["group"])] for _ in range(TEACHER["kv"])]
            for layer in layers
        ],
        "hidden": [spread(1.0) for _ in range(TEACHER["hidden"])],
        "num_samples": 256,
        "sequence_length_tokens": 256,
    }


def _keep(importance: dict[str, object]) -> dict[str, object]:
    def best(values: list[float], count: int) -> list[int]:
        return sorted(sorted(range(len(values)), key=lambda i: -values[i])[:count])

    return {
        "layer": best(importance["layer"], STUDENT["layer"]),
        "hidden": best(importance["hidden"], STUDENT["hidden"]),
        "ffn": [best(row, STUDENT["ffn"]) for row in importance["ffn"]],
        "group": [[best(heads, STUDENT["group"]) for heads in row] for row in importance["group"]],
    }


def _depth() -> dict[str, object]:
    losses = [8.94, 2.61, 1.42, 1.37, 1.33, 1.35, 1.51]
    removed = [{"layers": [], "value": 1.21}]
    removed += [{"layers": [layer], "value": loss} for layer, loss in enumerate(losses)]
    return {
        "measure": "loss",
        "higher_is_better": False,
        "num_samples": 128,
        "removed": removed,
        "unfinished": None,
    }


def _candidates(rng: random.Random) -> dict[str, object]:
    shapes = [
        (8, 192, 384, 1),
        (6, 192, 512, 1),
        (6, 160, 704, 2),
        (5, 192, 704, 1),
        (7, 160, 576, 2),
        (4, 224, 640, 2),
    ]
    shapes += [
        (8, 160, 512, 1),
        (5, 224, 512, 1),
        (4, 256, 512, 1),
        (6, 176, 576, 2),
        (7, 192, 448, 1),
        (3, 256, 704, 2),
    ]
    candidates = []
    for number, (layer, hidden, ffn, group) in enumerate(shapes):
        sizes = {**TEACHER, "layer": layer, "hidden": hidden, "ffn": ffn, "group": group}
        after = 1.72 + 0.03 * number + rng.uniform(0, 0.05) - (0.12 if number == 1 else 0)
        before = after + 2.2 + rng.uniform(-0.9, 1.9)
        steps = range(10, 101, 10)
        stopped_step = {9: 20, 10: 50, 11: 20}.get(number)
        curve = [
            [step, after + (before - after) * math.exp(-step / 18) + rng.gauss(0, 0.01)]
            for step in steps
            if stopped_step is None or step <= stopped_step
        ]
        candidates.append(
            {
                "sizes": sizes,
                "num_parameters": num_parameters(sizes),
                "loss_before": before,
                "loss_after": after,
                "curve": curve,
                "chosen": number == 1,
                "num_steps": stopped_step or 100,
                "stopped": stopped_step and f"6 of 12 had less than its loss at step {stopped_step}",
                "kv_cache_bytes": 8 * 640 * layer * 4 * 32,
                "latency_s": 0.004 * layer + 1e-8 * num_parameters(sizes),
            }
        )
    candidates.sort(key=lambda each: (-each["num_steps"], each["loss_after"]))
    found = settle([each["curve"] for each in candidates], range(len(candidates)))
    equal = [number for number, each in enumerate(candidates) if not each["stopped"]]
    fronts = {}
    for cost in ("num_parameters", "kv_cache_bytes", "latency_s"):
        points = [(candidates[number][cost], candidates[number]["loss_after"]) for number in equal]
        bend = knee(points, front(points))
        fronts[cost] = {"front": [equal[n] for n in front(points)], "knee": bend and equal[bend]}
    return {
        "budget": {"parameters": num_parameters(TEACHER) // 2},
        "teacher": {"sizes": TEACHER, "num_parameters": num_parameters(TEACHER)},
        "candidates": candidates,
        "rank": "distill",
        "settled": asdict(found),
        "trial_tokens": {"trained": 8_110_080, "saved": 1_720_320},
        "pareto": fronts,
    }


def _metrics(path: Path, rng: random.Random, *, start: float, floor: float, speed: float) -> None:
    num_steps, tokens_per_step = 500, 8192
    lines = []
    for step in range(1, num_steps + 1):
        level = floor + (start - floor) * (1 + step / 6) ** -(speed * 2)
        divergence = level - 1.18
        lines.append(
            {
                "step": step,
                "tokens": step * tokens_per_step,
                "loss": divergence * math.exp(rng.gauss(0, 0.05)),
                "learning_rate": 2e-3,
                "grad_norm": 0.8,
                "tokens_per_s": 21_000.0,
            }
        )
        if step % 25 == 0 or step in (3, 6, 12):
            held_out = {
                "held_out_loss": divergence,
                "held_out_cross_entropy": level * math.exp(rng.gauss(0, 0.004)),
            }
            lines.append({"step": step, "tokens": step * tokens_per_step, **held_out})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _results() -> dict[str, object]:
    def model(
        sizes: dict[str, int], loss: float, kl: float | None, accuracy: float, speed: tuple[float, float]
    ) -> dict:
        count = num_parameters(sizes)
        return {
            "num_parameters": count,
            "held_out_loss": {"mean": loss, "low": loss - 0.021, "high": loss + 0.022},
            "bits_per_byte": loss / math.log(2) / 3.31,
            "curve_loss": loss,
            "perplexity": math.exp(loss),
            "kl_to_teacher": None if kl is None else {"mean": kl, "low": kl - 0.004, "high": kl + 0.005},
            "tasks": {
                "next_line": {"acc": accuracy, "acc_stderr": 0.0141, "num_questions": 1024, "version": "1.0"}
            },
            "speed": {
                "prefill_tokens_per_s": speed[0],
                "decode_tokens_per_s": speed[1],
                "weights_bytes": 4 * count,
                "kv_bytes_per_token": 2 * 4 * sizes["layer"] * sizes["kv"] * sizes["dim"],
            },
            "disk_bytes": 2 * count + 310_000,
        }

    return {
        "models": {
            "teacher": model(TEACHER, 1.2217, None, 0.714, (11834.0, 231.4)),
            "trimmed": model(STUDENT, 6.4189, 5.287, 0.262, (21007.0, 402.6)),
            "distilled": model(STUDENT, 1.3128, 0.1034, 0.683, (20950.0, 398.2)),
            "random": model(STUDENT, 1.7064, 0.5411, 0.507, (20911.0, 400.9)),
        },
        "samples": [{"prompt": p, "teacher": teacher, "distilled": student} for p, teacher, student in TEXTS],
    }


if __name__ == "__main__":
    from niwaki.reporting.compress_page import write_report

    print(write_report(write_fake_run(Path(sys.argv[1]), *map(int, sys.argv[2:]))))
