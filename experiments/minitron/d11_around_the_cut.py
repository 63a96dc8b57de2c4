"""D11, beyond the papers: does what is done around the cut still help after distillation?

The student is the `wide` one. Around its cut: norm weights rescaled by sqrt(old / new width), the matrices
refitted in closed form (repair), both, or a rotation into the principal directions of the residual stream
before it. A rotation unties the embedding, so the rotated student has fewer hidden channels instead: all arms
have nearly the same number of parameters.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from arms import WIDTH, Arm, run, wide
from lab import CALIBRATION_ROWS, Bench, conclude, opened
from statistics_of_arms import Comparison
from transformers import PreTrainedModel

from niwaki.ground.family import family_of
from niwaki.ground.model import load_model
from niwaki.pruning.repair import repair
from niwaki.pruning.rescale import rescale_norms
from niwaki.pruning.rotate import principal_basis, rotation, second_moment
from niwaki.pruning.select import select
from niwaki.pruning.trim import trim

REPAIR_ROWS = 32
STEP_OF_HIDDEN = 8


def factor(bench: Bench, hidden: int) -> float:
    return float((bench.model.config.hidden_size / hidden) ** 0.5)


def refit(
    bench: Bench,
    seed: int,
    model: PreTrainedModel,
    keep: dict[str, torch.Tensor],
    basis: torch.Tensor | None = None,
) -> PreTrainedModel:
    repair(
        model,
        bench.model,
        bench.calibration(seed),
        keep=keep,
        num_samples=REPAIR_ROWS,
        batch_rows=4,
        basis=basis,
    )
    return model


def rescaled(bench: Bench, seed: int) -> PreTrainedModel:
    model = wide(bench, seed)
    rescale_norms(model, factor(bench, bench.teacher.wide["hidden"]))
    return model


def kept(bench: Bench, seed: int) -> dict[str, torch.Tensor]:
    scores = bench.scores(seed)
    return select(scores.importances(), scores.sizes, bench.teacher.wide)


def repaired(bench: Bench, seed: int) -> PreTrainedModel:
    return refit(bench, seed, wide(bench, seed), kept(bench, seed))


def rescaled_and_repaired(bench: Bench, seed: int) -> PreTrainedModel:
    return refit(bench, seed, rescaled(bench, seed), kept(bench, seed))


def rotated_hidden(bench: Bench) -> int:
    """The most hidden channels with which the rotated student, head of its own, is not larger than `wide`."""
    family = family_of(bench.model.config)
    sizes = family.axis_sizes(bench.model.config) | bench.teacher.wide
    most = family.count(sizes, tied=True)
    hidden = sizes["hidden"]
    while family.count(sizes | {"hidden": hidden}, tied=False) > most:
        hidden -= STEP_OF_HIDDEN
    return hidden


def rotated(bench: Bench, seed: int, *, repairs: bool = False) -> PreTrainedModel:
    """Rotated and rescaled, cut to as many parameters as `wide`."""
    hidden = rotated_hidden(bench)
    scores, rows = bench.scores(seed), bench.calibration(seed)
    keep = select(scores.importances(), scores.sizes, {**bench.teacher.wide, "hidden": hidden})
    keep["hidden"] = torch.arange(hidden)
    basis = principal_basis(second_moment(bench.model, rows, num_samples=CALIBRATION_ROWS, batch_rows=4))
    with tempfile.TemporaryDirectory() as scratch:
        trim(bench.folder, Path(scratch) / "model", keep=keep, edits=[rotation(bench.folder, basis)])
        model = load_model(Path(scratch) / "model", dtype=torch.float32)
    rescale_norms(model, factor(bench, hidden))
    return refit(bench, seed, model, keep, basis) if repairs else model


def rotated_and_repaired(bench: Bench, seed: int) -> PreTrainedModel:
    return rotated(bench, seed, repairs=True)


def main() -> None:
    bench = opened(__doc__)
    made = {
        "rescaled": rescaled,
        "repaired": repaired,
        "rescaled, repaired": rescaled_and_repaired,
        "rotated, rescaled": rotated,
        "rotated, rescaled, repaired": rotated_and_repaired,
    }
    arms = {"cut alone": run(bench, WIDTH)}
    for name, make in made.items():
        arms[name] = run(bench, Arm(f"wide-{name.replace(', ', '-')}-kl", make))
    conclude(
        bench,
        "d11",
        "closed-form repair of a cut model still lowers its loss after distillation",
        "not in the papers",
        arms,
        [
            Comparison("repaired", "cut alone"),
            Comparison("repaired", "cut alone", "before"),
            Comparison("rescaled", "cut alone"),
            Comparison("rescaled, repaired", "cut alone"),
            Comparison("rotated, rescaled", "cut alone"),
            Comparison("rotated, rescaled, repaired", "cut alone"),
            Comparison("rotated, rescaled, repaired", "rescaled, repaired"),
        ],
        rotated_hidden=rotated_hidden(bench),
    )


if __name__ == "__main__":
    main()
