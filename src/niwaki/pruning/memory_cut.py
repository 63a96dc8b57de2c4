"""Cut a model in memory: the same weights that `trim` writes, without the folders in between."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from accelerate import init_empty_weights
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from niwaki.ground.family import family_of
from niwaki.pruning.keep import kept_sizes


@torch.no_grad()
def cut_model(model: PreTrainedModel, keep: Mapping[str, Tensor]) -> PreTrainedModel:
    """Build the smaller model that `keep` leaves of `model`: stock `transformers`, sharing no memory with it.

    It has the dtype, device, attention kernel, generation config and mode (training or evaluation) of
    `model`, which is left as it is. Its logits are those of the folder that `trim` makes with the same
    `keep`; `ground.saved.save_model` writes it. Needs memory for both models.

    Args:
        model: all of its weights on one device.
        keep: axis -> kept indices, as `select` returns them.

    Raises:
        FamilyError: an unknown family, or `keep` does not fit the model.
    """
    family = family_of(model.config)
    sizes = family.axis_sizes(model.config)
    config = family.resize(model.config, kept_sizes(family, sizes, keep), keep)
    with init_empty_weights():
        student = AutoModelForCausalLM.from_config(
            config, attn_implementation=model.config._attn_implementation, trust_remote_code=False
        )
    taken = [family.take(name, tensor, sizes, keep) for name, tensor in model.state_dict().items()]
    # A tensor that is kept whole would still be the one of the larger model.
    state = {cut[0]: cut[1].clone() for cut in taken if cut is not None}
    student.load_state_dict(state, assign=True)
    student.tie_weights()
    student.generation_config = copy.deepcopy(model.generation_config)
    return student.to(model.device).train(model.training)
