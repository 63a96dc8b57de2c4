"""How many tokens does the student's shape need, from random weights, to catch up with the student?

    python experiments/catch_up/run.py runs/demo --most 16

Trains the shape of a finished run from random weights, with the same teacher, loss and settings, on 1, 2,
4, ... times the student's tokens, each with its own full learning-rate schedule, until its held-out loss is
that of the student. Writes RUN/catch-up/results.json; goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from niwaki.distillation.train import distill
from niwaki.evaluation.loss import held_out_loss
from niwaki.ground.run import write_atomically
from niwaki.pipelines.inputs import Inputs, device
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.load import load


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a finished run directory")
    parser.add_argument("--most", type=int, default=16, help="stop after this multiple of the tokens")
    arguments = parser.parse_args()
    run: Path = arguments.run
    recipe = load(run / "recipe.yaml", CompressRecipe)
    inputs = Inputs(recipe)
    student = loss_of(inputs, inputs.load(run / "4-distill" / "model"))
    out = run / "catch-up"
    out.mkdir(exist_ok=True)
    results = {
        "student": student,
        "student_tokens": recipe.num_steps * recipe.batch_rows * row_tokens(recipe),
    }
    results["random"] = {}
    multiple = 1
    while multiple <= arguments.most:
        reached = train(recipe, inputs, run, out / f"times-{multiple}", multiple)
        results["random"][multiple] = reached
        write_atomically(out / "results.json", json.dumps(results, indent=1))
        print(f"{multiple:3d} x the tokens: {reached['mean']:.3f}; student {student['mean']:.3f}", flush=True)
        if reached["mean"] <= student["mean"]:
            break
        multiple *= 2


def train(recipe: CompressRecipe, inputs: Inputs, run: Path, folder: Path, multiple: int) -> dict[str, float]:
    torch.manual_seed(recipe.seed)
    config = AutoConfig.from_pretrained(run / "3-trim" / "model", dtype="float32")
    model = AutoModelForCausalLM.from_config(config).to(device())
    teacher = inputs.load(inputs.teacher_folder)
    options = inputs.training(multiple * recipe.num_steps)
    distill(model, teacher, inputs.train, out=folder, label=f"random x{multiple}", **options)
    return loss_of(inputs, model.eval())


def loss_of(inputs: Inputs, model: torch.nn.Module) -> dict[str, float]:
    found = held_out_loss(model, inputs.held_out, num_rows=inputs.num_held_out_rows, batch_rows=8)
    return vars(found.nats_per_token)


def row_tokens(recipe: CompressRecipe) -> int:
    return recipe.data.sequence_length_tokens


if __name__ == "__main__":
    main()
