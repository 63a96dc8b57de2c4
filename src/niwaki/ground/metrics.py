"""`metrics.jsonl`: one JSON object a line, cut back to the snapshot when a run resumes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from niwaki.ground import processes
from niwaki.ground.folder import writing_to
from niwaki.ground.run import write_atomically


class MetricsFile:
    """Appends records that carry a `step`; on opening, drops those after `upto_step`.

    Only the main process writes. Collective: every process opens it.
    """

    def __init__(self, path: Path, *, upto_step: int) -> None:
        self._path = path
        self._is_main = processes.is_main()
        kept = processes.by_main(lambda: self._cut_back(upto_step))
        self.last_held_out: dict[str, float] = {}
        for record in kept:
            if found := {
                k.removeprefix("held_out_"): v for k, v in record.items() if k.startswith("held_out_")
            }:
                self.last_held_out = found

    def _cut_back(self, upto_step: int) -> list[dict[str, Any]]:
        kept = [r for r in read_metrics(self._path) if upto_step > 0 and r["step"] <= upto_step]
        with writing_to(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, "".join(json.dumps(r) + "\n" for r in kept))
        return kept

    def write(self, record: dict[str, Any]) -> None:
        """Append one record."""
        if self._is_main:
            with writing_to(self._path), self._path.open("a") as file:
                file.write(json.dumps(record) + "\n")

    def flush(self) -> None:
        """Make what was written survive a power cut."""
        if self._is_main:
            with writing_to(self._path), self._path.open("a") as file:
                os.fsync(file.fileno())


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file; none where it is missing. A line cut off by a kill is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
