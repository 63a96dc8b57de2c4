"""The size that a model should have: `50%` of the teacher, `4B` (parameters), `8GB`, or an interval."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from niwaki.recipe.quantities import (
    BYTE_SUFFIXES,
    COUNT_SUFFIXES,
    format_count,
    format_fraction,
    parse_count,
    parse_fraction,
    split,
)

_SMALLEST_MODEL_PARAMETERS = 1000


@dataclass(frozen=True)
class Size:
    """The size a model should have; exactly one of the four forms is set.

    `fraction` of the teacher's parameters, `num_parameters`, `num_bytes` of saved weights, or the inclusive
    `interval` (low, high) of parameters, as the paper's search used [7.8e9, 8.5e9] (minitron 5.2).
    """

    fraction: float | None = None
    num_parameters: int | None = None
    num_bytes: int | None = None
    interval: tuple[int, int] | None = None

    def __str__(self) -> str:
        """Write the size in speech: '50%', '4B parameters', '8000000000 bytes'."""
        if self.interval is not None:
            return f"{format_count(self.interval[0])} to {format_count(self.interval[1])} parameters"
        if self.num_parameters is not None:
            return f"{format_count(self.num_parameters)} parameters"
        return str(format_size(self))


def parse_size(value: object) -> Size:
    """Read the size of a model: `50%`, `4B`, `8GB` or `{low: 7.8B, high: 8.5B}`."""
    if isinstance(value, Size):
        return value
    if isinstance(value, dict):
        return _parse_interval(value)
    number, suffix = split(value, "a size such as 50%, 4B (parameters), 8GB or {low: 7.8B, high: 8.5B}")
    if suffix == "%" or (not suffix and 0 < number < 1):
        fraction = parse_fraction(value)
        if not 0 < fraction < 1:
            raise ValueError(f"{value!r} leaves nothing to do. Write a part of the teacher, such as '50%'.")
        return Size(fraction=fraction)
    if suffix != "B" and suffix in BYTE_SUFFIXES:
        return Size(num_bytes=_whole_bytes(value, number, suffix))
    if suffix not in COUNT_SUFFIXES:
        known = {s.lower(): s for s in (*BYTE_SUFFIXES, *COUNT_SUFFIXES)}.get(suffix.lower())
        meant = f"Did you mean '{number}{known}'?" if known else "Write 50%, 4B (parameters) or 8GB."
        raise ValueError(f"{value!r} is not a size. {meant}")
    num_parameters = parse_count(value)
    if num_parameters < _SMALLEST_MODEL_PARAMETERS:
        meant = f"Did you mean '{num_parameters}%', '{num_parameters}M' or '{num_parameters}B'?"
        raise ValueError(f"{value!r} would be a model of {num_parameters} parameters. {meant}")
    return Size(num_parameters=num_parameters)


def format_size(size: Size) -> str | int | dict[str, str | int]:
    """Write a size so that `parse_size` reads it back."""
    if size.interval is not None:
        return {"low": format_count(size.interval[0]), "high": format_count(size.interval[1])}
    if size.fraction is not None:
        return format_fraction(size.fraction)
    if size.num_bytes is not None:
        for suffix in ("TB", "GB", "MB"):
            written = format((Decimal(size.num_bytes) / BYTE_SUFFIXES[suffix]).normalize(), "f")
            if size.num_bytes >= BYTE_SUFFIXES[suffix]:
                return written + suffix
        return format((Decimal(size.num_bytes) / 1000).normalize(), "f") + "kB"
    assert size.num_parameters is not None
    return format_count(size.num_parameters)


def _parse_interval(value: dict[Any, Any]) -> Size:
    if set(value) != {"low", "high"}:
        raise ValueError(f"an interval has exactly the keys low and high, not {sorted(map(str, value))}.")
    low, high = parse_count(value["low"]), parse_count(value["high"])
    if not 0 < low <= high:
        raise ValueError(f"the interval low: {value['low']}, high: {value['high']} is empty.")
    return Size(interval=(low, high))


def _whole_bytes(value: object, number: Decimal, suffix: str) -> int:
    num_bytes = number * BYTE_SUFFIXES[suffix]
    if num_bytes != num_bytes.to_integral_value() or num_bytes <= 0:
        raise ValueError(f"{value!r} is not a whole number of bytes above zero.")
    return int(num_bytes)


ModelSize = Annotated[Size, BeforeValidator(parse_size), PlainSerializer(format_size)]
