"""Take rows through a decoder, whole or one layer at a time, in the model's own forward.

In: a model in memory or one that is streamed, and batches of rows. `decode` gives last hidden states. `walk`
stops in front of every layer: there the layer can be run on its inputs, listened to and changed, and what
it is then is what the rows go through to the next one. So a method that calibrates layer by layer needs
memory for one layer and for the hidden states of its rows.

Shapes: B rows, S positions, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from niwaki.ground.layers import layer_list, layer_output, only_layers, starting_from
from niwaki.ground.streamed import holding, is_streamed

Arguments = Mapping[str, Tensor]
Around = Callable[[int], AbstractContextManager[Any]]


def _alone(batch: int) -> AbstractContextManager[Any]:
    return nullcontext()


def decode(
    model: PreTrainedModel, batches: Sequence[Arguments], *, around: Around = _alone
) -> Iterator[Tensor]:
    """Run batches through a decoder without its head: [B, S, D] last hidden states, batch after batch.

    A model in memory takes one batch after the other; a streamed one takes all of them through a layer before
    it reads the next. The two make the same bits.

    Args:
        batches: keyword arguments of the decoder, such as `input_ids` [B, S]; not the key-value cache.
        around: batch number -> a context that is entered for each call of the model on this batch: once, or,
            streamed, once for each layer, and then only the modules of that layer run.
    """
    if is_streamed(model):
        for stop in walk(model, batches):
            stop.advance(around)
        for hidden in stop.states:
            yield hidden.to(model.device)
        return
    for number, arguments in enumerate(batches):
        with around(number):
            hidden_BSD: Tensor = model.base_model(**arguments, use_cache=False).last_hidden_state
        yield hidden_BSD


@dataclass
class Stop:
    """In front of one layer.

    Attributes:
        number: of the layer, from 0.
        layer: the module, with its weights in memory.
        is_last: whether no other layer hears what this one makes.
        states: batch after batch [B, S, D], in the machine's memory: the inputs of the layer, and after
            `advance` its outputs; after the last layer the outputs of the final norm. Empty in front of layer
            0, whose inputs the model makes itself.
    """

    number: int
    layer: nn.Module
    is_last: bool
    states: list[Tensor]
    _model: PreTrainedModel
    _batches: Sequence[Arguments]
    _advanced: bool = field(default=False)

    def run(self, batch: int) -> Tensor:
        """The output of the layer for one batch, [B, S, D]; of the last one, the final norm's."""
        found: list[Tensor] = []
        start = (
            starting_from(self.layer, self.states[batch].to(self._model.device))
            if self.number
            else nullcontext()
        )
        with start, nullcontext() if self.is_last else _ending_with(self.layer, found):
            ended: Tensor = self._model.base_model(**self._batches[batch], use_cache=False).last_hidden_state
        return ended if self.is_last else found[0]

    def advance(self, around: Around = _alone) -> None:
        """Go through the layer, as it is now, with every batch."""
        for batch in range(len(self._batches)):
            with around(batch):
                hidden = self.run(batch).to("cpu")
            if self.number:
                self.states[batch] = hidden
            else:
                self.states.append(hidden)
        self._advanced = True


def walk(model: PreTrainedModel, batches: Sequence[Arguments]) -> Iterator[Stop]:
    """Stop in front of every layer, in order; where the caller did not `advance`, that is done behind it.

    While the caller has a stop, the model consists of that layer alone (`ground.layers.only_layers`). Changes
    that it makes to the weights of a streamed model are gone at the next stop.

    Args:
        batches: as of `decode`.
    """
    layers = list(layer_list(model))
    states: list[Tensor] = []
    for number, layer in enumerate(layers):
        with holding(model, number), only_layers(model, [number]):
            stop = Stop(number, layer, number == len(layers) - 1, states, model, batches)
            yield stop
            if not stop._advanced and not stop.is_last:
                stop.advance()


class _LayerEndedError(Exception):
    """Ends the run of a model behind a layer; never leaves this module."""


@contextmanager
def _ending_with(layer: nn.Module, found: list[Tensor]) -> Iterator[None]:
    """End the model's forward pass, and with it the block, when `layer` has its output: no final norm."""

    def end(module: nn.Module, args: Any, output: Any) -> None:
        found.append(layer_output(output))
        raise _LayerEndedError

    handle = layer.register_forward_hook(end)
    try:
        with suppress(_LayerEndedError):
            yield
    finally:
        handle.remove()
