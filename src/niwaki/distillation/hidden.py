"""Bring the student's hidden states to the teacher's (Minitron, section 2.4: Lis = Lemb + Latt + Li + Lo).

What is measured, and where it is read; all but the attention is taken after the norm, as in the paper:

    embedding   the input of the first layer, behind that layer's norm
    output      the output of a layer, behind the norm of the next one, or the final norm
    mlp_input   what goes into the MLP of a layer
    attention   the relations of a layer's queries to one another (MiniLM v2, arXiv 2012.15828, section 3)

In a family whose norms only follow attention and MLP (olmo2) the stream between two layers has no norm of
its own, and `embedding` and `output` are read there as they are.

Where to listen is read off the axis table. Hooks listen during the models' own forward passes, so gradient
checkpointing, DDP and FSDP2 work as without them. One learned linear map, shared by all layers and parts,
lifts the student's hidden states to the teacher's width; where the widths agree there is none.

Shapes: B rows, S positions, N tokens that count, D hidden size, H query heads, A relation heads, d head size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from niwaki.distillation.projection import wide
from niwaki.errors import FamilyError, RecipeError, TrainingError
from niwaki.ground.family import Family, family_of
from niwaki.ground.sites import Sites
from niwaki.recipe.quantities import format_layer

Part = Literal["embedding", "output", "mlp_input", "attention"]
Measure = Literal["cosine", "mse"]
Heard = dict[tuple[Part, int], Tensor]


@dataclass(frozen=True)
class HiddenLoss:
    """What is measured of hidden states, beside the logits; by default the paper's best for deep cuts.

    Attributes:
        parts: what is measured; see the module.
        layers: teacher layer -> student layer that is to resemble it; from 0, or below 0 from the end (-3 is
            the last but two). Not used by `embedding`.
        measure: of hidden states. `cosine` is 1 - the cosine, `mse` the mean over the width of the squared
            difference. The attention has a measure of its own.
        alpha: weight of the sum of all parts; `dynamic` makes it as large as the logit loss.
    """

    parts: tuple[Part, ...] = ("output", "embedding")
    layers: Mapping[int, int] = field(default_factory=lambda: {-3: -3})
    measure: Measure = "cosine"
    alpha: float | Literal["dynamic"] = "dynamic"


class Lifted(nn.Module):
    """A student and the map that lifts its hidden states: trained as one, of which only the student is saved.

    The map starts as a random isometry, so that it changes no length and no angle.
    """

    def __init__(self, student: PreTrainedModel, *, teacher: PreTrainedConfig, seed: int) -> None:
        super().__init__()
        self.student = student
        self.lift: nn.Module = nn.Identity()
        own_width, width = (_sizes(config)["hidden"] for config in (student.config, teacher))
        if own_width != width:
            lift = nn.Linear(own_width, width, bias=False)
            nn.init.orthogonal_(lift.weight, generator=torch.Generator().manual_seed(seed))
            self.lift = lift.to(student.device, student.dtype)


def check_hidden(hidden: HiddenLoss, *, student: PreTrainedConfig, teacher: PreTrainedConfig) -> None:
    """Refuse what cannot be measured between two models of these configs.

    Raises:
        RecipeError: an unknown part, or a layer that one of them does not have.
        FamilyError: a family without a table, or whose queries the table does not show.
    """
    unknown = set(hidden.parts) - set(get_args(Part))
    if unknown or not hidden.parts:
        raise RecipeError(
            f"hidden.parts {list(hidden.parts)} is not a choice of {', '.join(get_args(Part))}.",
            "Name one or more of them.",
        )
    if set(hidden.parts) != {"embedding"} and not hidden.layers:
        raise RecipeError("hidden.layers is empty.", "Write pairs such as {-3: -3}.")
    check_layers(
        hidden.layers, teacher_layers=_sizes(teacher)["layer"], student_layers=_sizes(student)["layer"]
    )
    for config in (student, teacher):
        if "attention" in hidden.parts and family_of(config).sites.queries is None:
            raise FamilyError(
                f"{config.model_type}: the table shows no projection to queries.",
                "Leave `attention` out of hidden.parts; it has not been seen to help.",
            )


def check_layers(layers: Mapping[int, int], *, teacher_layers: int, student_layers: int) -> None:
    """Refuse a layer map that is out of range for models of so many layers.

    Raises:
        RecipeError: names the pair, the model and the legal range.
    """
    for pair in layers.items():
        words = ": ".join(str(format_layer(layer)) for layer in pair)
        for whose, layer, num_layers in zip(
            ("teacher", "student"), pair, (teacher_layers, student_layers), strict=True
        ):
            if not -num_layers <= layer < num_layers:
                raise RecipeError(
                    f"hidden.layers {{{words}}}: the {whose} has {num_layers} layers, so there is no layer "
                    f"{format_layer(layer)}.",
                    f"Pairs are teacher layer: student layer, counted from 0. For the {whose}, write 0 to "
                    f"{num_layers - 1}, or {format_layer(-num_layers)} to last.",
                )


@contextmanager
def listening(
    model: PreTrainedModel, hidden: HiddenLoss | None, *, role: Literal["teacher", "student"]
) -> Iterator[Heard]:
    """Hear what `hidden` measures, (part, number of the pair) -> states, in the forward pass run inside.

    Yields an empty dictionary that the pass fills: [B, S, D], and for `attention` the queries [B, S, H, d].
    """
    heard: Heard = {}
    handles = []
    if hidden is not None:
        layers = hidden.layers.keys() if role == "teacher" else hidden.layers.values()
        for key, place in _places(model.config, hidden.parts, tuple(layers)):
            hear = partial(_hear, heard, key, place)
            module = model.get_submodule(place.module)
            handles.append(module.register_forward_hook(hear, with_kwargs=True))
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


def hidden_term(
    hidden: HiddenLoss, ours: Heard, theirs: Heard, *, lift: nn.Module, mask: Tensor, logit_loss: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """alpha * Lis, summed over the tokens in `mask`, and its parts as metrics, which have no gradient.

    With `dynamic`, alpha is Llogits / Lis of this micro-batch on this process, a constant for the gradient.
    It stops growing where Lis is no more than the rounding of float32.

    Args:
        ours, theirs: what `listening` heard of student and teacher.
        mask: [B, S] bool.
        logit_loss: Llogits, summed over the same tokens.

    Raises:
        TrainingError: the student's states came without a gradient.
    """
    sums: dict[Part, Tensor] = {}
    for key, state in ours.items():
        if torch.is_grad_enabled() and not state.requires_grad:
            raise TrainingError(
                f"The student's {key[0]} states have no gradient.",
                "Train those layers, and enable gradient checkpointing with use_reentrant=False.",
            )
        tokens_N = (
            relation_kl(state, theirs[key])[mask]
            if key[0] == "attention"
            else _distance(lift(state[mask]), theirs[key][mask], hidden.measure)
        )
        sums[key[0]] = sums.get(key[0], 0) + tokens_N.sum()
    total = torch.stack(list(sums.values())).sum()
    num_targets = mask.sum()
    if hidden.alpha == "dynamic":
        rounding = torch.finfo(torch.float32).eps * num_targets.clamp_min(1)
        alpha = logit_loss.detach() / total.detach().maximum(rounding.to(total.dtype))
    else:
        alpha = total.new_tensor(hidden.alpha)
    # The loop divides metrics by the number of targets.
    metrics = {f"hidden_{part}": value.detach() for part, value in sums.items()}
    return alpha * total, metrics | {"alpha": alpha * num_targets}


def relation_kl(student_BSHd: Tensor, teacher_BSHd: Tensor) -> Tensor:
    """[B, S] KL(teacher || student) of the relations between tokens, mean over relation heads, in nats.

    The relation of a token is the softmax of its scaled products with itself and all before it. Vectors of
    all heads are split anew into as many relation heads as divide both numbers of heads, so these may differ.
    """
    num_heads = math.gcd(student_BSHd.shape[2], teacher_BSHd.shape[2])
    log_q_BASS, log_p_BASS = (_log_relation(x, num_heads) for x in (student_BSHd, teacher_BSHd))
    return (log_p_BASS.exp() * (log_p_BASS - log_q_BASS)).sum(dim=-1).mean(dim=1)


def _log_relation(vectors_BSHd: Tensor, num_heads: int) -> Tensor:
    x_BASd = wide(vectors_BSHd).flatten(2).unflatten(-1, (num_heads, -1)).transpose(1, 2)
    products = x_BASd @ x_BASd.transpose(2, 3) / math.sqrt(x_BASd.shape[-1])
    later = torch.ones(products.shape[-2:], dtype=torch.bool, device=products.device).triu(1)
    # Half the smallest number, because minus infinity less itself is none.
    return torch.log_softmax(products.masked_fill(later, torch.finfo(products.dtype).min / 2), dim=-1)


def _distance(student_ND: Tensor, teacher_ND: Tensor, measure: Measure) -> Tensor:
    ours, theirs = wide(student_ND), wide(teacher_ND)
    if measure == "cosine":
        return 1 - F.cosine_similarity(ours, theirs, dim=-1)
    return (ours - theirs).square().mean(dim=-1)


class _Place(NamedTuple):
    """A module whose input or output is heard; `queries` is (axis expression, sizes) where it holds them."""

    module: str
    reads: Literal["input", "output"] = "output"
    queries: tuple[str, Mapping[str, int]] | None = None


def _places(
    config: PreTrainedConfig, parts: tuple[Part, ...], layers: tuple[int, ...]
) -> Iterator[tuple[tuple[Part, int], _Place]]:
    """Where each part of each pair is heard in a model of this config."""
    family, sizes = family_of(config), _sizes(config)
    sites, num_layers = family.sites, sizes["layer"]
    for part in parts:
        if part == "embedding":
            yield (part, 0), _stream(sites, 0, num_layers)
            continue
        for number, named in enumerate(layers):
            layer = named % num_layers
            if part == "output":
                place = _stream(sites, layer + 1, num_layers)
            elif part == "mlp_input":
                place = _Place(sites.mlp.format(layer=layer), "input")
            else:
                place = _query_place(family, sizes, layer)
            yield (part, number), place


def _stream(sites: Sites, layer: int, num_layers: int) -> _Place:
    """The input of a layer, behind its norm; that of the layer after the last, behind the final norm."""
    if layer == num_layers:
        return _Place(sites.final_norm)
    if sites.input_norm is None:
        return _Place(sites.block.format(layer=layer), "input")
    return _Place(sites.input_norm.format(layer=layer))


def _query_place(family: Family, sizes: Mapping[str, int], layer: int) -> _Place:
    module = family.sites.queries
    assert module is not None, "check_hidden has refused such a family"
    return _Place(module.format(layer=layer), queries=(family.tensors[f"{module}.weight"], sizes))


def _hear(
    heard: Heard,
    key: tuple[Part, int],
    place: _Place,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
) -> None:
    if place.reads == "input":
        state = args[0] if args else kwargs["hidden_states"]
    else:
        state = output if isinstance(output, Tensor) else output[0]
    heard[key] = state if place.queries is None else _queries(state, *place.queries)


def _queries(projected: Tensor, expr: str, sizes: Mapping[str, int]) -> Tensor:
    """[B, S, H, d] of what comes out of the projection of this axis expression: queries first, or by head."""
    if expr.startswith("(kv 3 dim)"):
        return projected.unflatten(-1, (sizes["kv"], 3, sizes["dim"]))[..., 0, :]
    heads = sizes["kv"] * sizes["group"]
    return projected[..., : heads * sizes["dim"]].unflatten(-1, (heads, sizes["dim"]))


def _sizes(config: PreTrainedConfig) -> dict[str, int]:
    return family_of(config).axis_sizes(config)
