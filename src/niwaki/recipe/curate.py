"""Recipe section `curate`, and the recipe of `niwaki run` for `kind: curate`: questions, filters, blend.

Defaults are the paper's (arXiv 2504.13941) where it states them, such as gold answers of at most 10 words.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from niwaki.recipe.quantities import Count, Fraction, Number
from niwaki.recipe.section import Section

Template = Literal["keep", "open", "mc", "both"]
Filter = Literal[
    "empty_gold",
    "gold_not_an_option",
    "options_repeat",
    "long_gold",
    "several_parts",
    "own_form",
    "unverifiable_gold",
]
MADE_UP = ("generated", "reasoning_gym")


class Columns(Section):
    """Which column of a set is what, for `adapter: columns`."""

    question: str = Field(description="column of the question")
    gold: str = Field(description="column of the right answer: text, or the letter or index of an option")
    options: str | None = Field(None, description="column of the options, a list of texts")


class Source(Section):
    """One set of questions: files, a set of the hub, or generated tasks."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="what it is called in counts and blends"
    )
    adapter: str = Field(
        description="form of its rows: gsm8k, math, mmlu, ..., columns, questions, generated, reasoning_gym"
    )
    path: str | None = Field(None, description="file, folder or hub name; null: where the hub has the set")
    config: str | None = Field(None, description="configuration of a hub set; null for the adapter's")
    split: str | None = Field(None, description="split of a hub set; generated: train or test")
    domain: str | None = Field(None, description="math, gpr or your own; null for the adapter's")
    columns: Columns | None = Field(
        None, description="a section {question, gold, options} for adapter columns"
    )
    rows: Count | None = Field(None, gt=0, description="at most so many; generated: exactly so many")
    tasks: tuple[str, ...] = Field((), description="generated: tasks or domains; reasoning_gym: its tasks")
    difficulty: Count = Field(1, ge=1, le=5, description="generated: 1 to 5")
    form: Literal["open", "mc"] = Field("open", description="generated: open, or with options")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.adapter == "columns") != (self.columns is not None):
            raise ValueError("a section columns and `adapter: columns` belong together. Write both or none.")
        if self.adapter not in MADE_UP:
            if self.tasks:
                raise ValueError(f"tasks are for {' and '.join(MADE_UP)}; the adapter is {self.adapter}.")
            return self
        if self.rows is None:
            raise ValueError("rows says how many questions to make up. Write it.")
        if self.path is not None:
            raise ValueError(f"{self.adapter} questions are made up; remove path.")
        if self.split not in {None, "train", "test"}:
            raise ValueError(f"split of made-up questions is train or test, not {self.split!r}.")
        return self


class Group(Section):
    """Sets that share a part of the mixture in proportion to their sizes."""

    share: Fraction = Field(gt=0, le=1, description="of the mixture, such as 66%")
    sets: tuple[str, ...] = Field(min_length=1, description="names of sources")


class Blend(Section):
    """A mixture of sets with exact shares."""

    groups: tuple[Group, ...] = Field(min_length=1, description="[{share, sets}, ...]; shares sum to 100%")
    rows: Count | None = Field(None, gt=0, description="of the mixture; null: the most that repeat nothing")
    most_repetitions: Number = Field(1.0, ge=1, description="how often a row may come at most, on average")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        names = [name for group in self.groups for name in group.sets]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"set {twice!r} is in two groups. Leave it in one.")
        if abs(total := sum(group.share for group in self.groups)) and round(total, 9) != 1:
            raise ValueError(f"the shares of the groups sum to {total:.6g}, not to 100%.")
        return self


class Difficulty(Section):
    """Drop questions that a model answers too often or too rarely."""

    model: str = Field(description="model folder or hub name that is asked")
    store: str = Field(description="JSON lines file of pass counts, added to and used again")
    samples: Count = Field(8, gt=0, description="answers to each question; the paper takes 1")
    lowest: Fraction = Field(0.0, ge=0, le=1, description="share of right answers; below: too hard")
    highest: Fraction = Field(1.0, ge=0, le=1, description="above: too easy; 0 drops what was answered once")
    max_tokens: Count = Field(1024, gt=0, description="of one answer")
    temperature: Number = Field(1.0, ge=0, description="of the answers; 0 with samples: 1 only")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.lowest > self.highest:
            raise ValueError(f"lowest ({self.lowest}) is above highest ({self.highest}).")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("temperature 0 gives one answer. Write samples: 1.")
        return self


class Curate(Section):
    """Questions to train on: sources, filters, templates, difficulty, blend."""

    sources: tuple[Source, ...] = Field(
        (Source(name="made-up", adapter="generated", rows=2000),),
        min_length=1,
        description="sets to train on",
    )
    benchmarks: tuple[Source, ...] = Field(
        (Source(name="made-up-test", adapter="generated", rows=240, split="test"),),
        description="sets to evaluate on; nothing that repeats them is kept",
    )
    filters: tuple[Filter, ...] = Field(
        (
            "empty_gold",
            "gold_not_an_option",
            "options_repeat",
            "long_gold",
            "several_parts",
            "own_form",
            "unverifiable_gold",
        ),
        description="reasons to drop a question; docs/curation.md",
    )
    longest_gold_words: Count = Field(10, gt=0, description="of open questions outside mathematics")
    longest_question_words: Count | None = Field(None, gt=0, description="null for any length")
    near_duplicates: Fraction | None = Field(
        0.8, gt=0, le=1, description="least similarity of a near duplicate; null: exact ones only"
    )
    ngram_words: Count = Field(13, ge=5, description="runs of so many words betray a benchmark's item")
    mc_template: Template = Field("keep", description="multiple choice: keep, open (without options), both")
    open_template: Template = Field("keep", description="open: keep, mc (mined wrong answers), both")
    difficulty: Difficulty | None = Field(None, description="a section {model, store, ...}; null: none")
    blend: Blend | str | None = Field(
        None, description="a section {groups, rows}, or a file of recipes/blends; null: all rows, shuffled"
    )
    workers: Count | None = Field(None, gt=0, description="processes; null: one for each core")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        names = [source.name for source in (*self.sources, *self.benchmarks)]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two sets are called {twice!r}. Give each a name of its own.")
        for key, value in (("mc_template", self.mc_template), ("open_template", self.open_template)):
            if value == key.removesuffix("_template"):
                raise ValueError(f"{key} is {value}, which changes nothing. Write keep.")
        if isinstance(self.blend, Blend):
            known = {source.name for source in self.sources}
            for group in self.blend.groups:
                if unknown := [name for name in group.sets if name not in known]:
                    raise ValueError(f"blend: no source is called {unknown[0]!r}. Sources: {sorted(known)}.")
        return self


class CurateRecipe(Section):
    """Questions with checkable answers, from sources to a training file. See docs/curation.md."""

    kind: Literal["curate"]
    out: str | None = Field(None, description="run directory; null for runs/<name of the recipe file>")
    seed: int = Field(0, ge=0, description="fixes made-up questions, templates, and the mixture's order")
    curate: Curate = Field(default_factory=lambda: Curate())


def starter() -> CurateRecipe:
    """What `niwaki new curate` writes."""
    return CurateRecipe(kind="curate")
