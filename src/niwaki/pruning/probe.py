"""Hooks that reduce the activations of a decoder to scores per sample, while a batch runs through it.

Where to listen comes from the family's axis table (`Family.sites`); what is computed, from `aggregate.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from niwaki.errors import CheckpointError, EvaluationError
from niwaki.ground.calibration import decoder_arguments
from niwaki.ground.experts import Listener, heard_experts
from niwaki.ground.family import Family
from niwaki.ground.walk import decode
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
        self._batch_shape = torch.Size()
        self._per_sample: dict[str, Tensor] = {}
        self._dots: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self._sums: dict[str, Tensor] = {}
        self._squared_input_BS: Tensor | None = None
        self._source: dict[str, str] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hold the hooks in place, with the model in evaluation mode and without gradients."""
        was_training = self._model.training
        self._model.eval()
        handles = list(self._hooks())
        listeners = dict(self._expert_listeners())
        try:
            with torch.no_grad(), heard_experts(self._model, listeners) if listeners else nullcontext():
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

        device = self._model.get_input_embeddings().weight.device
        arguments = [decoder_arguments(batch, device) for batch in batches]
        for _ in decode(self._model, arguments, around=around):
            pass
        for batch in batches:
            scores.num_samples += len(batch["mask"])
            scores.num_tokens += int(batch["mask"].sum())

    @contextmanager
    def _hearing(self, batch: dict[str, Tensor], scores: Scores) -> Iterator[None]:
        """Add what the modules that run in this block show of a batch."""
        valid_BS = batch["mask"].to(self._model.get_input_embeddings().weight.device)
        padded = not bool(valid_BS.all())
        self._valid_BS = valid_BS if padded else None
        self._batch_shape = valid_BS.shape
        self._per_sample, self._dots, self._sums, self._squared_input_BS = {}, {}, {}, None
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
        for key, total in self._sums.items():
            self._refuse_not_finite(key.rpartition(".")[0], total)
            scores.add(key, total.to("cpu"))

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

    def _expert_listeners(self) -> Iterator[tuple[nn.Module, Listener]]:
        name = self._family.sites.experts
        if name is not None and ("expert" in self._axes or "effn" in self._axes):
            for layer in range(self._sizes["layer"]):
                yield self._site(name, layer, f"layers.{layer}", self._hear_expert)

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

    def _hear_expert(
        self, key: str, expert: int, token_T: Tensor, neurons_TF: Tensor, y_Td: Tensor, weight_T: Tensor
    ) -> None:
        num_samples, sample_tokens = self._batch_shape
        if self._valid_BS is not None:
            valid_T = self._valid_BS.to(token_T.device).flatten()[token_T]
            token_T, weight_T = token_T[valid_T], weight_T[valid_T]
            neurons_TF, y_Td = neurons_TF[valid_T], y_Td[valid_T]
        if "expert" in self._axes:
            norms_T = torch.linalg.vector_norm(y_Td, dim=-1, dtype=torch.float32)
            found = {
                "weighted_norm_sum": (norms_T.double() * weight_T.double()).sum(),
                "num_tokens": norms_T.new_tensor(len(token_T), dtype=torch.float64),
            }
            for name, value in found.items():
                self._of_expert(self._sums, f"{key}.expert.{name}", expert, value)
        if "effn" in self._axes:
            heard = aggregate.over_routed_tokens(
                neurons_TF, token_T // sample_tokens, num_samples, self._sequence
            )
            for name, values_BF in heard.items():
                self._of_expert(self._per_sample, f"{key}.effn.{name}", expert, values_BF)

    def _of_expert(self, into: dict[str, Tensor], key: str, expert: int, value: Tensor) -> None:
        """Put one expert's value, [] or [B, F], into its place in [E] or [B, E, F]; others start at zero."""
        dim = min(value.ndim, 1)
        if key not in into:
            into[key] = value.new_zeros(*value.shape[:dim], self._sizes["expert"], *value.shape[dim:])
        into[key].select(dim, expert).copy_(value)

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
