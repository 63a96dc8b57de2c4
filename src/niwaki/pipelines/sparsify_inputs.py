"""What every stage of a sparsify run starts from: the model's folder, its tokenizer, and rows of text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from niwaki.errors import RecipeError
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.family import family_of
from niwaki.ground.model import load_model, local_folder
from niwaki.masks.file import MaskFile, Origin
from niwaki.masks.patterns import Pattern
from niwaki.masks.tensors import check_covers, maskable
from niwaki.pipelines.inputs import compute_dtype, device
from niwaki.pipelines.texts import Texts
from niwaki.recipe.sparsify import SparsifyRecipe

PRIOR, LEARN, APPLY, EVALUATE = "1-prior", "2-learn", "3-apply", "4-evaluate"
PRIOR_MASK, LEARNED_MASK = "prior.mask", "learned.mask"


@dataclass(frozen=True)
class SparsifyInputs:
    """Opened when first asked for. `run` is the run directory, which may hold updated weights."""

    recipe: SparsifyRecipe
    run: Path

    @cached_property
    def folder(self) -> Path:
        """The folder of the dense model; a hub name is downloaded."""
        return local_folder(self.recipe.model)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Its tensors, every shard checked."""
        return Checkpoint(self.folder)

    @property
    def masked_folder(self) -> Path:
        """The model that the masks are for: the dense one, or that with the weights SparseGPT updated."""
        return self.run / PRIOR / "model" if self.recipe.prior.update else self.folder

    @property
    def pattern(self) -> Pattern:
        """The recipe's pattern."""
        return Pattern.parse(self.recipe.pattern)

    @cached_property
    def texts(self) -> Texts:
        """The recipe's text in the model's tokens."""
        recipe = self.recipe
        return Texts(recipe.data, self.folder, recipe.seed, recipe.evaluate.num_tokens)

    def load(self, folder: Path) -> PreTrainedModel:
        """A model in memory: float32 on a processor, bfloat16 on a GPU. Weights are frozen throughout."""
        return load_model(folder, dtype=compute_dtype(), device=device())

    def layer_of(self, name: str) -> int:
        """The layer of a tensor."""
        layer = family_of(self.checkpoint.config).match(name).layer
        assert layer is not None, name
        return layer

    def origin(self, **made: Any) -> Origin:
        """What a mask of this run belongs to."""
        folder = self.masked_folder
        return Origin(
            self.recipe.model if folder == self.folder else str(folder),
            Checkpoint(folder).fingerprint(),
            made | {"data": self.recipe.data.source, "seed": self.recipe.seed},
        )

    def given_mask(self) -> MaskFile:
        """The mask that the recipe starts from.

        Raises:
            CheckpointError: it is damaged, or for another model.
            RecipeError: it has another pattern, or covers other tensors.
        """
        assert self.recipe.prior.mask is not None
        mask = MaskFile(Path(self.recipe.prior.mask))
        if mask.pattern != self.pattern:
            raise RecipeError(
                f"prior.mask {str(mask.path)!r} has pattern {mask.pattern}, the recipe {self.pattern}.",
                f"Write pattern: '{mask.pattern}', or give another mask.",
            )
        mask.check_model(self.checkpoint.fingerprint(), self.recipe.model)
        shapes = maskable(self.checkpoint.config, self.pattern, self.recipe.dense)
        check_covers(mask.shapes, shapes, f"prior.mask {str(mask.path)!r}")
        return mask

    def facts(self) -> dict[str, Any]:
        """What identifies the inputs, for the manifest and for the hashes of the stages."""
        facts: dict[str, Any] = {
            "model": {"path": self.recipe.model, "fingerprint": self.checkpoint.fingerprint()},
            "data": self.texts.facts,
        }
        if self.recipe.prior.mask is not None:
            facts["prior mask"] = {"path": self.recipe.prior.mask, "sha256": self.given_mask().sha256}
        return facts


def mask_of(run: Path) -> Path:
    """The mask that a run results in: the learned one, or its prior where nothing is learned."""
    learned = run / LEARN / LEARNED_MASK
    return learned if learned.exists() else run / PRIOR / PRIOR_MASK
