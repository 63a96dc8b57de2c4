"""`choose.limits` of a recipe as functions of a shape."""

from __future__ import annotations

from collections.abc import Callable

from niwaki.pipelines.serving import ServingCost
from niwaki.pipelines.spoken import in_bytes, in_milliseconds
from niwaki.pruning.limits import Limit, Sizes
from niwaki.recipe.pruning import Choose


def limits_of(
    choose: Choose,
    teacher: Sizes,
    cost: Callable[[Sizes], ServingCost],
    measure_latency_s: Callable[[Sizes], float] | None,
) -> list[Limit]:
    """What the recipe limits, the costly one last; percentages are of the `teacher`, axis -> size.

    Args:
        cost: what a shape costs in service; its latency where it is modelled.
        measure_latency_s: times a shape here, for `device: here`; None leaves that limit out.
    """

    def modelled_latency_s(sizes: Sizes) -> float:
        latency_s = cost(sizes).latency_s
        assert latency_s is not None, "the recipe has a device wherever it limits the latency"
        return latency_s

    asked = choose.limits
    latency_s = measure_latency_s if choose.device == "here" else modelled_latency_s
    limits = []
    for name, ceiling, measure, words in (
        ("weights", asked.weights, lambda sizes: float(cost(sizes).weights_bytes), in_bytes),
        ("kv_cache", asked.kv_cache, lambda sizes: float(cost(sizes).kv_cache_bytes), in_bytes),
        ("latency", asked.latency, latency_s, in_milliseconds),
    ):
        if ceiling is None or measure is None:
            continue
        most = ceiling.amount if ceiling.amount is not None else (ceiling.share or 0) * measure(teacher)
        limits.append(Limit(name, most, measure, words))
    return limits
