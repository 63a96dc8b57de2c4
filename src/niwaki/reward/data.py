"""Preference and rating sources -> records, split by prompt; what is not used is counted and named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from niwaki.errors import DataError
from niwaki.reward.forms import (
    PAIR_FORMS,
    RATING_FORMS,
    SCALES,
    Skipped,
    form_of,
    read_pair,
    read_ratings,
    scores_disagree,
    text_columns,
)
from niwaki.reward.records import Pair, Rating, read_rows, side_of

Record = TypeVar("Record", Pair, Rating)


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes:
        source: a local file or folder, or a hub name, with its `config`, `data_dir` and `split`.
        form: a name of `forms`, or "auto": told by the columns.
        name: what its rows are called in results; prefix of its objectives with `prefix`.
        scale: lowest and highest rating of every attribute, where the form does not say.
    """

    source: str
    config: str | None = None
    data_dir: str | None = None
    split: str = "train"
    form: str = "auto"
    name: str = ""
    prefix: str = ""
    max_rows: int | None = None
    scale: tuple[float, float] | None = None

    @property
    def place(self) -> dict[str, str | None]:
        """Where in the source its rows are, as `read_rows` takes it."""
        return {"config": self.config, "data_dir": self.data_dir, "split": self.split}

    @property
    def label(self) -> str:
        """What its rows are called in results."""
        return self.name or self.source.rstrip("/").split("/")[-1]


@dataclass
class Collected(Generic[Record]):
    """The records of all sources, the rows that are not used, and what looked wrong."""

    records: list[Record] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    scales: dict[str, tuple[float, float]] = field(default_factory=dict)

    def sides(self, *, test: float, validation: float) -> dict[str, list[Record]]:
        """Records of "train", "validation" and "test"; all rows of a prompt are on one side.

        Raises:
            DataError: one side is empty.
        """
        found: dict[str, list[Record]] = {"train": [], "validation": [], "test": []}
        for record in self.records:
            found[side_of(record.key, test=test, validation=validation)].append(record)
        for side, records in found.items():
            if not records:
                raise DataError(
                    f"Of {len(self.records)} rows none is on the {side} side of the split.",
                    "Give more prompts, or larger shares of `validation` and `test`.",
                )
        return found

    def summary(self) -> dict[str, Any]:
        """Counts by source, and why rows were not used."""
        return {
            "num_rows": len(self.records),
            "num_prompts": len({record.key for record in self.records}),
            "by_source": dict(Counter(record.source for record in self.records)),
            "skipped": dict(Counter(skipped.reason for skipped in self.skipped)),
            "warnings": self.warnings,
        }


def collect_pairs(sources: Sequence[Source], *, ties: str = "drop") -> Collected[Pair]:
    """Read preference sources; `ties` as in `forms.read_pair`. Rows with a `domain` are told apart by it.

    Raises:
        DataError: a row cannot be read, or most rows of a source contradict their own scores.
    """
    found: Collected[Pair] = Collected()
    for source in sources:
        before, first, contrary = len(found.records), "", 0
        for number, (name, row) in enumerate(read_rows(source.source, **source.place)):
            if source.max_rows is not None and number >= source.max_rows:
                break
            form = _form(source, row, name, PAIR_FORMS, "preference pairs")
            domain = row.get("domain")
            label = f"{source.label}, {domain}" if isinstance(domain, str) else source.label
            pair = read_pair(row, name, form, ties=ties, source=label)
            if isinstance(pair, Skipped):
                found.skipped.append(pair)
                continue
            if scores_disagree(row):
                contrary, first = contrary + 1, first or name
            found.records.append(pair)
        num_read = len(found.records) - before
        _check_scores(source, contrary, num_read, first, found.warnings)
        _check_read(source, num_read, found.skipped)
    return found


def collect_ratings(sources: Sequence[Source]) -> Collected[Rating]:
    """Read rating sources. Attributes are called `prefix` + column.

    Raises:
        DataError: a row cannot be read, a rating is outside of its scale, or an attribute has no rating.
    """
    found: Collected[Rating] = Collected()
    for source in sources:
        before = len(found.records)
        seen: dict[str, tuple[float, float]] = {}
        texts: dict[str, str] = {}
        for number, (name, row) in enumerate(read_rows(source.source, **source.place)):
            if source.max_rows is not None and number >= source.max_rows:
                break
            form = _form(source, row, name, RATING_FORMS, "ratings")
            known = SCALES.get(form, {})
            for column, text in text_columns(row).items():
                texts.setdefault(column, f"{name}: {column} is {text[:40]!r}")
            for rating in read_ratings(row, name, form, source=source.label):
                for attribute, value in rating.ratings.items():
                    low, high = source.scale or known.get(attribute) or (value, value)
                    if not low <= value <= high:
                        raise DataError(
                            f"{rating.row}: {attribute} is {value:g}, outside of {low:g} to {high:g}.",
                            "Mend the row, or give the right `scale` for the source.",
                        )
                    earlier = seen.get(attribute, (low, high))
                    seen[attribute] = (min(earlier[0], low), max(earlier[1], high))
                named = {source.prefix + a: v for a, v in rating.ratings.items()}
                found.records.append(Rating(rating.row, rating.prompt, rating.answer, named, source.label))
        _check_texts(texts, seen)
        if seen and source.scale is None and not known:
            ranges = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in seen.items())
            found.warnings.append(
                f"{source.label}: no `scale` is given, so a rating outside of it is not noticed; found are "
                f"{ranges}"
            )
        for attribute, (low, high) in seen.items():
            if low == high:
                raise DataError(
                    f"{source.source}: every rating of {attribute} is {low:g}, so there is nothing to learn.",
                    "Remove the column, or give more rows.",
                )
            found.scales[source.prefix + attribute] = (low, high)
        _check_read(source, len(found.records) - before, found.skipped)
    return found


def objectives_of(ratings: Iterable[Rating], wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """The attributes rated anywhere, in order of appearance, or `wanted` checked against them.

    Raises:
        DataError: names a wanted attribute without a single rating.
    """
    counts: Counter[str] = Counter()
    for rating in ratings:
        counts.update(rating.ratings.keys())
    for name in wanted:
        if not counts[name]:
            raise DataError(
                f"objective {name!r} has no labels.", f"Rated are: {', '.join(counts) or 'no attributes'}."
            )
    if not counts:
        raise DataError("No row has a rating.", "Check the columns of the rating sources.")
    return tuple(wanted) or tuple(counts)


def _form(source: Source, row: dict[str, Any], name: str, known: Sequence[str], what: str) -> str:
    form = form_of(row, name) if source.form == "auto" else source.form
    if form not in known:
        raise DataError(
            f"{name}: form {form!r}, expected {what} ({', '.join(known)}).",
            "Move the source to the other section, or name its form.",
        )
    return form


def check_against_ratings(pairs: Sequence[Pair], ratings: Sequence[Rating], attribute: str) -> None:
    """Compare pairs with the ratings of the very same answers, where there are any.

    Raises:
        DataError: of most such pairs the rejected answer is rated higher on `attribute`.
    """
    rated = {(r.key, r.answer): r.ratings[attribute] for r in ratings if attribute in r.ratings}
    contrary, first, num_both = 0, "", 0
    for pair in pairs:
        better, worse = rated.get((pair.key, pair.chosen)), rated.get((pair.key, pair.rejected))
        if better is None or worse is None or better == worse or pair.q == 0.5:
            continue
        num_both += 1
        if better < worse:
            contrary, first = contrary + 1, first or pair.row
    if 2 * contrary > num_both:
        raise DataError(
            f"In {contrary} of {num_both} pairs whose answers are rated too, first {first}, the rejected "
            f"answer has the higher {attribute}.",
            "The columns look swapped: exchange chosen and rejected, or remove these answers' ratings.",
        )


def _check_texts(texts: dict[str, str], seen: dict[str, tuple[float, float]]) -> None:
    for column, told in texts.items():
        if column in seen:
            raise DataError(
                f"{told}, and a number in other rows.", "Write a number, or null where there is none."
            )


def _check_scores(source: Source, contrary: int, num_read: int, first: str, warnings: list[str]) -> None:
    if not contrary:
        return
    if 2 * contrary > num_read:
        raise DataError(
            f"{source.source}: in {contrary} of {num_read} rows, first {first}, the rejected answer has the "
            "higher score.",
            "The columns look swapped: exchange chosen and rejected, or remove the score columns.",
        )
    warnings.append(
        f"{source.label}: in {contrary} of {num_read} rows, first {first}, the rejected answer has the "
        "higher score"
    )


def _check_read(source: Source, num_read: int, skipped: list[Skipped]) -> None:
    if not num_read:
        reasons = ", ".join(f"{n} {r}" for r, n in Counter(s.reason for s in skipped).items())
        raise DataError(f"{source.source}: no row is of use ({reasons or 'it is empty'}).", "Check the file.")
