"""Which shapes are fastest at equal size here, and how the choice changes when latency is the limit.

    python experiments/minitron/latency.py --out experiments/minitron/latency.json

In: nothing but `sapling`, the bundled teacher. Shapes of half its parameters, give or take 3 %, that differ
in depth, width or heads are built with random weights and timed in turns with the teacher, in --rounds rounds
over all shapes; the same shapes are trimmed from the teacher, taught for --steps steps and ranked by held-out
loss. Out: JSON with the latencies and losses, the latencies that the roofline gives for an H100, and the
shape that wins without a limit and at most at each of several latencies. A few minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

from niwaki.distillation.train import distill
from niwaki.evaluation.loss import held_out_loss
from niwaki.ground.family import Family, family_of
from niwaki.pipelines.cut import cut
from niwaki.pipelines.devices import DEVICES
from niwaki.pipelines.inputs import Inputs
from niwaki.pipelines.plan import shape_of
from niwaki.pipelines.serving import Request, serving_cost
from niwaki.pipelines.stopwatch import latencies_s, random_model
from niwaki.pruning.architecture import Budget, candidates
from niwaki.pruning.pareto import front
from niwaki.pruning.score import score
from niwaki.recipe.compress import CompressRecipe

REQUEST = Request(batch=1, prompt_tokens=128, new_tokens=32)
LARGE_REQUEST = Request(batch=64, prompt_tokens=512, new_tokens=128)
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("experiments/minitron/latency.json"))
    parser.add_argument("--rounds", type=int, default=3, help="rounds of timing over all shapes")
    parser.add_argument("--steps", type=int, default=16, help="training steps of each shape; 0 for none")
    arguments = parser.parse_args()
    inputs = Inputs(recipe_of(max(arguments.steps, 1)))
    config = inputs.teacher_checkpoint.config
    family = family_of(config)
    shapes = equal_shapes(family, family.axis_sizes(config))
    rows = [row_of(inputs, family, name, sizes) for name, sizes in shapes.items()]
    time_all(inputs, family, rows, arguments.rounds)
    if arguments.steps:
        teach_all(inputs, rows, arguments.steps)
    found = {
        "teacher": "sapling",
        "machine": platform.machine(),
        "request": vars(REQUEST),
        "large_request": vars(LARGE_REQUEST),
        "steps": arguments.steps,
        "shapes": rows,
        **(choices(rows) if arguments.steps else {}),
    }
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    show(found)


def recipe_of(num_steps: int) -> CompressRecipe:
    """Settings of the short trainings."""
    batch_tokens = 1024
    return CompressRecipe.model_validate(
        {
            "kind": "compress",
            "teacher": "sapling",
            "data": {"source": "stdlib", "sequence_length_tokens": 256},
            "score": {"num_samples": 32},
            "choose": {"to": "50%", "trial_tokens": batch_tokens},
            "distill": {
                "tokens": num_steps * batch_tokens,
                "batch_tokens": batch_tokens,
                "micro_rows": 4,
                "learning_rate": 1e-3,
                "min_learning_rate": 1e-4,
                "precision": "float32",
            },
            "evaluate": {"num_tokens": 8_192},
        }
    )


def equal_shapes(family: Family, teacher: dict[str, int]) -> dict[str, dict[str, int]]:
    """Shapes of half the parameters that spend them differently."""
    budget = Budget.around(family.count(teacher, tied=True) // 2, tolerance=0.03)

    def first(axes: tuple[str, ...], **wanted: int) -> dict[str, int]:
        found = candidates(family, teacher, budget=budget, tied=True, axes=axes, limit=10_000)
        return next(s for s in found if all(s[axis] == size for axis, size in wanted.items()))

    return {
        "8 layers, narrow": first(("hidden", "ffn")),
        "7 layers": first(("layer", "hidden", "ffn"), layer=7),
        "6 layers": first(("layer", "hidden", "ffn"), layer=6),
        "5 layers": first(("layer", "hidden", "ffn"), layer=5),
        "4 layers": first(("layer", "hidden", "ffn"), layer=4),
        "8 layers, half the query heads": first(("hidden", "ffn", "group"), group=1),
    }


def row_of(inputs: Inputs, family: Family, name: str, sizes: dict[str, int]) -> dict[str, Any]:
    config = inputs.teacher_checkpoint.config
    resized = family.resize(config, sizes)
    shape = shape_of(family, resized, sizes)

    def on_h100(request: Request) -> float:
        cost = serving_cost(shape, resized, request, bytes_per_weight=2, device=DEVICES["h100"])
        assert cost.latency_s is not None
        return cost.latency_s

    return {
        "name": name,
        "sizes": sizes,
        "num_parameters": shape.num_parameters,
        "h100_modelled_s": on_h100(REQUEST),
        "h100_modelled_large_s": on_h100(LARGE_REQUEST),
    }


def time_all(inputs: Inputs, family: Family, rows: list[dict[str, Any]], num_rounds: int) -> None:
    """Time every shape in turns with the teacher; the median over rounds of the ratio, and its range."""
    config = inputs.teacher_checkpoint.config
    teacher = random_model(config)
    ratios: dict[str, list[float]] = {row["name"]: [] for row in rows}
    teacher_s = []
    for _ in range(num_rounds):
        for row in rows:
            model = random_model(family.resize(config, row["sizes"]))
            timed = latencies_s({"teacher": teacher, "shape": model}, REQUEST)
            ratios[row["name"]].append(timed["shape"] / timed["teacher"])
            teacher_s.append(timed["teacher"])
    for row in rows:
        found = ratios[row["name"]]
        row["latency_of_teacher"] = statistics.median(found)
        row["latency_range"] = [min(found), max(found)]
        row["latency_s"] = row["latency_of_teacher"] * statistics.median(teacher_s)


def teach_all(inputs: Inputs, rows: list[dict[str, Any]], num_steps: int) -> None:
    """Trim each shape from the teacher and teach it for a while; adds its held-out loss before and after."""
    teacher = inputs.load(inputs.teacher_folder)
    scores = score(teacher, inputs.calibration, num_samples=32, batch_rows=8)
    with tempfile.TemporaryDirectory() as place:
        for number, row in enumerate(rows):
            folder = Path(place) / str(number)
            cut(inputs, scores, row["sizes"], folder / "model")
            student = inputs.load_student(folder / "model")
            row["loss_before"] = loss_of(inputs, student)
            options = inputs.training(num_steps) | {"held_out_rows": 0}
            distill(student, teacher, inputs.train, out=folder, label=row["name"], **options)
            row["loss_after"] = loss_of(inputs, student)


def loss_of(inputs: Inputs, model: Any) -> float:
    rows = inputs.num_held_out_rows
    return held_out_loss(model, inputs.held_out, num_rows=rows, batch_rows=8).nats_per_token.mean


def choices(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The least loss without a limit, and at each latency that a shape on the front just keeps."""
    points = [(row["latency_of_teacher"], row["loss_after"]) for row in rows]
    # On the front, each shape is the best among those at most as slow.
    limits = {f"{points[number][0]:.3f}": rows[number]["name"] for number in front(points)}
    best = min(rows, key=lambda row: row["loss_after"])
    return {"best_without_limit": best["name"], "best_within_latency_of_teacher": limits}


def show(found: dict[str, Any]) -> None:
    for row in sorted(found["shapes"], key=lambda row: row["latency_of_teacher"]):
        low, high = row["latency_range"]
        loss = f"  loss {row['loss_before']:.3f} -> {row['loss_after']:.3f}" if "loss_after" in row else ""
        sizes = " ".join(str(row["sizes"][axis]) for axis in ("layer", "hidden", "ffn", "kv", "group"))
        ratio = f"{row['latency_of_teacher']:.2f} of the teacher ({low:.2f} to {high:.2f})"
        print(f"{row['name']:32s} {sizes:18s} {row['num_parameters']:,}  {ratio}{loss}")
    if "best_without_limit" in found:
        print("without a limit:", found["best_without_limit"])
        for limit, name in found["best_within_latency_of_teacher"].items():
            print(f"at most {limit} of the teacher's latency: {name}")


if __name__ == "__main__":
    main()
