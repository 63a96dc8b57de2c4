"""Norm weights after hidden channels are gone.

An RMSNorm over d' of d channels divides by the root mean square of the survivors. When the lost channels were
silent, their sum of squares is unchanged and the mean over fewer is larger by d / d': the output shrinks by
sqrt(d' / d), and weights larger by sqrt(d / d') undo that exactly (up to the norm's epsilon). The more the
lost channels carried, the less of that is right: when they carried their share, nothing is.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from niwaki.ground.family import family_of


@torch.no_grad()
def rescale_norms(model: PreTrainedModel, factor: float) -> None:
    """Multiply what the norms over hidden channels multiply by, in place.

    Args:
        model: every norm of its hidden stream is changed, the final one too; norms inside heads are not.
        factor: sqrt(old / new hidden size) undoes a cut of silent channels; its inverse takes it back.
    """
    family = family_of(model.config)
    for name, parameter in model.named_parameters():
        match = family.match(name)
        if match.expr == "hidden" and match.pattern.endswith("weight"):
            parameter.copy_((parameter + family.norm_offset) * factor - family.norm_offset)
