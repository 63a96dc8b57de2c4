"""Progress with time left: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 20.0


class Bar:
    """Counts units of work; `advance` after each."""

    def __init__(self, label: str, total: int, start: int, console: Console, bar: Progress | None) -> None:
        self._label = label
        self._total = total
        self._done = self._start = start
        self._console = console
        self._bar = bar
        self._task: TaskID | None = (
            bar.add_task(label, total=total, completed=start, note="") if bar else None
        )
        self._began = self._spoke = time.monotonic()

    def advance(self, note: str = "") -> None:
        """One more unit is done; `note` is shown beside it."""
        self._done += 1
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, note=note)
            return
        now = time.monotonic()
        if now - self._spoke >= _SECONDS_BETWEEN_LINES or self._done == self._total:
            self._spoke = now
            left = (now - self._began) / (self._done - self._start) * (self._total - self._done)
            minutes, seconds = divmod(round(left), 60)
            self._console.print(
                f"{self._label}: {self._done}/{self._total}, {minutes}:{seconds:02d} left  {note}",
                highlight=False,
            )


@contextmanager
def progress(label: str, *, total: int, start: int = 0, shown: bool = True) -> Iterator[Bar]:
    """Show progress on standard error while the body runs."""
    console = Console(stderr=True, quiet=not shown)
    if not console.is_terminal:
        yield Bar(label, total, start, console, None)
        return
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        yield Bar(label, total, start, console, bar)
