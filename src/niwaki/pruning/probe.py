"""Hooks that reduce the activations of a decoder to scores per sample, while a batch runs through it.

Where to listen comes from the family's axis table (`Family.sites`); what is computed, from `aggregate.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from niwaki.errors import CheckpointError, EvaluationError
from niwaki.ground.family import Family
from niwaki.ground.streamed import decode
from niwaki.pruning import aggregate
from niwaki.pruning.scores import Scores


class Probe:
    """Listens to `axes` of a model and adds what a batch shows to the running sums of `Scores`."""

    def __init__(
        self, model: PreTrainedModel, *, family: Family, axes: Sequence[str], sequence: Sequence[str]
    ) -> None:
        self._model = model
        self._family = family
        self._axes = axes
        self._sequence = sequence
        self._sizes = family.axis_sizes(model.config)
        self._valid_BS: Tensor | None = None
        self._per_sample: dict[str, Tensor] = {}
        self._dots: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self._squared_input_BS: Tensor | None = None
        self._source: dict[str, str] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hold the hooks in place, with the model in evaluation mode and without gradients."""
        was_training = self._model.training
        self._model.eval()
        handles = list(self._hooks())
        try:
            with torch.no_grad():
                yield
        finally:
            for handle in handles:
                handle.remove()
            self._model.train(was_training)

    def run(
        self,
        batches: Sequence[dict[str, Tensor]],
        scores: Scores,
        *,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        """Run batches through the decoder, without the head, and add their sums.

        A model in memory takes one batch after the other; a streamed one takes all through a layer before it
        reads the next, so give it many. `advance` is called `passes_per_batch` times for each batch.

        Raises CheckpointError when weights, EvaluationError when only activations are not finite.
        """

        @contextmanager
        def around(number: int) -> Iterator[None]:
            with self._hearing(batches[number], scores):
                yield
            advance()

        for _ in decode(self._model, [self._arguments(batch) for batch in batches], around=around):
            pass
        for batch in batches:
            scores.num_samples += len(batch["mask"])
            scores.num_tokens += int(batch["mask"].sum())

    def _arguments(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        device = self._model.get_input_embeddings().weight.device
        arguments = {"input_ids": batch["inputs"].to(device)}
        if not bool(batch["mask"].all()):
            # A row that is padded on the left must see the positions that it would have alone.
            valid_BS = batch["mask"].to(device).long()
            positions_BS = (valid_BS.cumsum(1) - 1).clamp_min(0)
            arguments |= {"attention_mask": valid_BS, "position_ids": positions_BS}
        return arguments

    @contextmanager
    def _hearing(self, batch: dict[str, Tensor], scores: Scores) -> Iterator[None]:
        """Add what the modules that run in this block show of a batch."""
        valid_BS = batch["mask"].to(self._model.get_input_embeddings().weight.device)
        padded = not bool(valid_BS.all())
        self._valid_BS = valid_BS if padded else None
        self._per_sample, self._dots, self._squared_input_BS = {}, {}, None
        yield
        for key, values in self._per_sample.items():
            self._refuse_not_finite(key.rpartition(".")[0], values)
            scores.add_samples(key, values)
        for key, dots in self._dots.items():
            cosines_BS = aggregate.cosines(*(dot.to("cpu") for dot in dots))
            if padded:
                cosines_BS.masked_fill_(~valid_BS.to("cpu"), 0)
            self._refuse_not_finite(key, cosines_BS)
            scores.add(f"{key}.cosine_sum", cosines_BS.sum())

    def _hooks(self) -> Iterator[RemovableHandle]:
        sites = self._family.sites
        for layer in range(self._sizes["layer"]):
            key = f"layers.{layer}"
            if "hidden" in self._axes:
                for number, norm in enumerate(sites.norms):
                    module, hear = self._site(norm, layer, f"{key}.hidden.{number}", self._hear_norm)
                    yield module.register_forward_hook(hear)
            if "group" in self._axes:
                module, hear = self._site(sites.heads, layer, f"{key}.group", self._hear_heads)
                yield module.register_forward_pre_hook(hear)
            if "ffn" in self._axes and sites.ffn is not None:
                module, hear = self._site(sites.ffn, layer, f"{key}.ffn", self._hear_neurons)
                yield module.register_forward_pre_hook(hear)
            if "layer" in self._axes:
                module, hear = self._site(sites.block, layer, key, self._hear_block)
                yield module.register_forward_hook(hear, with_kwargs=True)

    def _site(
        self, name: str, layer: int, key: str, hear: Callable[..., None]
    ) -> tuple[nn.Module, Callable[..., None]]:
        name = name.format(layer=layer)
        self._source[key] = name
        return self._model.get_submodule(name), partial(hear, key)

    def _hear_norm(self, key: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self._record(key, output)

    def _hear_neurons(self, key: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._record(key, args[0])

    def _hear_heads(self, key: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        norms_BSH = aggregate.head_norms(args[0], self._sizes["dim"])
        self._record(key, norms_BSH, shape=(self._sizes["kv"], self._sizes["group"]))

    def _record(self, key: str, x_BSC: Tensor, shape: tuple[int, ...] = (-1,)) -> None:
        for name, values_BC in aggregate.over_tokens(x_BSC, self._valid_BS, self._sequence).items():
            self._per_sample[f"{key}.{name}"] = values_BC.unflatten(1, shape)

    def _hear_block(
        self, key: str, module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        x_BSd = args[0] if args else kwargs["hidden_states"]
        y_BSd = output if isinstance(output, Tensor) else output[0]
        if self._squared_input_BS is None:
            self._squared_input_BS = aggregate.token_dots(x_BSd, x_BSd)
        # The output of this layer is the input of the next one.
        squared_x_BS = self._squared_input_BS.to(y_BSd.device)
        self._squared_input_BS = aggregate.token_dots(y_BSd, y_BSd)
        self._dots[key] = (aggregate.token_dots(x_BSd, y_BSd), squared_x_BS, self._squared_input_BS)

    def _refuse_not_finite(self, key: str, values: Tensor) -> None:
        if torch.isfinite(values).all():
            return
        site = self._source[key]
        parameters = self._model.named_parameters()
        damaged = [name for name, p in parameters if not p.is_meta and not torch.isfinite(p).all()]
        if damaged:
            raise CheckpointError(
                f"{len(damaged)} weights hold NaN or infinity, first {damaged[0]!r}; seen at {site!r}.",
                "Repair or download the checkpoint again; its scores would mean nothing.",
            )
        raise EvaluationError(
            f"Activations at {site!r} hold NaN or infinity, though all weights are finite.",
            "Load the model in a wider dtype (bfloat16 or float32 instead of float16), or look at the rows.",
        )
