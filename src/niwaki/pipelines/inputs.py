"""What every stage of a run starts from: the teacher's folder, its tokenizer, and rows of text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from niwaki.distillation.hidden import HiddenLoss
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.corpus import Corpus
from niwaki.ground.model import load_model, local_folder
from niwaki.ground.parts import load_together
from niwaki.ground.stream import Rows
from niwaki.ground.streamed import load_or_stream
from niwaki.pipelines.texts import Texts
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.sparsify import SparsifyRecipe
from niwaki.sapling import TASK_FOLDER

CORRECT = "0-correct"
_EVALUATIONS = 8


@dataclass(frozen=True)
class Inputs:
    """Opened when first asked for, so that a stage that is done costs nothing.

    `run` is the run directory, which may hold a corrected teacher and its predictions.
    """

    recipe: CompressRecipe
    run: Path | None = None

    @cached_property
    def original_folder(self) -> Path:
        """The folder of the recipe's teacher as it came; a hub name is downloaded."""
        return local_folder(self.recipe.teacher)

    @property
    def teacher_folder(self) -> Path:
        """The teacher that is scored, cut and learned from: the corrected one, if it is corrected first."""
        if self.run is None or not self.recipe.correct_tokens:
            return self.original_folder
        return self.run / CORRECT / "model"

    @property
    def distill_teacher_folder(self) -> Path:
        """The folder of the model that the student learns from: by default the one that is cut."""
        name = self.recipe.distill.teacher
        return self.teacher_folder if name is None else local_folder(name)

    @cached_property
    def teacher_checkpoint(self) -> Checkpoint:
        """The teacher's tensors, every shard checked."""
        return Checkpoint(self.teacher_folder)

    @cached_property
    def teacher_fingerprint(self) -> str:
        """A hash of the teacher's files."""
        return self.teacher_checkpoint.fingerprint()

    @cached_property
    def distill_teacher_fingerprint(self) -> str:
        """A hash of the files of `distill_teacher_folder`."""
        return Checkpoint(self.distill_teacher_folder).fingerprint()

    @cached_property
    def texts(self) -> Texts:
        """The recipe's text in the teacher's tokens."""
        recipe = self.recipe
        return Texts(recipe.data, self.original_folder, recipe.seed, recipe.evaluate.num_tokens)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer."""
        return self.texts.tokenizer

    @property
    def corpus(self) -> Corpus:
        """The tokenised text, split."""
        return self.texts.corpus

    @property
    def known_corpus(self) -> Corpus | None:
        """`corpus` if it has been tokenised before, by this run or another."""
        return self.texts.known_corpus

    @property
    def train(self) -> Rows:
        """Rows for distillation, in the recipe's seeded order."""
        return self.texts.train

    @property
    def calibration(self) -> Rows:
        """Rows for scoring: the training text in another order."""
        return self.texts.calibration

    @property
    def held_out(self) -> Rows:
        """Rows for evaluation, in the order of the text."""
        return self.texts.held_out

    @property
    def num_held_out_rows(self) -> int:
        """How many of them the recipe measures on."""
        return self.texts.num_held_out_rows

    @property
    def num_curve_rows(self) -> int:
        """How many of them are measured along the way."""
        return self.texts.num_curve_rows

    def load(self, folder: Path) -> PreTrainedModel:
        """A model for evaluation, scoring or teaching: float32 on a processor, bfloat16 on a GPU."""
        return load_model(folder, dtype=compute_dtype(), device=device())

    def load_or_stream(self, folder: Path) -> PreTrainedModel:
        """A model to run forward only: as `load`, or read layer by layer where it does not fit."""
        return load_or_stream(folder, dtype=compute_dtype(), device=device())

    def load_together(self, folder: Path) -> PreTrainedModel:
        """As `load`, for what all processes do together: in parts where they share the weights."""
        return load_together(folder, dtype=compute_dtype(), device=device())

    def load_student(self, folder: Path) -> PreTrainedModel:
        """A model to train: float32 weights, which small steps need; in parts where processes share them."""
        return load_together(folder, dtype=torch.float32, device=device())

    @property
    def saved_dtype(self) -> torch.dtype:
        """The dtype of the teacher's weights on disk, which the student's get too."""
        checkpoint = Checkpoint(self.original_folder)
        return checkpoint.dtype(checkpoint.names()[0])

    def training(self, num_steps: int) -> dict[str, Any]:
        """Keyword arguments of `distill` for a training of `num_steps`, long or a short trial."""
        distill = self.recipe.distill
        return {
            "num_steps": num_steps,
            "batch_rows": self.recipe.batch_rows,
            "micro_rows": distill.micro_rows,
            "learning_rate": distill.learning_rate,
            "min_learning_rate": distill.min_learning_rate,
            "warmup_steps": self.recipe.warmup_steps(num_steps),
            "weight_decay": distill.weight_decay,
            "clip_norm": distill.clip_norm,
            "loss": distill.loss,
            "temperature": distill.temperature,
            "top_k": distill.top_k,
            "jsd_beta": distill.jsd_beta,
            "lm_weight": distill.lm_weight,
            "hidden": None if distill.hidden is None else HiddenLoss(**dict(distill.hidden)),
            "precision": distill.precision,
            "checkpointing": distill.checkpointing,
            "trackers": distill.trackers,
            "seed": self.recipe.seed,
            "save_every_steps": distill.save_every_steps,
            "held_out": self.held_out,
            "held_out_rows": self.num_curve_rows,
            "evaluate_every_steps": evaluate_every_steps(num_steps),
        }

    def facts(self) -> dict[str, Any]:
        """What identifies the inputs, for the manifest and for the hashes of the stages."""
        return {
            "teacher": {
                "path": self.recipe.teacher,
                "fingerprint": Checkpoint(self.original_folder).fingerprint(),
            },
            "data": self.texts.facts,
        }

    def taught_by(self) -> dict[str, Any]:
        """What identifies the teacher, where it is another model than the one that is cut."""
        name = self.recipe.distill.teacher
        if name is None:
            return {}
        return {"distill teacher": {"path": name, "fingerprint": self.distill_teacher_fingerprint}}


def task_folder(recipe: CompressRecipe | SparsifyRecipe) -> Path:
    """Where lm-eval looks before its own tasks: the recipe's folder, or the one that comes with niwaki."""
    return Path(recipe.evaluate.include_path) if recipe.evaluate.include_path else TASK_FOLDER


def evaluate_every_steps(num_steps: int) -> int:
    """Steps between two points of the held-out curve of a training of `num_steps`."""
    return max(1, num_steps // _EVALUATIONS)


def device() -> torch.device:
    """The GPU if there is one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype() -> torch.dtype:
    """The dtype to run models in without training them."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32
