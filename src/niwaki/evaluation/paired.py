"""One number for each unit that was measured (a row of text, a question), kept so that runs can be compared.

In: what evaluations measured of several models. Out: `paired.json`, and from two of these the difference of
two models on the same units, with its interval. Units are the same when their hash is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from niwaki.errors import EvaluationError
from niwaki.ground.run import write_atomically
from niwaki.ground.stats import Interval, bootstrap_mean, paired_difference
from niwaki.ground.stream import Rows

PAIRED = "paired.json"


@dataclass(frozen=True)
class Measure:
    """A measure of several models on the same units.

    `values` maps a model to one number a unit, in the order of the units; with `counts`, these are sums over
    so many items (tokens of a row), and the mean is over items. `units_hash` says which units.
    """

    unit: str
    higher_is_better: bool
    units_hash: str
    values: Mapping[str, list[float]]
    counts: list[int] | None = None

    def mean(self, model: str, *, confidence: float = 0.95) -> Interval:
        """The mean of a model with its interval over units."""
        return bootstrap_mean(self.values[model], counts=self.counts, confidence=confidence)


@dataclass(frozen=True)
class Paired:
    """What a run measured unit by unit: of `product`, the model it made, of its `baseline`, and of others."""

    product: str
    baseline: str
    measures: Mapping[str, Measure]


def difference(
    measure: Measure, model: str, base: Measure, base_model: str, *, confidence: float = 0.95
) -> Interval:
    """Mean of `model` minus `base_model` over the same units (`ground.stats.paired_difference`).

    Raises:
        EvaluationError: the two were measured on other units.
    """
    if measure.units_hash != base.units_hash or measure.counts != base.counts:
        raise EvaluationError(
            "The two were measured on other rows or questions, so their numbers are no pairs.",
            "Give both recipes the same data, row length, tokenizer and `evaluate` section.",
        )
    return paired_difference(
        measure.values[model], base.values[base_model], counts=base.counts, confidence=confidence
    )


def rows_hash(rows: Rows, num_rows: int) -> str:
    """A hash of the tokens of the first `num_rows` rows in the order of the text, and of their length."""
    digest = hashlib.sha256(f"{rows.sequence_length} {num_rows} ".encode())
    ids = rows.tokens[: num_rows * rows.sequence_length + 1]
    digest.update(np.asarray(ids).astype("<u4").tobytes())
    return digest.hexdigest()[:16]


def save_paired(path: Path, paired: Paired) -> None:
    """Write `paired` as JSON, one line for each model of a measure."""
    head = {"product": paired.product, "baseline": paired.baseline}
    lines = []
    for name, measure in paired.measures.items():
        content = {key: value for key, value in asdict(measure).items() if key != "values"}
        values = ",\n   ".join(f"{json.dumps(m)}: {json.dumps(list(v))}" for m, v in measure.values.items())
        lines.append(f' {json.dumps(name)}: {json.dumps(content)[:-1]}, "values": {{\n   {values}\n  }}}}')
    write_atomically(path, json.dumps(head)[:-1] + ', "measures": {\n' + ",\n".join(lines) + "\n}}\n")


def load_paired(path: Path) -> Paired:
    """Read what `save_paired` wrote. Raises EvaluationError where it is damaged."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        measures = {name: Measure(**content) for name, content in raw["measures"].items()}
        for measure in measures.values():
            lengths = {len(column) for column in measure.values.values()}
            lengths |= set() if measure.counts is None else {len(measure.counts)}
            if len(lengths) != 1:
                raise ValueError("columns of different lengths")
        return Paired(product=raw["product"], baseline=raw["baseline"], measures=measures)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(
            f"{path} cannot be read: {error!r}.", "Move it away with its folder, and evaluate the run again."
        ) from error
