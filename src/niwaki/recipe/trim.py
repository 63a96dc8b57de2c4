"""Recipe section `trim`: what happens to the weights around a cut."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from niwaki.recipe.section import Section


class Trim(Section):
    """What happens to the weights around the cut, before any training.

    Not in the papers, except the residual of pruned heads (arXiv 2407.14679, section 2.2).
    """

    rotate: Literal[True, False, "auto"] = Field(
        "auto",
        description="hidden cuts keep principal directions; unties embeddings. auto: unless they are tied",
    )
    rescale: Literal[True, False, "auto"] = Field(
        "auto", description="enlarge norm weights after a hidden cut. auto: where calibration KL falls"
    )
    repair: bool = Field(True, description="refit every matrix to the teacher's activations, in closed form")
    head_residual: Literal["none", "away", "towards"] = Field(
        "none", description="kept query heads move away from, or towards, lost ones"
    )
