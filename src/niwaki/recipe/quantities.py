"""Quantities that read like speech: `2B` tokens, `4k` rows, `5%`, `8GB`, `1e-4`.

In goes what YAML or a command line gives (text or a number); out come plain `int` and `float`. Every quantity
is written back in the same speech, and read again to the same value.
Multiples are decimal (`4k` is 4000, `8GB` is 8e9 bytes); `KiB`, `MiB` and `GiB` are the binary ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Literal

from pydantic import BeforeValidator, PlainSerializer

COUNT_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
BYTE_SUFFIXES = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_TIME_SUFFIXES = {"s": Decimal(1), "ms": Decimal("1e-3"), "us": Decimal("1e-6")}
_QUANTITY = re.compile(r"([+-]?[0-9][0-9_]*(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z%]*)")


def parse_count(value: object) -> int:
    """Read a number of things: `2B`, `1.5M`, `4k`, `2e9` or a plain whole number.

    Raises ValueError, which names the nearest legal form, for anything else.
    """
    number, suffix = split(value, "a count such as 4096, 4k, 100M or 2B")
    if suffix not in COUNT_SUFFIXES:
        raise ValueError(f"{value!r} is not a count. {_nearest_count(number, suffix)}")
    count = number * COUNT_SUFFIXES[suffix]
    if count != count.to_integral_value() or count < 0:
        raise ValueError(f"{value!r} is not a whole number of things, zero or more.")
    return int(count)


def parse_fraction(value: object) -> float:
    """Read a part of a whole, from 0 to 1: `5%` or 0.05."""
    number, suffix = split(value, "a fraction such as 5% or 0.05")
    if suffix not in ("", "%"):
        raise ValueError(f"{value!r} is not a fraction. Write a percentage, such as '5%'.")
    fraction = number / 100 if suffix == "%" else number
    if not 0 <= fraction <= 1:
        nearest = f"Did you mean '{number.normalize():f}%'?" if 1 < number <= 100 else "Write 0% to 100%."
        raise ValueError(f"{value!r} is not a fraction of a whole. {nearest}")
    return float(fraction)


def parse_number(value: object) -> float:
    """Read a plain number: `1e-4`, which YAML takes for text, or 0.0001."""
    number, suffix = split(value, "a number such as 1e-4 or 0.1")
    if suffix:
        raise ValueError(f"{value!r} has a unit, but a plain number is wanted here, such as 1e-4 or 0.1.")
    return float(number)


def parse_count_or_share(value: object) -> int | float:
    """Read a count (`40`, an int) or a share of something else (`5%`, a float)."""
    if isinstance(value, float) and not isinstance(value, bool):
        return parse_fraction(value)
    if isinstance(value, str) and ("%" in value or "." in value):
        return parse_fraction(value)
    return parse_count(value)


def parse_grid_value(value: object) -> int | float:
    """Read a size of an axis (`3072`, `4k`) or a ratio (`2.5`)."""
    number, suffix = split(value, "a size such as 3072, or a ratio such as 2.5")
    return float(number) if not suffix and number != number.to_integral_value() else parse_count(value)


def parse_layer(value: object) -> int:
    """Read a layer: its number from 0, or from the end `last`, `last-2` or a number below zero (-3)."""
    if isinstance(value, str) and value.strip() == "last":
        return -1
    if isinstance(value, str) and value.strip().startswith("last-"):
        return -1 - parse_count(value.strip().removeprefix("last-"))
    if value is None:
        raise ValueError("a layer is missing. A pair has a space behind its colon, as in {29: 13}.")
    number, suffix = split(value, "a layer such as 12, last or last-2")
    if suffix or number != number.to_integral_value():
        raise ValueError(f"{value!r} is not a layer. Write its number from 0, or last, last-1, last-2.")
    return int(number)


def format_layer(layer: int) -> int | str:
    """Write a layer so that `parse_layer` reads it back: -3 is 'last-2', 12 stays 12."""
    return layer if layer >= 0 else "last" if layer == -1 else f"last-{-1 - layer}"


def parse_alpha(value: object) -> float | str:
    """Read a weight: `dynamic`, or a plain number such as 0.5."""
    if value == "dynamic":
        return "dynamic"
    try:
        return parse_number(value)
    except ValueError:
        raise ValueError(f"{value!r} is neither dynamic nor a number such as 0.5.") from None


def format_count(count: int) -> str | int:
    """Write a count so that `parse_count` reads it back: 2000000000 is '2B', 4096 stays 4096."""
    for suffix in ("T", "B", "M", "k"):
        multiple = COUNT_SUFFIXES[suffix]
        if count >= multiple and count * 10 % multiple == 0:
            return f"{(Decimal(count) / multiple).normalize():f}{suffix}"
    return count


def format_fraction(fraction: float) -> str:
    """Write a fraction so that `parse_fraction` reads it back: 0.05 is '5%'."""
    return f"{(Decimal(repr(fraction)) * 100).normalize():f}%"


def format_count_or_share(value: int | float) -> int | str:
    """Write a count or a share so that `parse_count_or_share` reads it back."""
    return format_count(value) if isinstance(value, int) else format_fraction(value)


@dataclass(frozen=True)
class Ceiling:
    """The most that something may be: a `share` of the teacher's, or an absolute `amount`."""

    share: float | None = None
    amount: float | None = None


def parse_bytes_ceiling(value: object) -> Ceiling:
    """Read the most bytes there may be: `50%` of the teacher's, or `200MB`."""
    return _parse_ceiling(value, BYTE_SUFFIXES, "50% of the teacher's, or 200MB")


def parse_time_ceiling(value: object) -> Ceiling:
    """Read the most time that something may take: `60%` of the teacher's, or `40ms`, `1.5s`."""
    return _parse_ceiling(value, _TIME_SUFFIXES, "60% of the teacher's, or 40ms, 1.5s")


def format_bytes_ceiling(ceiling: Ceiling) -> str:
    """Write a ceiling so that `parse_bytes_ceiling` reads it back."""
    return _format_ceiling(ceiling, {suffix: BYTE_SUFFIXES[suffix] for suffix in ("GB", "MB", "kB", "B")})


def format_time_ceiling(ceiling: Ceiling) -> str:
    """Write a ceiling so that `parse_time_ceiling` reads it back."""
    return _format_ceiling(ceiling, _TIME_SUFFIXES)


def _parse_ceiling(value: object, units: Mapping[str, Decimal | int], wanted: str) -> Ceiling:
    if isinstance(value, Ceiling):
        return value
    number, suffix = split(value, wanted)
    if suffix == "%":
        if not 0 < number <= 100:
            raise ValueError(f"{value!r} is not a part of the teacher's. Write more than 0%, at most 100%.")
        return Ceiling(share=float(number / 100))
    if suffix not in units:
        known = {unit.lower(): unit for unit in units}.get(suffix.lower())
        meant = f"Did you mean '{number}{known}'?" if known and suffix else f"Write {wanted}."
        raise ValueError(f"{value!r} has no unit that fits here. {meant}")
    if number <= 0:
        raise ValueError(f"{value!r} leaves nothing. Write {wanted}.")
    return Ceiling(amount=float(number * units[suffix]))


def _format_ceiling(ceiling: Ceiling, units: Mapping[str, Decimal | int]) -> str:
    if ceiling.amount is None:
        return format_fraction(ceiling.share or 0.0)
    amount = Decimal(repr(ceiling.amount))
    unit = next((unit for unit, size in units.items() if amount >= size), list(units)[-1])
    return f"{(amount / units[unit]).normalize():f}{unit}"


def split(value: object, wanted: str) -> tuple[Decimal, str]:
    """Split text or a number into an exact decimal and its suffix.

    Raises ValueError, which says what is `wanted`, for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is not {wanted}.")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value!r} is not finite; write {wanted}.")
    match = _QUANTITY.fullmatch(str(value).strip())
    if match is None:
        raise ValueError(f"{value!r} is not {wanted}.")
    try:
        number = Decimal(match[1].replace("_", ""))
        if abs(number.adjusted()) > 400:
            raise InvalidOperation
    except InvalidOperation:
        raise ValueError(f"{value!r} is out of range; write {wanted}.") from None
    return number, match[2]


def _nearest_count(number: Decimal, suffix: str) -> str:
    if suffix == "%":
        return "A percentage has no place here; write a number of things, such as 100M."
    for known in ("k", "M", "B", "T"):
        if suffix.lower() == known.lower():
            return f"Did you mean '{number}{known}'?"
        if suffix.lower() in (f"{known}b".lower(), f"{known}ib".lower()):
            return f"'{suffix}' counts bytes. Did you mean '{number}{known}'?"
    return "Write 4k for thousands, 100M for millions, 2B for billions."


Count = Annotated[int, BeforeValidator(parse_count), PlainSerializer(format_count)]
Fraction = Annotated[float, BeforeValidator(parse_fraction), PlainSerializer(format_fraction)]
Number = Annotated[float, BeforeValidator(parse_number)]
CountOrShare = Annotated[
    int | float, BeforeValidator(parse_count_or_share), PlainSerializer(format_count_or_share)
]
Layer = Annotated[int, BeforeValidator(parse_layer), PlainSerializer(format_layer)]
Alpha = Annotated[float | Literal["dynamic"], BeforeValidator(parse_alpha)]
GridValue = Annotated[int | float, BeforeValidator(parse_grid_value)]
BytesCeiling = Annotated[Ceiling, BeforeValidator(parse_bytes_ceiling), PlainSerializer(format_bytes_ceiling)]
TimeCeiling = Annotated[Ceiling, BeforeValidator(parse_time_ceiling), PlainSerializer(format_time_ceiling)]
