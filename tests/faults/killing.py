"""Kill work at one system call: every call that writes is a place where a process can end.

The work runs in a fork under strace, which first lists the calls that write, in order, and then ends the
process, by SIGKILL, as it enters the chosen one.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

CALLS = (
    "open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,rename,renameat,renameat2,fsync,fdatasync,"
    "sync_file_range,ftruncate,truncate,fallocate,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,symlink,symlinkat,"
    "chmod,fchmod,fchmodat,utimensat,copy_file_range,sendfile,mmap"
)
_WRITES = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC")
_LINE = re.compile(r"(\w+)\((.*)")


class Place(NamedTuple):
    """The `nth` (from 1) call of its `name`."""

    name: str
    nth: int


def _strace_works() -> bool:
    if shutil.which("strace") is None:
        return False
    done = subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True)
    return done.returncode == 0


needs_strace = pytest.mark.skipif(not _strace_works(), reason="needs strace, and leave to trace")


def places_of(work: Callable[[], object], log: Path) -> list[Place]:
    """The calls of `work` that write, in order."""
    ended = _run(work, ["-o", str(log), "-e", f"trace={CALLS}"])
    assert ended == 0, ended
    counts: Counter[str] = Counter()
    found = []
    for line in log.read_text(errors="replace").splitlines():
        if (match := _LINE.match(line)) is None:
            continue
        name, arguments = match.groups()
        counts[name] += 1
        reads = name.startswith("open") and not _WRITES.search(arguments)
        maps = name == "mmap" and "MAP_SHARED" not in arguments
        if not (reads or maps):
            found.append(Place(name, counts[name]))
    return found


def kill_at(place: Place, work: Callable[[], object]) -> None:
    """Run `work` until it enters that call."""
    inject = f"inject={place.name}:signal=KILL:when={place.nth}"
    ended = _run(work, ["-o", os.devnull, "-e", f"trace={place.name}", "-e", inject])
    assert ended == -signal.SIGKILL, (place, ended)


def _run(work: Callable[[], object], options: list[str]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            os.kill(os.getpid(), signal.SIGSTOP)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.waitpid(child, os.WUNTRACED)
    tracer = subprocess.Popen(["strace", "-qq", *options, "-p", str(child)], stderr=subprocess.DEVNULL)
    while "TracerPid:\t0" in Path(f"/proc/{child}/status").read_text() and tracer.poll() is None:
        time.sleep(0.001)
    os.kill(child, signal.SIGCONT)
    _, status = os.waitpid(child, 0)
    tracer.wait()
    return os.waitstatus_to_exitcode(status)
