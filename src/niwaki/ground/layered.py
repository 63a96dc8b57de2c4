"""A model folder read one layer at a time.

In: a checkpoint and the table of its family. Out: the parameters of a layer, or those outside the layers,
under the names that they have in memory. Each layer is loaded by stock `transformers` as a model of one
layer, so tensors that it renames or joins (experts) come out as it makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from accelerate import init_empty_weights
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedModel

from niwaki.errors import CheckpointError
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.family import Family
from niwaki.ground.saved import no_progress_bars


@dataclass(frozen=True)
class LayerReader:
    """Reads the layers of a checkpoint, and the ends of the model: what lies outside the layers."""

    checkpoint: Checkpoint
    family: Family
    dtype: torch.dtype
    device: torch.device

    @property
    def resident_bytes(self) -> int:
        """The ends, and one layer twice: as it is on disk and as it runs."""
        num_bytes = 0
        for name, layer in self._layer_of.items():
            spec = self.checkpoint.spec(name)
            if layer is None or layer == 0:
                num_bytes += spec.num_elements * self.dtype.itemsize
            if layer == 0:
                num_bytes += spec.num_bytes
        return num_bytes

    def skeleton(self) -> PreTrainedModel:
        """The model with its ends loaded; its layers are on the meta device."""
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(
                self.checkpoint.config, dtype=self.dtype, trust_remote_code=False
            )
        model.load_state_dict(self.ends(), strict=False, assign=True)
        model.tie_weights()
        for module in model.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(self.device)
        return model.eval()

    def ends(self) -> dict[str, Tensor]:
        """What lies outside the layers, by the names in memory."""
        return {
            name: part for name, part in self._model(None).items() if self.family.match(name).layer is None
        }

    def layer(self, number: int) -> dict[str, Tensor]:
        """The parameters of one layer, by their names inside it."""
        prefix = self.family.layer_prefix.format(layer=0) + "."
        parts = self._model(number)
        return {name.removeprefix(prefix): parts[name] for name in parts if name.startswith(prefix)}

    def _model(self, number: int | None) -> dict[str, Tensor]:
        """The parameters of a model of one layer.

        Its layer (where `number` is None) or else its ends are zeros that take no memory.
        """
        config, family = self.checkpoint.config, self.family
        sizes = family.axis_sizes(config)
        keep = {"layer": torch.tensor([number or 0])}
        state = {}
        for name, layer in self._layer_of.items():
            if layer not in (None, number or 0):
                continue
            if layer == number:
                part = self.checkpoint.read(name)
            else:
                part = torch.zeros((), dtype=self.dtype).expand(self.checkpoint.shape(name))
            taken = family.take(name, part, sizes, keep)
            assert taken is not None, name
            state[taken[0]] = taken[1]
        stock = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        try:
            with no_progress_bars():
                model, info = stock.from_pretrained(
                    None,
                    config=family.resize(config, {"layer": 1}, keep),
                    state_dict=state,
                    dtype=self.dtype,
                    output_loading_info=True,
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.checkpoint.path}: layer {number} cannot be loaded: {str(error).splitlines()[0]}",
                "Check that the folder was not changed, and that its weights belong to its config.json.",
            ) from error
        if info["missing_keys"]:
            raise CheckpointError(
                f"{self.checkpoint.path}: {min(info['missing_keys'])!r} is missing for layer {number}.",
                "Fetch the checkpoint again; these weights would have been random.",
            )
        return {
            name: part.detach().to(self.device)
            for name, part in model.named_parameters(remove_duplicate=False)
        }

    @cached_property
    def _layer_of(self) -> dict[str, int | None]:
        names = (name for name in self.checkpoint.names() if not self.family.is_unread(name))
        return {name: self.family.match(name).layer for name in names}
