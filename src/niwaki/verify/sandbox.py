"""Questions answered in processes that can be killed, from any thread and from any process.

A `Sandbox` owns one nursery process (nursery.py), which loads a program once and forks a child for every
question. A child that takes too long is killed, one that needs too much memory dies, and the next question
gets a fresh fork at once. A nursery that dies or no longer answers is replaced. Nothing relies on signals,
timers or threads in this process, and nothing is pickled. Linux and macOS.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_START_LIMIT_S = 60.0
_LONGEST_REPLY_BYTES = 1 << 16
_LONGEST_SILENCE_S = 5.0


@dataclass(frozen=True)
class Reply:
    """The value that a program returned, or the problem: "timeout" or "died"."""

    value: Any = None
    problem: str | None = None


class Sandbox:
    """Runs `answer(question)` of the Python file `program`, once prepared, in forks that can be killed."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._silent_since = math.inf  # first of the questions in a row that nothing at all came back for
        self._has_started = False
        self._is_ready = False
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._slots = threading.BoundedSemaphore(2 * (os.cpu_count() or 1))
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.close)

    def start(self) -> None:
        """Have a nursery that is ready for questions; waits for it when it must be started."""
        self._ready_control(_START_LIMIT_S)

    def ask(self, question: dict[str, Any], *, limit_s: float, memory_bytes: int) -> Reply:
        """The reply to `question`, after `limit_s` at the latest.

        Only the first start of a nursery in this process comes on top. When it must be replaced, that time
        counts, and questions are answered with "timeout" until it is there.
        """
        if not self._has_started:
            with contextlib.suppress(OSError):
                self.start()
        ends_at = time.monotonic() + limit_s
        for _ in range(2):
            try:
                control = self._ready_control(ends_at - time.monotonic())
            except TimeoutError:
                return Reply(problem="timeout")
            except OSError:
                return Reply(problem="died")
            if not self._slots.acquire(timeout=max(0.0, ends_at - time.monotonic())):
                return Reply(problem="timeout")
            try:
                return self._ask(control, question, ends_at, memory_bytes)
            except OSError:  # the nursery died: replace it and ask once more
                self._discard(control)
            finally:
                self._slots.release()
        return Reply(problem="died")

    def close(self) -> None:
        """End the nursery and every child."""
        with self._lock:
            self._end()

    def _ask(
        self, control: socket.socket, question: dict[str, Any], ends_at: float, memory_bytes: int
    ) -> Reply:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                left_s = max(0.01, ends_at - time.monotonic())
                ours.sendall(
                    json.dumps({"question": question, "memory_bytes": memory_bytes}).encode() + b"\n"
                )
                socket.send_fds(control, [repr(left_s * 0.9).encode()], [theirs.fileno()])
            reply = b""
            while not reply.endswith(b"\n"):
                left_s = ends_at - time.monotonic()
                if left_s <= 0 or not select.select([ours], [], [], left_s)[0]:
                    self._note_silence(control)
                    return Reply(problem="timeout")
                received = ours.recv(_LONGEST_REPLY_BYTES)
                self._silent_since = math.inf
                if not received:
                    if self._process is None or self._process.poll() is not None:
                        raise ConnectionError
                    return Reply(problem="died")
                reply += received
        return Reply(**json.loads(reply))

    def _note_silence(self, control: socket.socket) -> None:
        """A nursery that did not even say that the time is over may be stuck, or short of processor time."""
        now = time.monotonic()
        self._silent_since = min(self._silent_since, now)
        if now - self._silent_since > _LONGEST_SILENCE_S:
            self._discard(control)

    def _ready_control(self, limit_s: float) -> socket.socket:
        """The control socket of a ready nursery; TimeoutError when there is none within `limit_s`."""
        ends_at = time.monotonic() + limit_s
        if not self._lock.acquire(timeout=max(0.0, limit_s)):
            raise TimeoutError
        try:
            if self._control is None or self._process is None or self._process.poll() is not None:
                self._end()
                self._begin()
            self._await_ready(ends_at)
            assert self._control is not None
            return self._control
        finally:
            self._lock.release()

    def _begin(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        nursery = Path(__file__).with_name("nursery.py")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(nursery), str(self._program), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._control, self._is_ready, self._silent_since = ours, False, math.inf

    def _await_ready(self, ends_at: float) -> None:
        if self._is_ready:
            return
        assert self._process is not None
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], max(0.0, ends_at - time.monotonic()))[0]:
            raise TimeoutError
        self._has_started = True
        if os.read(self._process.stdout.fileno(), 1) != b"r":
            self._end()
            raise ConnectionError
        self._is_ready = True

    def _discard(self, control: socket.socket) -> None:
        with self._lock:
            if self._control is control:
                self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if self._control is not None:
            self._control.close()
            self._control = None
        if process is not None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its own session: the children end with it
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _forget(self) -> None:
        """In a forked process: let go of the parent's nursery, which is not ours to end, and have none."""
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(2 * (os.cpu_count() or 1))
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process.returncode = 0  # another process's child: no warning when this object goes
        self._process = self._control = None
        self._has_started = False
