"""Which layers to drop, found by measuring the model in memory without them.

Measures: the language-model loss of the rest; block influence, 1 - E[cos(x_i, x_{i+n})] between the inputs of
the layers before and after a block of n (arXiv 2407.14679, section 2.2); or any score of a model that the
caller passes in, such as an lm-eval task. Patterns: one contiguous block, or single layers. arXiv 2408.11796
found that the loss prefers scattered layers, but that 16 of 32 dropped like that leave Winogrande at chance
(0.5) where one block leaves 0.595, and that the last layer must stay; so blocks are the default from three
layers on, and the last layer is never dropped unasked.

Single layers are measured one at a time on the whole model, and those of least harm go together (one-shot, as
the block influence and the perplexity of arXiv 2407.14679 are); nothing is measured again in between.

Loss and influence run a batch through the whole model once and keep what each layer got; without the block
[s, s + n) only the layers from s + n on run again, from the input of layer s.

Shapes: B rows, S positions, D hidden, N scored positions of a batch, R removed sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from niwaki.errors import EvaluationError, RecipeError
from niwaki.ground import processes
from niwaki.ground.calibration import Rows
from niwaki.ground.head import check_head, split_head
from niwaki.ground.layers import layer_input, layer_list, only_layers, starting_from, without_layers
from niwaki.ground.progress import progress
from niwaki.pruning.depth_record import DepthRecord, Layers

Pattern = Literal["block", "single"]

_FEW_LAYERS = 2
_CHUNK_TOKENS = 256


def usual_pattern(num_dropped: int) -> Pattern:
    """Single layers for one or two, a block for more."""
    return "single" if num_dropped <= _FEW_LAYERS else "block"


def removals(num_layers: int, num_dropped: int, pattern: Pattern) -> list[Layers]:
    """The sets of layers to measure a model without, so that `num_dropped` can be chosen from them.

    Raises:
        RecipeError: fewer than one, or all layers are to go.
    """
    if not 0 < num_dropped < num_layers:
        raise RecipeError(
            f"{num_dropped} of {num_layers} layers cannot be dropped.", "Keep at least one layer."
        )
    length = 1 if pattern == "single" else num_dropped
    return [tuple(range(start, start + length)) for start in range(num_layers - length)]


def best_removal(record: DepthRecord, num_layers: int, num_dropped: int, pattern: Pattern) -> tuple[int, ...]:
    """The layers to drop, ascending, from values for all of `removals`; of equals, the earlier go."""
    sign = -1 if record.higher_is_better else 1
    wanted = removals(num_layers, num_dropped, pattern)
    ranked = sorted(wanted, key=lambda layers: (sign * record.values[layers], layers))
    num_sets = num_dropped if pattern == "single" else 1
    return tuple(sorted(layer for layers in ranked[:num_sets] for layer in layers))


def measure_on_rows(
    model: PreTrainedModel,
    removed: Sequence[Layers],
    rows: Rows,
    *,
    measure: Literal["loss", "influence"],
    num_rows: int,
    batch_rows: int,
    record: DepthRecord,
) -> None:
    """Add to `record` what the model does without each of `removed`.

    Each of these sets is contiguous and spares the last layer, or is empty.

    After every batch the sums so far are saved, and another call with the same arguments goes on from there.
    Collective: batches are dealt out to the processes in turn and added up in order, so that the values are
    those of one process to the bit, and any number of processes goes on from any other's sums.

    Raises:
        EvaluationError: a value is not finite.
        CheckpointError: logits that are not a linear head's.
    """
    per_batch = _losses if measure == "loss" else _influences
    sums = record.sums_for(removed)
    # A turn: a batch for each process.
    starts = range(sums.num_rows, num_rows, batch_rows * processes.count())
    with _evaluating(model), progress(f"depth by {measure}", total=len(starts)) as bar:
        if measure == "loss":
            with only_layers(model, [0]):
                check_head(model)
        for start in starts:
            turn = min(batch_rows * processes.count(), num_rows - start)
            mine = processes.my_part(turn, step=batch_rows)
            found = None
            if mine:
                batch = rows.take(start + mine.start, len(mine))
                values = per_batch(model, batch, removed).tolist()
                found = (values, len(batch["mask"]), int(batch["mask"].sum()))
            for values, rows_heard, tokens_heard in filter(None, processes.gather(found)):
                _refuse_not_finite(values, removed, measure)
                sums.add(values, num_rows=rows_heard, num_tokens=tokens_heard)
            record.save()
            bar.advance()
    record.finish(sums)


def measure_score(
    model: PreTrainedModel,
    removed: Sequence[Layers],
    score: Callable[[PreTrainedModel], float],
    *,
    name: str,
    record: DepthRecord,
) -> None:
    """Add to `record` the `score` of the model without each of `removed`; each is saved when it is known.

    `score` gets the model in memory, which for that time is one of fewer layers (`ground.layers`).
    Collective: several processes all call `score`, which has to say the same in each.

    Raises:
        EvaluationError: a score is not finite.
    """
    with progress(f"depth by {name}", total=len(removed)) as bar:
        for layers in removed:
            with without_layers(model, layers):
                value = score(model)
            _refuse_not_finite([value], [layers], name)
            record.add(layers, value)
            bar.advance()


def _losses(model: PreTrainedModel, batch: dict[str, Tensor], removed: Sequence[Layers]) -> Tensor:
    """Sums of nats over the scored positions, [R] float64."""
    ids_BS = batch["inputs"].to(model.device)
    mask_BS = batch["mask"].to(model.device)
    targets_N = batch["targets"].to(model.device)[mask_BS]
    layers = layer_list(model)
    inputs, ended_BSD = _run_whole(model, ids_BS, {block[0] for block in removed if block})
    nats = []
    for block in removed:
        hidden_BSD = ended_BSD
        if block:
            after = range(block[-1] + 1, len(layers))
            start = starting_from(layers[after.start], inputs[block[0]])
            with only_layers(model, after), start:
                hidden_BSD = model.base_model(input_ids=ids_BS, use_cache=False).last_hidden_state
        nats.append(_nats(model, hidden_BSD[mask_BS], targets_N))
    return torch.stack(nats).cpu()


def _influences(model: PreTrainedModel, batch: dict[str, Tensor], removed: Sequence[Layers]) -> Tensor:
    """Sums of 1 - cos(x_i, x_{i+n}) over the valid tokens, [R] float64; 0 for the empty set."""
    mask_BS = batch["mask"].to(model.device)
    ends = {end for block in removed if block for end in (block[0], block[-1] + 1)}
    inputs, _ = _run_whole(model, batch["inputs"].to(model.device), ends)
    sums = torch.zeros(len(removed), dtype=torch.float64)
    for index, block in enumerate(removed):
        if block:
            x_BSD, y_BSD = inputs[block[0]], inputs[block[-1] + 1]
            cosines_BS = F.cosine_similarity(x_BSD.float(), y_BSD.float(), dim=-1)
            sums[index] = (1 - cosines_BS[mask_BS].double()).sum()
    return sums


def _run_whole(model: PreTrainedModel, ids_BS: Tensor, wanted: set[int]) -> tuple[dict[int, Tensor], Tensor]:
    """What the layers `wanted` get, by number, and the last hidden states, [B, S, D] each."""
    inputs: dict[int, Tensor] = {}

    def listen(number: int) -> Callable[..., None]:
        def hear(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs[number] = layer_input(args, kwargs)

        return hear

    layers = layer_list(model)
    with ExitStack() as stack:
        for number in wanted:
            handle = layers[number].register_forward_pre_hook(listen(number), with_kwargs=True)
            stack.callback(handle.remove)
        ended_BSD: Tensor = model.base_model(input_ids=ids_BS, use_cache=False).last_hidden_state
    return inputs, ended_BSD


def _nats(model: PreTrainedModel, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    _, head = split_head(model)
    total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
    for hidden, targets in zip(hidden_ND.split(_CHUNK_TOKENS), targets_N.split(_CHUNK_TOKENS), strict=True):
        total += F.cross_entropy(head.logits(hidden).float(), targets, reduction="sum")
    return total


def _refuse_not_finite(values: Sequence[float], removed: Sequence[Layers], name: str) -> None:
    for value, layers in zip(values, removed, strict=True):
        if not math.isfinite(value):
            raise EvaluationError(
                f"The {name} without layers {list(layers)} is {value}.",
                "Look for NaN in the weights, or use bfloat16 or float32 instead of float16.",
            )


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
