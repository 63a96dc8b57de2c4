"""The recipe of `niwaki run` for `kind: family`: several smaller models out of one teacher, step by step.

Minitron made 15B -> 8B -> 4B so (arXiv 2407.14679): the 4B was cut from the 8B and learned from the 15B.
Every member becomes a compress recipe of its own; the sections that are shared are the same as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from niwaki.errors import RecipeError
from niwaki.recipe.compress import CompressRecipe, Evaluate, Report
from niwaki.recipe.data import Data
from niwaki.recipe.depth import Depth
from niwaki.recipe.distill import Distill
from niwaki.recipe.load import build
from niwaki.recipe.model_size import ModelSize, Size, format_size
from niwaki.recipe.pruning import Score
from niwaki.recipe.quantities import Count
from niwaki.recipe.section import Section
from niwaki.recipe.trim import Trim

Source = Literal["previous", "teacher"]
# Of a compress recipe, what a family sets for each member by itself.
_OWN = ("kind", "teacher", "out", "choose", "distill")


class Member(Section):
    """One smaller model of the family."""

    to: ModelSize = Field(description="50% (always of the teacher) | 4B | 8GB | {low: 7.8B, high: 8.5B}")
    tokens: Count | None = Field(None, gt=0, description="to distill on; null for distill.tokens")
    cut_from: Source = Field("previous", description="previous: the member before; teacher: the large model")
    learn_from: Source = Field("teacher", description="whose logits to learn")
    choose: dict[str, Any] = Field({}, description="keys of `choose` that are other for this member")
    distill: dict[str, Any] = Field({}, description="keys of `distill` that are other for this member")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if "to" in self.choose:
            raise ValueError("choose.to has no place in a member. Write its own `to`.")
        for key, instead in (("tokens", "tokens"), ("teacher", "learn_from")):
            if key in self.distill:
                raise ValueError(f"distill.{key} has no place in a member. Write its own `{instead}`.")
        return self


class FamilyRecipe(Section):
    """One large model to several smaller ones, step by step. See docs/families-of-models.md."""

    kind: Literal["family"]
    teacher: str = Field(description="model folder or hub name; 'sapling' is the bundled teacher")
    out: str | None = Field(None, description="family directory; null for runs/<name of the recipe file>")
    seed: int = Field(0, ge=0, description="fixes calibration rows, row order and random weights")
    scratch_tokens: Count | None = Field(
        None, gt=0, description="tokens a member would need from scratch, to state the saving; null for none"
    )
    data: Data = Field(default_factory=lambda: Data())
    score: Score = Field(default_factory=lambda: Score())
    choose: dict[str, Any] = Field(
        {}, description="keys of `choose` for all members, as in a compress recipe"
    )
    depth: Depth = Field(default_factory=lambda: Depth())
    trim: Trim = Field(default_factory=lambda: Trim())
    distill: Distill = Field(default_factory=lambda: Distill())
    evaluate: Evaluate = Field(default_factory=lambda: Evaluate())
    report: Report = Field(default_factory=lambda: Report())
    members: tuple[Member, ...] = Field(description="the smaller models, in the order in which they are made")

    @property
    def folders(self) -> tuple[str, ...]:
        """The run directory of each member inside the family's: 1-50pct, 2-25pct."""
        return tuple(f"{number}-{_word(member.to)}" for number, member in enumerate(self.members, 1))

    def compress_recipe(
        self, index: int, *, to: Size, teacher: str, distill_teacher: str | None
    ) -> CompressRecipe:
        """The compress recipe of `members[index]`.

        Args:
            to: its size in terms of the model that is cut.
            teacher: the model that is cut.
            distill_teacher: the one to learn from; None where it is the same.
        """
        shared = {name: getattr(self, name) for name in type(self).model_fields}
        content = _content(shared, self.members[index], to, teacher, distill_teacher)
        return build(content, CompressRecipe, name=f"member {index + 1}")

    @field_validator("members")
    @classmethod
    def _make_recipes(cls, members: tuple[Member, ...], info: ValidationInfo) -> tuple[Member, ...]:
        """Check every member by the rules of a compress recipe."""
        if len(info.data) < len(cls.model_fields) - 1:
            return members  # what is wrong above is said there
        if not members:
            raise ValueError("a family has at least one member, such as {to: 50%}.")
        if "to" in info.data["choose"]:
            raise ValueError("choose.to has no place in a family: every member says its own `to`.")
        if info.data["distill"].teacher is not None:
            raise ValueError("distill.teacher has no place in a family. Write `learn_from` of the members.")
        for number, member in enumerate(members, 1):
            content = _content(info.data, member, member.to, info.data["teacher"], None)
            try:
                build(content, CompressRecipe, name=f"member {number}")
            except RecipeError as error:
                raise ValueError(error.message) from None
        return members


def starter() -> FamilyRecipe:
    """What `niwaki new family` writes: the bundled teacher to a half and a quarter, in minutes, offline."""
    return FamilyRecipe.model_validate(
        {
            "kind": "family",
            "teacher": "sapling",
            "scratch_tokens": "15.9M",
            "data": {"sequence_length_tokens": 256},
            "score": {"num_samples": 256},
            "choose": {"max_candidates": 4},
            "distill": {
                "tokens": "1M",
                "batch_tokens": 4096,
                "learning_rate": 1e-3,
                "min_learning_rate": 1e-4,
            },
            "evaluate": {"num_tokens": "100k"},
            "report": {"prompts": ["def read_lines(path):\n"]},
            "members": [{"to": "50%"}, {"to": "25%"}],
        }
    )


def _content(
    shared: Mapping[str, Any], member: Member, to: Size, teacher: str, distill_teacher: str | None
) -> dict[str, Any]:
    """A compress recipe as plain content: what is shared, and over it what the member says."""
    choose = {**shared["choose"], **member.choose, "to": to}
    if to.interval is not None and "tolerance" not in member.choose:
        choose.pop("tolerance", None)
    distill = shared["distill"].model_dump(mode="json") | member.distill | {"teacher": distill_teacher}
    if member.tokens is not None:
        distill["tokens"] = member.tokens
    sections = {
        name: shared[name] for name in CompressRecipe.model_fields if name in shared and name not in _OWN
    }
    return {"kind": "compress", "teacher": teacher, "choose": choose, "distill": distill, **sections}


def _word(size: Size) -> str:
    written = format_size(size)
    if isinstance(written, dict):
        return f"{written['low']}-{written['high']}"
    return str(written).replace("%", "pct")
