"""Trainings that have ended: their snapshots, six times the model's bytes, are of no use any more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from niwaki.ground import processes
from niwaki.ground.folder import discard


def once(train: Callable[[Path], None]) -> Callable[[Path], None]:
    """The work of a stage: `train` in its folder, which goes on from snapshots and saves `model/` there.

    The snapshots go when the model is there; a model without snapshots is not trained again.
    """

    def work(folder: Path) -> None:
        if not _has_ended(folder):
            train(folder)
        discard_snapshots(folder)

    return work


@processes.main_only
def discard_snapshots(folder: Path) -> None:
    """Remove the snapshots of a training that has ended, and what a kill left of them."""
    discard(folder / "checkpoints")


@processes.main_only
def _has_ended(folder: Path) -> bool:
    return (folder / "model").exists() and not (folder / "checkpoints").exists()
