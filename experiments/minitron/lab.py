"""The bench of these experiments: two teachers, their text, and one way to make, train and measure a student.

An *arm* is one way to get a student, such as "width, KL". It is run once for every seed, which draws the
calibration rows, the order of the training rows and random weights; the held-out rows are always the same.
Every finished run of an arm is one JSON file under `runs/minitron/`, so a killed script goes on where it
stopped, and directions share the arms that they have in common.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from statistics_of_arms import Comparison, compare
from transformers import AutoModelForCausalLM, PreTrainedModel

from niwaki.distillation.correction import distill_and_correct
from niwaki.distillation.train import distill, next_token_loss
from niwaki.evaluation.loss import held_out_loss
from niwaki.ground.corpus import Corpus, prepare
from niwaki.ground.loop import fit
from niwaki.ground.metrics import read_metrics
from niwaki.ground.model import count_parameters, load_model, load_tokenizer, local_folder
from niwaki.ground.run import write_atomically
from niwaki.ground.stream import Rows
from niwaki.pruning.memory_cut import cut_model
from niwaki.pruning.score import score
from niwaki.pruning.scores import Scores
from niwaki.pruning.select import select

SEEDS = (0, 1, 2)
RESULTS = Path(__file__).parent / "results"
RUNS = Path("runs/minitron")

SEQUENCE_LENGTH_TOKENS = 256
BATCH_ROWS = 4
CALIBRATION_ROWS = 128
HELD_OUT_ROWS = 96
CURVE_ROWS = 16
CURVE_POINTS = 6
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Teacher:
    """A teacher, its text, and two students of nearly equal size: `wide` keeps all layers, `deep` half."""

    name: str
    model: str
    data: str
    held_out: float
    train_tokens: int
    wide: Mapping[str, int]
    deep: Mapping[str, int]


TEACHERS = {
    "sapling": Teacher(
        name="sapling",
        model="sapling",
        data="stdlib",
        held_out=0.08,
        train_tokens=48_000,
        wide={"hidden": 192, "ffn": 312},  # 3,407,040 parameters of 5,771,520
        deep={"layer": 4},  # 3,410,176
    ),
    "novels": Teacher(
        name="novels",
        model="data/novels/model",
        data="data/text_novels100/train",
        held_out=0.06,
        train_tokens=48_000,
        wide={"hidden": 96, "ffn": 208},  # 1,360,224 parameters of 2,477,184
        deep={"layer": 6},  # 1,369,728
    ),
}


@dataclass(frozen=True)
class Bench:
    """One teacher with everything that is loaded once."""

    teacher: Teacher

    @property
    def folder(self) -> Path:
        """The teacher's model folder."""
        return local_folder(self.teacher.model)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The teacher, in float32."""
        return load_model(self.folder, dtype=torch.float32)

    @cached_property
    def corpus(self) -> Corpus:
        """Its text, split."""
        tokenizer = load_tokenizer(self.folder)
        return prepare(self.teacher.data, tokenizer, held_out=self.teacher.held_out)

    @cached_property
    def held_out(self) -> Rows:
        """Text that neither teacher nor student was trained on."""
        return Rows(self.corpus.held_out.ids, sequence_length=SEQUENCE_LENGTH_TOKENS)

    def rows(self, seed: int) -> Rows:
        """Training text in the order of `seed`."""
        return Rows(self.corpus.train.ids, sequence_length=SEQUENCE_LENGTH_TOKENS, seed=seed)

    def scores(self, seed: int) -> Scores:
        """Activation scores with every aggregation, from the calibration rows of `seed`."""
        path = RUNS / self.teacher.name / "scores" / f"{seed}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            found = score(
                self.model,
                self.calibration(seed),
                num_samples=CALIBRATION_ROWS,
                batch_rows=4,
                sequence=("mean", "l2", "var"),
            )
            found.save(path)
        return Scores.load(path)

    def calibration(self, seed: int) -> Rows:
        """Rows to score on: the training text in an order of its own."""
        return self.rows(seed + 1_000_003)

    def cut(self, keep: Mapping[str, torch.Tensor]) -> PreTrainedModel:
        """The teacher cut to `keep`, in float32."""
        return cut_model(self.model, keep)

    def pruned(
        self, sizes: Mapping[str, int], seed: int, *, batch: str = "l2", sequence: str = "mean"
    ) -> PreTrainedModel:
        """The teacher cut to `sizes` by its scores."""
        scores = self.scores(seed)
        return self.cut(select(scores.importances(batch=batch, sequence=sequence), scores.sizes, sizes))

    def random_weights(self, sizes: Mapping[str, int], seed: int) -> PreTrainedModel:
        """The same shape without anything of the teacher."""
        config = self.pruned(sizes, seed).config
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)

    def measure(self, model: PreTrainedModel) -> list[float]:
        """Nats per token of every held-out row."""
        found = held_out_loss(model, self.held_out, num_rows=HELD_OUT_ROWS, batch_rows=8)
        return [
            round(nats / tokens, 5) for nats, tokens in zip(found.row_nats, found.row_tokens, strict=True)
        ]


Make = Callable[[Bench, int], PreTrainedModel]


def run_arm(
    bench: Bench,
    arm: str,
    seed: int,
    make: Make,
    *,
    tokens: int | None = None,
    learn: str = "kl",
    rows: Rows | None = None,
    teacher: PreTrainedModel | None = None,
    save: bool = False,
    learning_rate: float = LEARNING_RATE,
    **options: Any,
) -> dict[str, Any]:
    """Make a student, train it unless `learn` is "nothing", measure it; read the result if there is one.

    Args:
        arm: a name that says all that `make` and the rest do: results are found by it.
        tokens: to train on; the teacher's `train_tokens` when None.
        learn: "kl" from the teacher (with `options` of `distill`), "kl alongside" from a teacher that learns
            the text in the same steps, "text" for the LM loss alone, "nothing".
        rows, teacher: instead of the bench's own.
        learning_rate: the peak; a tenth of it at the end.
        save: keep the student in the arm's folder.

    Returns:
        {"arm", "seed", "num_parameters", "num_tokens", "before": row losses, "after": row losses or None,
        "curve": [[tokens, loss], ...]}.
    """
    folder = RUNS / bench.teacher.name / arm / str(seed)
    if (folder / "result.json").exists():
        return json.loads((folder / "result.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    student = make(bench, seed)
    tokens = bench.teacher.train_tokens if tokens is None else tokens
    num_steps = 0 if learn == "nothing" else tokens // (BATCH_ROWS * SEQUENCE_LENGTH_TOKENS)
    result: dict[str, Any] = {
        "arm": arm,
        "seed": seed,
        "num_parameters": count_parameters(student),
        "num_tokens": num_steps * BATCH_ROWS * SEQUENCE_LENGTH_TOKENS,
        "before": bench.measure(student),
        "after": None,
        "curve": [],
    }
    if num_steps:
        settings: dict[str, Any] = {
            "out": folder,
            "num_steps": num_steps,
            "batch_rows": BATCH_ROWS,
            "micro_rows": BATCH_ROWS,
            "learning_rate": learning_rate,
            "min_learning_rate": learning_rate / 10,
            "warmup_steps": num_steps // 20,
            "weight_decay": 0.1,
            "seed": seed,
            "save_every_steps": max(200, num_steps // 4),
            "keep_snapshots": 1,
            "held_out": bench.held_out,
            "held_out_rows": CURVE_ROWS,
            "evaluate_every_steps": max(1, num_steps // CURVE_POINTS),
            "label": f"{bench.teacher.name}: {arm}, seed {seed}",
        }
        rows = bench.rows(seed) if rows is None else rows
        if learn == "text":
            fit(student, rows, next_token_loss, **settings)
        elif learn == "kl alongside":
            distill_and_correct(student, deepcopy(bench.model), rows, **settings, **options)
        else:
            distill(student, teacher or bench.model, rows, **settings, **options)
        result["after"] = bench.measure(student)
        result["curve"] = [
            [r["step"] * BATCH_ROWS * SEQUENCE_LENGTH_TOKENS, r["held_out_cross_entropy"]]
            for r in read_metrics(folder / "metrics.jsonl")
            if "held_out_cross_entropy" in r
        ]
        shutil.rmtree(folder / "checkpoints")
    if save:
        student.save_pretrained(folder / "model")
    write_atomically(folder / "result.json", json.dumps(result))
    after = f", then {mean(result['after']):.3f}" if result["after"] else ""
    print(f"{bench.teacher.name}: {arm}, seed {seed}: {mean(result['before']):.3f}{after}", flush=True)
    return result


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def opened(description: str | None) -> Bench:
    """Read the command line of a direction's script."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", choices=sorted(TEACHERS), default="sapling")
    return Bench(TEACHERS[parser.parse_args().teacher])


def conclude(
    bench: Bench,
    direction: str,
    claim: str,
    paper: str,
    arms: Mapping[str, Sequence[Mapping[str, Any]]],
    comparisons: Sequence[Comparison],
    **extra: Any,
) -> None:
    """Write `results/<direction>-<teacher>.json` and print it in short.

    Args:
        claim, paper: what the paper says, and its figures.
        arms: name -> results of its seeds.
        comparisons: which arm should have the lower loss than which; the first is the claim itself.
    """
    summary = {
        name: {
            "num_parameters": results[0]["num_parameters"],
            "num_tokens": results[0]["num_tokens"],
            "before": [round(mean(r["before"]), 4) for r in results],
            "after": [round(mean(r["after"]), 4) for r in results] if results[0]["after"] else None,
            "curves": [r["curve"] for r in results],
        }
        for name, results in arms.items()
    }
    content = {
        "direction": direction,
        "teacher": bench.teacher.name,
        "teacher_loss": round(mean(bench.measure(bench.model)), 4),
        "claim": claim,
        "paper": paper,
        "arms": summary,
        "comparisons": [compare(c, arms) for c in comparisons],
        **extra,
    }
    RESULTS.mkdir(exist_ok=True)
    write_atomically(RESULTS / f"{direction}-{bench.teacher.name}.json", json.dumps(content, indent=1) + "\n")
    for found in content["comparisons"]:
        print(
            f"{direction} {bench.teacher.name}: {found['better']} - {found['worse']} ({found['when']}): "
            f"{found['difference']:+.4f} ({found['low']:+.4f} to {found['high']:+.4f}) {found['verdict']}"
        )
