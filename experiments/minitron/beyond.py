"""What happens around the cut, measured: rotation, norm rescaling, closed-form repair (beyond the papers).

    python experiments/minitron/beyond.py --teacher sapling --data stdlib --out results/beyond.json

In: a teacher and text. Out: a table on the terminal and a JSON file, KL(teacher || trimmed) in nats per
held-out token for hidden cuts to 7/8, 3/4 and 1/2 and MLP cuts to 3/4 and 1/2. With --steps, every variant of
the hidden cut to 3/4 is also distilled for so many steps, because what helps before training need not help
after it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from niwaki.distillation.train import distill
from niwaki.evaluation.loss import held_out_loss
from niwaki.ground.corpus import prepare
from niwaki.ground.family import family_of
from niwaki.ground.model import load_model, load_tokenizer, local_folder
from niwaki.ground.stream import Rows
from niwaki.pruning.repair import repair
from niwaki.pruning.rescale import rescale_norms
from niwaki.pruning.rotate import principal_basis, rotation, second_moment
from niwaki.pruning.score import score
from niwaki.pruning.select import select
from niwaki.pruning.trim import trim

SEED = 1_000_003
BATCH_ROWS = 8
HIDDEN_CUTS = ((7, 8), (3, 4), (1, 2))
FFN_CUTS = ((3, 4), (1, 2))
DISTILLED_CUT = (3, 4)
HIDDEN_VARIANTS = tuple((rotate, rescale) for rotate in (False, True) for rescale in (False, True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", default="sapling", help="model folder, hub name or sapling")
    parser.add_argument("--data", default="stdlib", help="text, as data.source of a recipe")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--sequence-length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--rows", type=int, default=16, help="calibration rows")
    parser.add_argument("--held-out-rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=0, help="distil the variants of one cut for so long")
    arguments = parser.parse_args()
    folder = local_folder(arguments.teacher)
    corpus = prepare(arguments.data, load_tokenizer(folder), held_out=0.1)
    length = arguments.sequence_length
    train = Rows(corpus.train.ids, sequence_length=length, seed=SEED)
    held_out = Rows(corpus.held_out.ids, sequence_length=length)
    teacher = load_model(folder, dtype=torch.float32)
    family = family_of(teacher.config)
    sizes = family.axis_sizes(teacher.config)
    scores = score(teacher, train, num_samples=arguments.rows, batch_rows=BATCH_ROWS)
    moment = second_moment(teacher, train, num_samples=arguments.rows, batch_rows=BATCH_ROWS)
    basis = principal_basis(moment)

    def kl(model: PreTrainedModel) -> float:
        found = held_out_loss(
            model, held_out, num_rows=arguments.held_out_rows, batch_rows=BATCH_ROWS, teacher=teacher
        )
        assert found.kl_to_teacher is not None
        return found.kl_to_teacher.mean

    def measure(axis: str, part: tuple[int, int], *, rotated: bool, rescaled: bool, repaired: bool) -> Any:
        new = sizes | {axis: sizes[axis] * part[0] // part[1]}
        keep = select(scores.importances(), scores.sizes, new)
        edits = []
        if rotated:
            keep["hidden"] = torch.arange(new["hidden"])
            edits = [rotation(folder, basis)]
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            record = trim(folder, Path(scratch) / "model", keep=keep, edits=edits)
            model = load_model(Path(scratch) / "model", dtype=torch.float32)
            if rescaled:
                rescale_norms(model, (sizes["hidden"] / new["hidden"]) ** 0.5)
            if repaired:
                repair(
                    model,
                    teacher,
                    train,
                    keep=keep,
                    num_samples=arguments.rows,
                    batch_rows=BATCH_ROWS,
                    basis=basis if rotated else None,
                )
            result: dict[str, Any] = {
                "axis": axis,
                "size": new[axis],
                "rotate": rotated,
                "rescale": rescaled,
                "repair": repaired,
                "num_parameters": record.num_parameters,
                "duration_s": round(time.perf_counter() - began, 2),
                "kl": kl(model),
            }
            if arguments.steps and axis == "hidden" and part == DISTILLED_CUT:
                distill(
                    model,
                    teacher,
                    train,
                    out=Path(scratch) / "distil",
                    num_steps=arguments.steps,
                    batch_rows=BATCH_ROWS,
                    micro_rows=BATCH_ROWS,
                    learning_rate=2e-3,
                    min_learning_rate=2e-4,
                    warmup_steps=arguments.steps // 20,
                    save_every_steps=arguments.steps,
                )
                result["kl_distilled"] = kl(model)
        after = f" {result['kl_distilled']:8.4f}" if "kl_distilled" in result else ""
        words = [name for name in ("rotate", "rescale", "repair") if result[name]]
        print(
            f"{axis:6} {new[axis]:5} {record.num_parameters:10,} {result['kl']:8.4f}{after}  "
            f"{' '.join(words) or 'plain'}",
            flush=True,
        )
        return result

    print("cut           parameters       KL  what was done", flush=True)
    results = [
        measure("hidden", part, rotated=rotated, rescaled=rescaled, repaired=repaired)
        for part in HIDDEN_CUTS
        for rotated, rescaled in HIDDEN_VARIANTS
        for repaired in (False, True)
    ]
    results += [
        measure("ffn", part, rotated=False, rescaled=False, repaired=repaired)
        for part in FFN_CUTS
        for repaired in (False, True)
    ]
    settings = {name: value for name, value in vars(arguments).items() if name != "out"}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"settings": settings, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
