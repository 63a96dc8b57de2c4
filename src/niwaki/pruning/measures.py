"""Measures of importance by name: activations (Minitron's), and three to compare them with.

A measure is a function from a model to an `Importance`; anything that returns one can be given to `select`.
Those of weights read off the family's axis table which weights belong to a unit: all in which the unit is one
of the indices. So a query head owns rows of the query and columns of the output projection, a key-value head
its rows of keys and values and all that its query heads own, a hidden channel a slice of almost every tensor,
a layer everything in it. Tied weights count once.

- activation: `score.py` (arXiv 2407.14679, section 2.2).
- taylor: the sum over a unit's weights of |w * dL/dw|, L the mean next-token loss of the calibration set:
  what the loss would change by, to first order, were the weight zero (Molchanov et al., arXiv 1906.10771,
  section 3.1, for single weights; summed in absolute value as the element-wise form of LLM-Pruner, arXiv
  2305.11627, section 3.2, without its second-order term).
- magnitude: the L2 norm of a unit's weights. Runs nothing.
- random: uniform on [0, 1), from a seed. The control.

Shape suffixes: N valid tokens of a batch, d hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from niwaki.errors import EvaluationError, RecipeError
from niwaki.ground import processes
from niwaki.ground.axes import sum_per_unit
from niwaki.ground.calibration import Rows, decoder_arguments, take_rows
from niwaki.ground.family import family_of
from niwaki.ground.head import check_head, split_head
from niwaki.ground.progress import progress
from niwaki.pruning.importance import unit_shape
from niwaki.pruning.score import score

_CHUNK_TOKENS = 256


class Measure(Protocol):
    """What every entry of `MEASURES` takes; those that need no rows or no seed leave them aside."""

    def __call__(
        self, model: PreTrainedModel, rows: Rows, *, num_samples: int, batch_rows: int, seed: int
    ) -> dict[str, Tensor]:
        """The importance of every axis, on the CPU in float64. The model is left as it was."""
        ...


def activation(
    model: PreTrainedModel,
    rows: Rows,
    *,
    num_samples: int,
    batch_rows: int = 8,
    batch: str = "l2",
    sequence: str = "mean",
) -> dict[str, Tensor]:
    """Importance by activations; `score` does the work and says what can be wrong."""
    scores = score(model, rows, num_samples=num_samples, batch_rows=batch_rows, sequence=(sequence,))
    return scores.importances(batch=batch, sequence=sequence)


def magnitude(model: PreTrainedModel) -> dict[str, Tensor]:
    """The L2 norm of the weights of every unit."""
    sums = _sum_over_weights(model, lambda _, weight: weight.detach().float().square())
    return {axis: values.sqrt() for axis, values in sums.items()}


def taylor(model: PreTrainedModel, rows: Rows, *, num_samples: int, batch_rows: int = 8) -> dict[str, Tensor]:
    """The first-order change of the loss of `num_samples` rows, one backward pass each.

    The gradient is that of the whole set, summed in float32 whatever the model's dtype, so `batch_rows`
    changes nothing but rounding. It takes 4 bytes per parameter beside the model, and the activations of one
    batch. `rows` must hold "targets", the next token at every valid position.

    Raises RecipeError for less than one sample, DataError for missing or empty rows, CheckpointError for a
    head that is more than linear (`ground/head.py`), EvaluationError for a gradient that is not finite.
    """
    if num_samples < 1:
        raise RecipeError(f"num_samples is {num_samples}.", "Measure at least one sample.")
    check_head(model)
    num_tokens = 0
    mine = processes.my_part(num_samples, step=batch_rows)
    starts = mine[::batch_rows]
    with _summing_gradients(model) as gradients, progress("taylor", total=len(starts)) as bar:
        for start in starts:
            batch = take_rows(rows, start, min(batch_rows, mine.stop - start))
            # Divided before it can overflow in half precision; by the tokens when all are counted.
            _backward(model, batch, scale=1 / num_samples)
            num_tokens += int(batch["mask"].sum())
            bar.advance()
    processes.add_up(list(gradients.values()))
    per_token = num_samples / sum(processes.gather(num_tokens))
    for name, gradient in gradients.items():
        if not gradient.isfinite().all():
            raise EvaluationError(
                f"The gradient of {name!r} holds NaN or infinity.",
                "Load the model in a wider dtype (bfloat16 instead of float16), or look at the rows.",
            )
    return _sum_over_weights(
        model, lambda name, weight: (weight.detach().float() * gradients[name]).abs() * per_token
    )


def random(model: PreTrainedModel, *, seed: int) -> dict[str, Tensor]:
    """Uniform numbers, the same for the same seed and sizes."""
    family = family_of(model.config)
    sizes = family.axis_sizes(model.config)
    generator = torch.Generator().manual_seed(seed)
    return {
        axis: torch.rand(unit_shape(axis, sizes), generator=generator, dtype=torch.float64)
        for axis in family.axes
    }


MEASURES: Mapping[str, Measure] = {
    "activation": lambda model, rows, *, num_samples, batch_rows, seed: activation(
        model, rows, num_samples=num_samples, batch_rows=batch_rows
    ),
    "taylor": lambda model, rows, *, num_samples, batch_rows, seed: taylor(
        model, rows, num_samples=num_samples, batch_rows=batch_rows
    ),
    "magnitude": lambda model, rows, *, num_samples, batch_rows, seed: magnitude(model),
    "random": lambda model, rows, *, num_samples, batch_rows, seed: random(model, seed=seed),
}


def _sum_over_weights(
    model: PreTrainedModel, of_weights: Callable[[str, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Sum a value per weight over each unit; `of_weights` maps a parameter to a tensor of its shape."""
    family = family_of(model.config)
    sizes = family.axis_sizes(model.config)
    sums = {axis: torch.zeros(unit_shape(axis, sizes), dtype=torch.float64) for axis in family.axes}
    for name, weight in model.named_parameters():
        match, values = family.match(name), of_weights(name, weight)
        for axis, into in sums.items():
            if axis == "layer":
                found = None if match.layer is None else values.sum(dtype=torch.float64)
            else:
                found = sum_per_unit(values, match.expr, sizes, axis)
            if found is not None:
                (into if axis == "hidden" else into[match.layer]).add_(found.to("cpu"))
    return sums


@contextmanager
def _summing_gradients(model: PreTrainedModel) -> Iterator[dict[str, Tensor]]:
    """Sum the gradients of backward passes in float32 beside the model: parameter name -> sum."""
    was_training = model.training
    needed = {name: p.requires_grad for name, p in model.named_parameters()}
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in model.named_parameters()}
    handles = []

    def add(parameter: Tensor, *, into: Tensor) -> None:
        assert parameter.grad is not None
        into.add_(parameter.grad)
        parameter.grad = None

    for name, parameter in model.named_parameters():
        parameter.requires_grad_(True)
        handles.append(parameter.register_post_accumulate_grad_hook(partial(add, into=sums[name])))
    model.eval()
    try:
        with torch.enable_grad():
            yield sums
    finally:
        for handle in handles:
            handle.remove()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(needed[name])
        model.train(was_training)


def _backward(model: PreTrainedModel, batch: dict[str, Tensor], *, scale: float) -> None:
    """Backward pass of `scale` * the summed next-token loss; logits exist for some tokens at a time."""
    backbone, head = split_head(model)
    device = model.get_input_embeddings().weight.device
    hidden = backbone(**decoder_arguments(batch, device), use_cache=False).last_hidden_state
    hidden_Nd = hidden[batch["mask"].to(hidden.device)]
    targets_N = batch["targets"][batch["mask"]].to(hidden.device)
    leaf_Nd = hidden_Nd.detach().requires_grad_()
    for chunk_Nd, target_N in zip(leaf_Nd.split(_CHUNK_TOKENS), targets_N.split(_CHUNK_TOKENS), strict=True):
        loss = F.cross_entropy(head.logits(chunk_Nd).float(), target_N, reduction="sum")
        (loss * scale).backward()
    hidden_Nd.backward(leaf_Nd.grad)
