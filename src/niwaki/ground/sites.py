"""Where to listen in a model: the modules that an axis table points at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_QUERIES = (
    "(kv group dim) hidden",
    "[(kv group dim) | (kv dim) | (kv dim)] hidden",
    "(kv 3 dim) hidden",
)


@dataclass(frozen=True)
class Sites:
    """Where to listen in a model of a family. Names holding `{layer}` are for `str.format(layer=i)`.

    Attributes:
        block: the decoder layer.
        ffn: the module whose input carries the ffn neurons (`[..., ffn]`); None where experts replace it.
        experts: the module that holds the fused experts of a layer; None where there are none.
        heads: the module whose input carries the attention heads (`[..., kv * group * dim]`).
        norms: the modules of a layer whose output is the hidden stream that feeds attention and MLP; in a
            family that has only norms after them (olmo2), those.
        input_norm: the norm that a layer puts on its input; None in such a family.
        mlp: the module that takes the input of MLP or experts.
        queries: the module that projects to the queries, alone or with keys and values.
        embedding, head, final_norm: modules outside the layers.
    """

    block: str
    ffn: str | None
    experts: str | None
    heads: str
    norms: tuple[str, ...]
    input_norm: str | None
    mlp: str
    queries: str | None
    embedding: str
    head: str
    final_norm: str


def find_sites(
    tensors: Mapping[str, str],
    layer_prefix: str,
    *,
    norms: tuple[str, ...],
    norms_after: bool,
    embedding: str,
    head: str,
    final_norm: str,
) -> Sites:
    """Find the sites of a family by its table.

    Args:
        tensors: name pattern -> axis expression.
        layer_prefix: the name pattern of a decoder layer.
        norms, norms_after, embedding, head, final_norm: as of `Family`.
    """

    def modules(*exprs: str) -> Iterator[str]:
        return (pattern.removesuffix(".weight") for pattern, expr in tensors.items() if expr in exprs)

    return Sites(
        block=layer_prefix,
        ffn=next(modules("hidden ffn"), None),
        experts=next((name.rpartition(".")[0] for name in modules("expert hidden effn")), None),
        heads=next(modules("hidden (kv group dim)", "hidden (kv dim)")),
        norms=tuple(f"{layer_prefix}.{name}" for name in norms),
        input_norm=None if norms_after else f"{layer_prefix}.{norms[0]}",
        mlp=next(modules("ffn hidden", "(2 ffn) hidden", "expert hidden")).rpartition(".")[0],
        queries=next(modules(*_QUERIES), None),
        embedding=embedding,
        head=head,
        final_norm=final_norm,
    )
