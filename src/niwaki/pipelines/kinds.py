"""Which pipeline carries out a recipe of which kind."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from niwaki.errors import NiwakiError, RecipeError

PIPELINES = {
    "compress": "niwaki.pipelines.compress",
    "family": "niwaki.pipelines.family",
    "curate": "niwaki.pipelines.curate",
    "sparsify": "niwaki.pipelines.sparsify",
    "reason": "niwaki.pipelines.reason",
    "reward": "niwaki.pipelines.reward",
}


class Pipeline(Protocol):
    """What every pipeline module offers to the command line."""

    def run(self, recipe: Any, *, out: Path) -> Any:
        """Carry the recipe out in the run directory `out`."""

    def check(self, recipe: Any, *, out: Path, flops_per_s: float | None) -> Sequence[NiwakiError]:
        """Plan it without loading weights, print the plan, and return what would go wrong."""

    def report(self, out: Path) -> None:
        """Write the page about the run, finished or not."""


def pipeline_of(kind: str) -> Pipeline:
    """The pipeline of a kind of recipe. Raises RecipeError naming the kinds there are."""
    if kind not in PIPELINES:
        raise RecipeError(f"There is no recipe of kind {kind!r}.", f"Kinds: {', '.join(PIPELINES)}.")
    return cast(Pipeline, import_module(PIPELINES[kind]))
