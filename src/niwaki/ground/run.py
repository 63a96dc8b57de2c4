"""A run directory: stages with DONE marks, so that a killed command goes on where it stopped.

A stage is a function from a directory to a directory. It is skipped when its DONE mark carries the hash
of the same inputs, resumed when it was begun with them, and refused when other inputs made it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from niwaki.errors import RunError
from niwaki.ground import processes
from niwaki.ground.folder import flush, writing_to

DONE = "DONE"
BEGUN = "BEGUN"


def input_hash(inputs: Mapping[str, Any]) -> str:
    """A hash of JSON-able inputs, the same in every process."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()[:16]


def stage(
    run: Path,
    name: str,
    inputs: Mapping[str, Any],
    work: Callable[[Path], None],
    *,
    together: bool = False,
) -> Path:
    """Do `work(run / name)` unless it is already done with the same inputs; return the stage's folder.

    `work` may be called again on a folder that a killed process left half done: it must resume or redo.
    Several processes call `stage` at once; the main one does the work, or with `together` all of them do.

    Raises:
        RunError: the folder was made with other inputs, or holds something that no stage made.
    """
    folder = run / name
    if _begin(run, name, inputs):
        processes.check_shared(folder / BEGUN)
        if together:
            work(folder)
        else:
            processes.by_main(lambda: work(folder))
        _end(folder)
    return folder


@processes.main_only
def _begin(run: Path, name: str, inputs: Mapping[str, Any]) -> bool:
    """Mark a stage as begun; False where it has been done."""
    check_inputs(run, name, inputs)
    folder = run / name
    if is_done(run, name):
        return False
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    mark_text = json.dumps({"inputs": input_hash(inputs), "values": dict(inputs)}, default=str, indent=1)
    write_atomically(folder / BEGUN, mark_text)
    return True


@processes.main_only
def _end(folder: Path) -> None:
    with writing_to(folder / DONE):
        (folder / BEGUN).replace(folder / DONE)
        flush(folder)


def check_inputs(run: Path, name: str, inputs: Mapping[str, Any]) -> None:
    """Check that a stage's folder is free, or was made with these inputs.

    Raises:
        RunError: it was made with others, or holds something that no stage made.
    """
    folder = run / name
    mark = _mark(folder)
    if mark is None and folder.exists() and {p.name for p in folder.iterdir()} - {f".{BEGUN}.partial"}:
        raise RunError(f"{folder}: holds files that no stage made.", "Give another `out`, or move them away.")
    if mark is not None and mark["inputs"] != input_hash(inputs):
        now = json.loads(json.dumps(dict(inputs), default=str))
        changed = [key for key, value in now.items() if mark["values"].get(key) != value]
        raise RunError(
            f"{folder}: made with other inputs (changed: {', '.join(changed)}).",
            "Give another `out`, or move this folder and the later stages away to make them anew.",
        )


def is_done(run: Path, name: str) -> bool:
    """Whether a stage of the run has finished."""
    return (run / name / DONE).exists()


def write_atomically(path: Path, text: str) -> None:
    """Write a small text file so that a reader sees the old content or the new, never a part.

    Raises:
        RunError: the disk refuses; the old content is still there.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing_to(path), partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    with writing_to(path):
        partial.replace(path)


def _mark(folder: Path) -> dict[str, Any] | None:
    for name in (DONE, BEGUN):
        if (folder / name).exists():
            mark: dict[str, Any] = json.loads((folder / name).read_text())
            return mark
    return None
