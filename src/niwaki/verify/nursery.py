"""The nursery of a sandbox: loads a program once, forks a child for every question, and kills the late ones.

    python nursery.py PROGRAM CONTROL_FD

Each datagram on the control socket is a time limit and carries one socket: the question comes from it and
the reply goes to it. The nursery ends when its standard input closes, that is, with the process that
started it. Only the standard library is used here; the program imports what it needs.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

_LONGEST_QUESTION_BYTES = 1 << 16
_TICK_S = 0.02


def serve(answer: Callable[[dict[str, Any]], Any], control: socket.socket) -> None:
    """Fork for every question until standard input closes."""
    children: dict[int, tuple[float, socket.socket]] = {}
    while True:
        waiting: list[Any] = [0, control]
        readable, _, _ = select.select(waiting, [], [], _TICK_S if children else None)
        _end_late(children)
        if 0 in readable:
            break
        if control in readable:
            message, descriptors, _, _ = socket.recv_fds(control, 64, 1)
            if not descriptors:
                break
            connection = socket.socket(fileno=descriptors[0])
            limit_s = float(message)
            ends_at = time.monotonic() + limit_s
            child = os.fork()
            if child == 0:
                _answer_one(answer, connection, control, limit_s)
            children[child] = (ends_at, connection)
    for child in children:
        os.kill(child, signal.SIGKILL)


def _end_late(children: dict[int, tuple[float, socket.socket]]) -> None:
    now = time.monotonic()
    for child, (ends_at, connection) in list(children.items()):
        late = now > ends_at
        if late:
            os.kill(child, signal.SIGKILL)
        if os.waitpid(child, 0 if late else os.WNOHANG)[0]:
            if late:
                _reply(connection, {"problem": "timeout"})
            connection.close()
            del children[child]


def _answer_one(
    answer: Callable[[dict[str, Any]], Any], connection: socket.socket, control: socket.socket, limit_s: float
) -> None:
    """In the child: never returns."""
    try:
        control.close()
        message = b""
        while not message.endswith(b"\n"):
            message += connection.recv(_LONGEST_QUESTION_BYTES)
        asked = json.loads(message)
        for limit in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
            resource.setrlimit(limit, (asked["memory_bytes"], asked["memory_bytes"]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        most_cpu_s = int(limit_s) + 2  # ends it even when the nursery was killed and nobody else does
        resource.setrlimit(resource.RLIMIT_CPU, (most_cpu_s, most_cpu_s))
        _reply(connection, {"value": answer(asked["question"])})
    except MemoryError:
        os._exit(1)
    except BaseException:  # whatever a hostile formula makes the program raise is no value
        _reply(connection, {"value": None})
    finally:
        os._exit(0)


def _reply(connection: socket.socket, reply: dict[str, Any]) -> None:
    try:
        connection.sendall(json.dumps(reply).encode() + b"\n")
    except OSError:
        return  # nobody waits any longer


def main() -> None:
    """Load the program and serve."""
    program = runpy.run_path(sys.argv[1])
    program["prepare"]()
    control = socket.socket(fileno=int(sys.argv[2]))
    gc.freeze()  # a fork then shares these pages for good
    sys.stdout.write("r")
    sys.stdout.flush()
    serve(program["answer"], control)


if __name__ == "__main__":
    main()
