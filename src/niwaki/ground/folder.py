"""A new folder that appears under its name whole, or not at all; and what to say when a disk refuses.

Everything is written into `.NAME.partial` beside the final place, flushed to the disk and renamed. A process
that is killed leaves at most that partial folder, which the next run of the same command removes.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from niwaki.errors import CheckpointError, RunError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSALS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EROFS: "the disk can only be read",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.EFBIG: "files may not be so large here (`ulimit -f`)",
    errno.EIO: "the disk fails",
}


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Say what to do about a disk that refuses what the block writes at `path`.

    Raises:
        RunError: names the path, what the system said, and the remedy.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error_number(error)
        if number not in _REFUSALS:
            raise
        remedy = "Free some space" if number in _FULL else "Name another place, or make this one writable"
        raise RunError(
            f"{path}: cannot be written: {_REFUSALS[number]}.",
            f"{remedy}, and give the same command again: it goes on from what is whole.",
        ) from error


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield where to write a file; when the block ends well it becomes `path`, flushed to the disk.

    It lies in a folder of its own until then, because some libraries leave files of theirs beside it when
    they are killed; the next call for the same `path` removes that folder.

    Raises:
        RunError: the disk refuses.
    """
    aside = path.with_name(f".{path.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with writing_to(path):
            aside.mkdir(parents=True)
            yield aside / path.name
            flush(aside / path.name)
            (aside / path.name).replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def error_number(error: OSError | SafetensorError) -> int:
    """The system's number of an error, 0 where there is none; safetensors wraps it: "... (os error 28)"."""
    if isinstance(error, OSError):
        return error.errno or 0
    code = str(error).rpartition("(os error ")[2].partition(")")[0]
    return int(code) if code.isdigit() else 0


def discard(path: Path) -> None:
    """Remove a folder, if it is there, so that under its name it is whole or gone at any moment.

    What an earlier call left behind when it was killed goes too.
    """
    aside = path.with_name(f".{path.name}.discarded")
    shutil.rmtree(aside, ignore_errors=True)
    if path.exists():
        path.rename(aside)
        shutil.rmtree(aside)


@contextmanager
def new_folder(out: Path, *, needed_bytes: int, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends well it becomes `out`, otherwise it is removed.

    `needed_bytes` is what the block will write, checked against the free space before it starts. With
    `replace`, an existing `out` is kept until the new one is complete, and then removed.

    Raises:
        CheckpointError: `out` holds something already (and `replace` was not asked for), or the disk has too
            little room, now or later. Whatever was at `out` is still there, whole.
        RunError: the disk refuses for another reason.
    """
    out = Path(out)
    partial, previous = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.previous")
    if previous.exists() and not out.exists():
        previous.rename(out)  # a kill between the two renames below
    check_free(out, replace=replace)
    shutil.rmtree(partial, ignore_errors=True)
    with writing_to(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(out.parent).free
    if free_bytes < needed_bytes:
        raise _disk_full(out, needed_bytes, free_bytes)
    with writing_to(out):
        partial.mkdir()
    try:
        yield partial
        for path in [*partial.rglob("*"), partial]:
            flush(path)
        if out.exists() and any(out.iterdir()):
            shutil.rmtree(previous, ignore_errors=True)
            out.rename(previous)
        partial.rename(out)
    except OSError as error:
        free_bytes = shutil.disk_usage(out.parent).free
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno in _FULL:
            raise _disk_full(out, needed_bytes, free_bytes) from error
        with writing_to(out):
            raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    flush(out.parent)
    shutil.rmtree(previous, ignore_errors=True)


def check_free(out: Path, *, replace: bool = False) -> None:
    """Refuse an `out` that is a file, or (unless `replace`) a folder that holds something."""
    if out.exists() and not out.is_dir():
        raise CheckpointError(
            f"{out}: is a file, expected a folder or nothing.", "Name another output folder."
        )
    if out.is_dir() and any(out.iterdir()) and not replace:
        found = ", ".join(sorted(path.name for path in out.iterdir())[:3])
        raise CheckpointError(
            f"{out}: the output folder already holds something else ({found}), expected it empty or absent.",
            "Name another output folder, or move this one away.",
        )


def flush(path: Path) -> None:
    """Wait until a file, or the list of files of a folder, is on the disk and not only in its cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_full(out: Path, needed_bytes: int, free_bytes: int) -> CheckpointError:
    return CheckpointError(
        f"{out}: the disk is full: {needed_bytes:,} bytes are needed, {free_bytes:,} are free.",
        "Free some space or name an output folder on another disk; nothing that was there has been lost.",
    )
