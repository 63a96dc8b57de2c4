"""From a config to the axis table of its family."""

from __future__ import annotations

from difflib import get_close_matches

from transformers import PreTrainedConfig

from niwaki.errors import FamilyError
from niwaki.ground.families import FAMILIES
from niwaki.ground.table import Family

__all__ = ["FAMILIES", "Family", "family_of"]


def family_of(config: PreTrainedConfig) -> Family:
    """Find the table for a config; lines that depend on the config are resolved.

    Raises:
        FamilyError: no table for this `model_type`, or none for this variant of it.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        near = get_close_matches(config.model_type, FAMILIES, n=1)
        nearest = f" Did you mean {near[0]!r}?" if near else ""
        known = ", ".join(sorted(FAMILIES))
        raise FamilyError(
            f"No axis table for model type {config.model_type!r}; known: {known}.{nearest}",
            "Add a table to families/; see docs/families.md.",
        )
    return family.of(config)
