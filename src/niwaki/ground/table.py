"""A model family is a table: one line per tensor, saying what its dimensions mean.

Everything structural is read off the table: the parameter count of a shape nobody has built, trimming,
where to listen when scoring, which config fields to rewrite. The tables themselves are in `families/`,
and `docs/families.md` says how to write one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from niwaki.errors import FamilyError
from niwaki.ground import patterns
from niwaki.ground.axes import AXES, Keep, Sizes, axes_of, count, kept_per_dim, parse, shape, take
from niwaki.ground.configs import check_change, check_sizes, cut_layers, read_sizes, write_sizes
from niwaki.ground.cut import Cut, place
from niwaki.ground.patterns import Match
from niwaki.ground.sites import Sites, find_sites

Lines = Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """The axis table of one `model_type`.

    Attributes:
        model_type: as in config.json.
        tensors: name pattern -> axis expression, for the names of `model.state_dict()`. A pattern may hold
            `{layer}`. A line may end in ` if FIELD`: the tensor is there only when that config field is true.
        sizes: axis -> config field. `group` and `dim` are derived from `num_attention_heads` and `head_dim`.
        saved: pattern of `tensors` -> the lines that replace it on disk, where `transformers` stores other
            names than it holds in memory. Their patterns may also hold `{expert}`.
        unread: patterns of tensors that old checkpoints carry on disk and no model reads.
        embedding, head, final_norm: names of these modules.
        norms: modules of a layer, below its prefix, for `Sites.norms`.
        norms_after: these stand behind attention and MLP, and a layer reads its input as it is.
        per_layer_fields: config lists with one entry per layer.
        requires: config field -> the only value that this table describes.
        hidden_is_heads: the model computes its head size as hidden / heads, so both must move together.
        heads_divide_hidden: the config class refuses a hidden size that is no multiple of the number of
            heads, although head_dim is written.
        scaled_embedding: the model multiplies its embeddings by sqrt(hidden).
        norm_offset: what the model adds to the weight of its norms (gemma: 1).
        no_rotation: why the hidden stream cannot be rotated, in words; empty where it can: RMSNorms, only in
            front of attention, MLP and head.
        tied: the head shares the embedding's weights; set by `of`.
        head_apart_below: models with fewer hidden channels than this have a head of their own all the same,
            because a rotation before the cut unties it.
    """

    model_type: str
    tensors: Lines
    sizes: Lines
    saved: Mapping[str, Lines] = field(default_factory=dict)
    unread: tuple[str, ...] = ("model.layers.{layer}.self_attn.rotary_emb.inv_freq",)
    embedding: str = "model.embed_tokens"
    head: str = "lm_head"
    final_norm: str = "model.norm"
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    norms_after: bool = False
    per_layer_fields: tuple[str, ...] = ()
    requires: Mapping[str, Any] = field(default_factory=dict)
    hidden_is_heads: bool = False
    heads_divide_hidden: bool = False
    scaled_embedding: bool = False
    norm_offset: float = 0.0
    no_rotation: str = ""
    tied: bool = False
    head_apart_below: int = 0

    def of(self, config: PreTrainedConfig) -> Family:
        """Resolve the lines that depend on `config`: the result has exactly the tensors of that model.

        Raises:
            FamilyError: the config asks for something this table does not describe.
        """
        for name, value in self.requires.items():
            found = getattr(config, name, value)
            if found != value:
                raise FamilyError(
                    f"{self.model_type}: the table describes models with {name}={value!r}; "
                    f"this config has {name}={found!r}.",
                    "Add lines to the family's table; see docs/families.md.",
                )
        tensors = {pattern: patterns.present(line, config) for pattern, line in self.tensors.items()}
        return replace(
            self,
            tensors={pattern: expr for pattern, expr in tensors.items() if expr is not None},
            tied=bool(getattr(config, "tie_word_embeddings", False)),
        )

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that this family can trim, in the order of `AXES`.

        `dim` is never trimmed (rotary embeddings pair its entries), nor is `vocab` (that needs a new
        tokenizer).
        """
        named = {name for line in self.tensors.values() for name in axes_of(patterns.unconditional(line))} | {
            "layer"
        }
        return tuple(name for name in AXES if name in named - {"dim", "vocab"})

    @cached_property
    def layer_prefix(self) -> str:
        """The name pattern of a decoder layer, such as `model.layers.{layer}`."""
        pattern = next(pattern for pattern in self.tensors if "{layer}" in pattern)
        return pattern[: pattern.index("{layer}")] + "{layer}"

    @cached_property
    def sites(self) -> Sites:
        """Where to listen; see `Sites`."""
        return find_sites(
            self.tensors,
            self.layer_prefix,
            norms=self.norms,
            norms_after=self.norms_after,
            embedding=self.embedding,
            head=self.head,
            final_norm=self.final_norm,
        )

    @property
    def linears(self) -> tuple[str, ...]:
        """The patterns of the linear weights inside the layers (experts too, routers not)."""
        return tuple(
            pattern
            for pattern, expr in self.tensors.items()
            if "{layer}" in pattern and len(parse(expr)) > 1 and expr != "expert hidden"
        )

    def match(self, name: str) -> Match:
        """Find the line for a tensor, by its name in memory or on disk.

        Raises:
            FamilyError: no line matches, or more than one.
        """
        matches = [found for found in self._matches(name) if found is not None]
        if len(matches) == 1:
            return matches[0]
        if not matches:
            raise FamilyError(
                f"{self.model_type}: no axis entry for {name!r}.",
                f"Add a line to families/{self._file}; see docs/families.md.",
            )
        raise FamilyError(
            f"{self.model_type}: {name!r} is matched by {' and '.join(repr(m.pattern) for m in matches)}.",
            f"Remove all but one of these lines from families/{self._file}.",
        )

    def axis_sizes(self, config: PreTrainedConfig) -> dict[str, int]:
        """Read axis -> size from a config."""
        return read_sizes(config, self.sizes)

    def shapes(self, sizes: Sizes, *, saved: bool = False) -> dict[str, tuple[int, ...]]:
        """List every tensor of a model of these sizes: name -> shape.

        Args:
            sizes: axis -> size.
            saved: name them as `save_pretrained` does on disk (and leave out a tied head) instead of as
                `model.state_dict()` does in memory.
        """
        names: dict[str, tuple[int, ...]] = {}
        for pattern, expr in self.tensors.items():
            if saved and self.tied and pattern == f"{self.head}.weight":
                continue
            lines = self.saved.get(pattern, {pattern: expr}) if saved else {pattern: expr}
            for written, line in lines.items():
                names |= dict.fromkeys(patterns.expand(written, sizes), shape(line, sizes))
        return names

    def count(self, sizes: Sizes, *, tied: bool) -> int:
        """Count the parameters of a model of these sizes, from the table alone.

        Args:
            sizes: axis -> size.
            tied: the head shares the embedding's weights, which then count once.
        """
        tied = tied and sizes["hidden"] >= self.head_apart_below
        return sum(
            count(expr, sizes) * (sizes["layer"] if "{layer}" in pattern else 1)
            for pattern, expr in self.tensors.items()
            if not (tied and pattern == f"{self.head}.weight")
        )

    def is_unread(self, name: str) -> bool:
        """Tell whether a tensor on disk is one that `transformers` leaves aside when it loads the model."""
        return any(patterns.match(pattern, "", name) for pattern in self.unread)

    def take(self, name: str, tensor: Tensor, sizes: Sizes, keep: Keep) -> tuple[str, Tensor] | None:
        """Cut one tensor, in memory or on disk, and give it its new name.

        Args:
            name: the tensor's name in the original model.
            tensor: its values.
            sizes: axis -> size of the original model.
            keep: axis -> kept indices; see `docs/architecture.md`.

        Returns:
            The name and values in the trimmed model, or None when its layer or expert is dropped, or when no
            model reads it.
        """
        found = self._find(name, keep)
        if found is None:
            return None
        match, new_name, own_keep = found
        cut = take(tensor, match.expr, sizes, own_keep, match.layer)
        return new_name, self._rescale(match.pattern, cut, sizes, keep)

    def cut(self, name: str, sizes: Sizes, keep: Keep) -> Cut | None:
        """Say how `take` cuts a tensor, for one that is cut some rows at a time; None when it is dropped."""
        found = self._find(name, keep)
        if found is None:
            return None
        match, new_name, own_keep = found
        kept = kept_per_dim(match.expr, sizes, own_keep, match.layer)
        return Cut(new_name, kept, lambda block: self._rescale(match.pattern, block, sizes, keep))

    def _find(self, name: str, keep: Keep) -> tuple[Match, str, Keep] | None:
        """Find a tensor's line, its new name, and the part of `keep` that is about it."""
        if self.is_unread(name):
            return None
        match = self.match(name)
        placed = place(match, keep)
        return placed and (match, *placed)

    def check(self, sizes: Sizes) -> None:
        """Refuse sizes that no model of this family can have.

        Raises:
            FamilyError: names the rule and the nearest sizes that satisfy it.
        """
        check_sizes(
            self.model_type,
            sizes,
            hidden_is_heads=self.hidden_is_heads,
            heads_divide_hidden=self.heads_divide_hidden,
        )

    def resize(self, config: PreTrainedConfig, sizes: Sizes, keep: Keep | None = None) -> PreTrainedConfig:
        """Copy a config and give it new sizes.

        Lists with one entry per layer are cut to `keep["layer"]`, or to the first layers when it is absent.
        Scalars that do not name a size (granite's multipliers, gemma's `query_pre_attn_scalar`) are kept.

        Args:
            config: left as it is.
            sizes: axis -> new size; absent axes are kept whole.
            keep: axis -> kept indices; only `layer` matters here.

        Raises:
            FamilyError: sizes this family cannot have, or a per-layer list the table does not name.
        """
        old = self.axis_sizes(config)
        new = old | dict(sizes)
        self.check(new)
        check_change(config, old, new, trimmed=self.axes)
        layers = list(range(new["layer"])) if keep is None or "layer" not in keep else keep["layer"].tolist()
        if len(layers) != new["layer"]:
            raise FamilyError(
                f"{self.model_type}: keep['layer'] has {len(layers)} layers, the sizes say {new['layer']}.",
                "Give sizes and keep of the same shape.",
            )
        explicit = not self.hidden_is_heads or getattr(config, "head_dim", None) is not None
        resized = write_sizes(config, self.sizes, new, head_dim=explicit)
        if new["layer"] != old["layer"]:
            cut_layers(resized, layers, old["layer"], self.per_layer_fields)
        return resized

    def _rescale(self, pattern: str, tensor: Tensor, sizes: Sizes, keep: Keep) -> Tensor:
        """Undo the change of sqrt(hidden) where the model scales its embeddings by it.

        A tied head would grow with the embedding; the weight of the final norm takes that back.
        """
        if not self.scaled_embedding or "hidden" not in keep or len(keep["hidden"]) == sizes["hidden"]:
            return tensor
        factor = (sizes["hidden"] / len(keep["hidden"])) ** 0.5
        grown = {f"{self.embedding}.weight"} | ({f"{self.head}.weight"} if self.tied else set())
        if pattern in grown:
            return (tensor.float() * factor).to(tensor.dtype)
        if self.tied and pattern == f"{self.final_norm}.weight":
            return ((tensor.float() + self.norm_offset) / factor - self.norm_offset).to(tensor.dtype)
        return tensor

    def _matches(self, name: str) -> Iterator[Match | None]:
        for pattern, expr in self.tensors.items():
            yield patterns.match(pattern, expr, name)
            for written, line in self.saved.get(pattern, {}).items():
                yield patterns.match(written, line, name)

    @property
    def _file(self) -> str:
        return "moe.py" if "expert" in self.axes else "dense.py"
