"""How many rows of each set a mixture has, and the mixture: exact shares, seeded, repetitions counted.

arXiv 2504.13941, section 2.7: two groups of sets share the mixture 66 : 34, and inside a group each set has a
share proportional to its size. Shares become whole rows by largest remainder. A set that is too small is
repeated, up to a limit; nothing is repeated unsaid.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from niwaki.errors import DataError
from niwaki.ground.run import write_atomically

RECORD = "blend.json"


@dataclass(frozen=True)
class Part:
    """One set in a mixture: rows it has, rows drawn, its share asked for and realised, and repetitions."""

    name: str
    size: int
    rows: int
    share: float
    realised: float
    repetitions: float


def shares(sizes: Mapping[str, int], groups: Sequence[tuple[float, Sequence[str]]]) -> dict[str, Fraction]:
    """The share of each set: its group's share, divided in proportion to the sizes of the group's sets.

    Raises:
        DataError: a set in two groups, an unknown or empty set, or group shares that do not sum to 1.
    """
    found: dict[str, Fraction] = {}
    parts = [Fraction(str(share)) for share, _ in groups]
    if sum(parts) != 1 or min(parts) <= 0:
        raise DataError(
            f"the shares of the groups are {', '.join(f'{float(part):g}' for part in parts)}; "
            f"they sum to {float(sum(parts)):g}.",
            "Give positive shares that sum to 100%.",
        )
    for part, (_, names) in zip(parts, groups, strict=True):
        for name in names:
            if name in found:
                raise DataError(f"set {name!r} is in two groups.", "Leave it in one.")
            if sizes.get(name, 0) <= 0:
                known = ", ".join(f"{one} ({size})" for one, size in sizes.items())
                raise DataError(f"set {name!r} has no rows.", f"Sets that have: {known or 'none'}.")
        total = sum(sizes[name] for name in names)
        found |= {name: part * sizes[name] / total for name in names}
    return found


def largest_remainder(num_rows: int, of_shares: Mapping[str, Fraction]) -> dict[str, int]:
    """Whole rows that sum to `num_rows`: rounded down, what is left to the largest remainders."""
    exact = {name: share * num_rows for name, share in of_shares.items()}
    rows = {name: int(value) for name, value in exact.items()}
    left = num_rows - sum(rows.values())
    for name in sorted(exact, key=lambda one: rows[one] - exact[one])[:left]:
        rows[name] += 1
    return rows


def largest_without_repeating(sizes: Mapping[str, int], of_shares: Mapping[str, Fraction]) -> int:
    """The largest mixture in which no set's exact share is more than the rows it has."""
    return int(min(sizes[name] / share for name, share in of_shares.items()))


def plan(
    sizes: Mapping[str, int],
    of_shares: Mapping[str, Fraction],
    *,
    num_rows: int | None = None,
    most_repetitions: float = 1.0,
) -> list[Part]:
    """Rows of each set in a mixture of `num_rows`; None for the largest that repeats nothing.

    Raises:
        DataError: a set would be repeated more than `most_repetitions` times.
    """
    largest = largest_without_repeating(sizes, of_shares)
    if num_rows is None:
        num_rows = largest
    rows = largest_remainder(num_rows, of_shares)
    for name, count in rows.items():
        if count > most_repetitions * sizes[name]:
            raise DataError(
                f"a mixture of {num_rows:,} rows takes {count:,} of set {name!r}, which has {sizes[name]:,}: "
                f"{count / sizes[name]:.2f} times each; the limit is {most_repetitions:g}.",
                f"Ask for at most {largest:,} rows, or raise most_repetitions.",
            )
    return [
        Part(name, sizes[name], rows[name], float(share), rows[name] / num_rows if num_rows else 0.0,
             rows[name] / sizes[name])
        for name, share in of_shares.items()
    ]  # fmt: skip


def draw(file: Path, parts: Sequence[Part], out: Path, *, seed: int) -> dict[str, Any]:
    """Write the mixture `out` from the questions of `file`, shuffled; return its record, also `blend.json`.

    A set that is taken several times is taken whole before any of its rows comes again. Memory: 8 bytes a
    row. The same file, parts and seed give the same mixture.

    Raises:
        DataError: the file has fewer rows of a set than the plan says.
    """
    places = _places(file, {part.name for part in parts})
    rng = np.random.default_rng(seed)
    chosen = []
    for part in parts:
        have = places[part.name]
        if len(have) != part.size:
            raise DataError(
                f"{file}: has {len(have)} rows of set {part.name!r}; the plan was made for {part.size}.",
                "Plan anew.",
            )
        whole, rest = divmod(part.rows, part.size)
        chosen.append(np.concatenate([*[have] * whole, rng.permutation(have)[:rest]]))
    order = rng.permutation(np.concatenate(chosen))
    partial = out.with_name(f".{out.name}.partial")
    with file.open("rb") as source, partial.open("wb") as target:
        for place in order:
            source.seek(place)
            target.write(source.readline())
    partial.replace(out)
    record = {"seed": seed, "rows": len(order), "parts": [asdict(part) for part in parts]}
    write_atomically(out.with_name(RECORD), json.dumps(record, indent=1))
    return record


def sizes_of(file: Path) -> dict[str, int]:
    """Rows of each source in a file of questions."""
    return {name: len(places) for name, places in _places(file, None).items()}


def _places(file: Path, names: set[str] | None) -> dict[str, np.ndarray]:
    found: dict[str, list[int]] = {name: [] for name in names or ()}
    for place, line in _lines(file):
        source = json.loads(line)["source"]
        if names is None or source in names:
            found.setdefault(source, []).append(place)
    return {name: np.array(places, np.int64) for name, places in found.items()}


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    place = 0
    with file.open("rb") as lines:
        for line in lines:
            yield place, line
            place += len(line)
