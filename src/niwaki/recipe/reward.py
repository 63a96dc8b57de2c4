"""The recipe of `niwaki run` for `kind: reward`: train, objectives, calibrate, evaluate, report.

Sections that are null are left out of the line, so one recipe is a Bradley-Terry model, a regression, the
best recipe of HelpSteer2-Preference (regression -> scaled Bradley-Terry -> ExPO), or ArmoRM (objectives and
a gate on a frozen model). Defaults follow arXiv 2410.01257 and 2406.12845 where they do not depend on the
size of the model, and are those of small models where they do.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from niwaki.recipe.quantities import Count, Fraction, Number
from niwaki.recipe.section import Section

STDLIB = "stdlib"


class RewardSource(Section):
    """One data set: a local file or folder, a hub name, or stdlib."""

    source: str = Field(description="file, folder or hub name; stdlib makes data offline")
    config: str | None = Field(None, description="configuration of a hub dataset")
    data_dir: str | None = Field(None, description="folder of a hub dataset")
    split: str = Field("train", description="split of a hub dataset")
    form: str = Field("auto", description="column form, see docs/reward.md; auto tells it by the columns")
    name: str = Field("", description="what its rows are called in results")
    prefix: str = Field("", description="before the names of its ratings, to keep raters apart")
    max_rows: Count | None = Field(None, gt=0, description="read so many; null for all")
    scale: tuple[Number, Number] | None = Field(None, description="lowest and highest rating")


class RewardData(Section):
    """Preference pairs and rated answers."""

    pairs: tuple[RewardSource, ...] = Field((), description="preference sources")
    ratings: tuple[RewardSource, ...] = Field((), description="rating sources")
    test_pairs: tuple[RewardSource, ...] = Field((), description="more pairs, only to be judged on")
    validation: Fraction = Field(0.1, gt=0, lt=0.5, description="of the prompts, to choose and calibrate on")
    test: Fraction = Field(0.1, gt=0, lt=0.5, description="of the prompts, to be judged on")
    max_tokens: Count = Field(2048, gt=8, description="of a conversation; longer ones are left out and named")
    ties: Literal["drop", "soft"] = Field("drop", description="soft keeps ties as half right, half wrong")


class Lora(Section):
    """Low-rank adapters instead of all weights, for large models."""

    rank: Count = Field(16, gt=0, description="of the adapters")
    alpha: Number | None = Field(None, gt=0, description="null for twice the rank")


class Training(Section):
    """What all trainings share."""

    learning_rate: Number = Field(1e-5, gt=0, description="constant after the warm-up")
    epochs: Number = Field(1.0, gt=0, description="passes over the data")
    batch_rows: Count = Field(64, gt=0, description="pairs, or rated answers, of one step")
    micro_rows: Count = Field(8, gt=0, description="of them at once")
    warmup_steps: Count = Field(10, description="linear warm-up")
    weight_decay: Number = Field(0.1, ge=0, description="AdamW's, on matrices")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of the matrix products")
    checkpointing: bool = Field(False, description="compute activations twice and keep those of one layer")


class Regression(Training):
    """Mean squared error on ratings; a missing one does not count."""

    head_rate_factor: Number = Field(10.0, gt=0, description="the head learns so much faster")
    objectives: tuple[str, ...] = Field(
        ("helpfulness",), description="one head each; the first is the reward"
    )
    batch_rows: Count = Field(128, gt=0, description="rated answers of one step")
    epochs: Number = Field(2.0, gt=0, description="passes over the data")


class Preference(Training):
    """Bradley-Terry on pairs, from the regression with its head, if there is one."""

    head_rate_factor: Number = Field(10.0, gt=0, description="the head learns so much faster")
    loss: Literal["scaled", "regular", "margin"] = Field("scaled", description="what the strength does")
    normalise_weights: bool = Field(False, description="divide strengths by their mean")
    shuffle: bool = Field(True, description="false keeps the order of the data, as the paper's run did")


class Expo(Section):
    """A step past the preference model, away from the regression, chosen on validation pairs."""

    grid: tuple[Number, ...] = Field(
        (0, 0.5, 0.75, 1, 1.1, 1.25, 1.52, 1.75, 2, 2.5, 3, 4), min_length=1, description="steps to try"
    )


class GateSection(Section):
    """How objectives become one score."""

    kind: Literal["prompt", "fixed", "uniform"] = Field(
        "prompt", description="weights told by the prompt, one set of weights for all, or equal ones"
    )
    width: Count = Field(1024, gt=0, description="of the hidden layers")
    hidden_layers: Count = Field(3, gt=0, description="of the network")
    temperature: Number = Field(10.0, gt=0, description="of the softmax over objectives")
    dropout: Fraction = Field(0.2, lt=1, description="while training")
    learning_rate: Number = Field(1e-3, gt=0, description="peak; cosine to 0")
    steps: Count = Field(2000, gt=0, description="optimiser steps")
    batch_rows: Count = Field(1024, gt=0, description="pairs of one step")
    loss: Literal["regular", "scaled"] = Field("regular", description="Bradley-Terry form")


class ObjectivesSection(Section):
    """ArmoRM: heads on frozen states, debiased, and a gate that weighs them."""

    names: tuple[str, ...] = Field((), description="of the ratings; empty for all")
    nuisances: tuple[str, ...] = Field(
        ("length",), description="taken out of the others: objectives, or length (of the answer, in tokens)"
    )
    target_correlation: Number = Field(0.0, ge=-1, le=1, description="with each nuisance, by rank")
    tolerance: Number = Field(0.03, gt=0, description="around the target")
    one_sided: bool = Field(False, description="the paper's search: negative correlations stay")
    alphas: tuple[Number, ...] = Field(
        (1e-4, 1e-3, 1e-2, 0.1, 1, 10, 100, 1e3, 1e4), min_length=1, description="ridge penalties to try"
    )
    folds: Count = Field(5, gt=1, description="of the cross-validation, by prompt")
    ensemble: Count = Field(20, description="bootstrap heads for uncertainty; 0 for none")
    gate: GateSection = Field(default_factory=lambda: GateSection())


class Justifier(Training):
    """A language model beside it that says which of two answers is better, and why."""

    batch_rows: Count = Field(128, gt=0, description="questions of one step; a pair is two of them")
    max_tokens: Count = Field(4096, gt=8, description="of a question with both answers and what is written")
    written_tokens: Count | None = Field(
        None,
        description="before the verdict is read; null for what 19 of 20 elaborations need",
    )


class RewardEvaluate(Section):
    """What the model is judged on beside the test pairs."""

    rewardbench: str | None = Field(None, description="hub name or file, such as allenai/reward-bench")
    rewardbench2: str | None = Field(None, description="hub name or file, such as allenai/reward-bench-2")
    batch_rows: Count = Field(16, gt=0, description="conversations at once")


class RewardExport(Section):
    """What is saved beside the scalar model."""

    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the saved weights")
    fold_temperature: bool = Field(False, description="scale the head so that a gap of scores is a logit")
    forms: tuple[Literal["heads", "gated"], ...] = Field(
        (), description="heads: one label an objective; gated: with the first gate layer, see docs/reward.md"
    )


class RewardRecipe(Section):
    """Ratings and preferences to a reward model. See docs/reward.md."""

    kind: Literal["reward"]
    backbone: str = Field(description="model folder or hub name; 'sapling' is the bundled model")
    out: str | None = Field(None, description="run directory; null for runs/<name of the recipe file>")
    seed: int = Field(0, ge=0, description="fixes the order of rows and random weights")
    chat_template: str | None = Field(None, description="Jinja file; null for the model's own")
    data: RewardData
    lora: Lora | None = Field(None, description="train adapters, {rank, alpha}; null for all weights")
    regression: Regression | None = Field(None, description="train on ratings first")
    preference: Preference | None = Field(None, description="train on pairs")
    expo: Expo | None = Field(None, description="extrapolate past the preference model, {grid}")
    objectives: ObjectivesSection | None = Field(None, description="heads and a gate on the frozen model")
    justifier: Justifier | None = Field(None, description="train a pairwise justifier too, or alone")
    evaluate: RewardEvaluate = Field(default_factory=lambda: RewardEvaluate())
    export: RewardExport = Field(default_factory=lambda: RewardExport())

    @property
    def scores(self) -> bool:
        """Whether a section asks for a model that scores one answer."""
        return any(s is not None for s in (self.regression, self.preference, self.objectives))

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if not self.scores and self.justifier is None:
            raise ValueError(
                "nothing is trained: add regression, preference, objectives, justifier, or several of them."
            )
        if self.preference is not None and not self.data.pairs:
            raise ValueError("preference needs pairs, and data.pairs is empty.")
        for name in ("regression", "objectives"):
            if getattr(self, name) is not None and not self.data.ratings:
                raise ValueError(f"{name} needs ratings, and data.ratings is empty.")
        if not self.data.pairs:
            raise ValueError("data.pairs is empty: every reward model is calibrated and judged on pairs.")
        if self.expo is not None and (self.regression is None or self.preference is None):
            raise ValueError("expo steps from regression past preference, and one of the two is missing.")
        trained = (self.regression, self.preference, self.justifier)
        if self.lora is not None and not any(trained):
            raise ValueError("lora is for training, and no regression, preference or justifier is there.")
        if self.data.validation + self.data.test > 0.8:
            raise ValueError(
                "data.validation and data.test leave less than a fifth of the prompts to train on."
            )
        for section in trained:
            if section is not None and section.batch_rows % section.micro_rows:
                raise ValueError(
                    f"batch_rows ({section.batch_rows}) is no multiple of micro_rows ({section.micro_rows})."
                )
        self._check_forms()
        return self

    def _check_forms(self) -> None:
        if not self.export.forms:
            return
        if self.objectives is None:
            raise ValueError("export.forms are of objectives, and there are none. Remove it.")
        if "gated" in self.export.forms and self.objectives.gate.kind != "prompt":
            raise ValueError("export.forms: gated needs objectives.gate.kind: prompt.")


def starter() -> RewardRecipe:
    """What `niwaki new reward` writes: both papers on the bundled model, offline, in minutes."""
    return RewardRecipe.model_validate(
        {
            "kind": "reward",
            "backbone": "sapling",
            "data": {
                "pairs": [{"source": STDLIB, "max_rows": 600}],
                "ratings": [{"source": STDLIB, "max_rows": 600}],
                "max_tokens": 384,
            },
            "regression": {"learning_rate": 3e-4, "epochs": 1, "batch_rows": 32, "micro_rows": 16},
            "preference": {"learning_rate": 3e-4, "batch_rows": 16, "micro_rows": 8},
            "expo": {},
            "objectives": {"nuisances": ["length"], "gate": {"width": 64, "steps": 300, "batch_rows": 256}},
        }
    )
