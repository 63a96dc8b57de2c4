"""Start niwaki, or a script, as several processes on this machine, as a launcher does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LIMIT_S = 600
SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def torchrun(*command: str, processes: int, sharded: bool = False) -> subprocess.CompletedProcess[str]:
    """`torchrun` with a module (`-m`, name, ...) or a script and its arguments, to the end."""
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={processes}",
    ]
    return subprocess.run(
        [*launcher, *command],
        env=_environment() | (SHARDED if sharded else {}),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def start_each(
    command: Sequence[str], folder: Path, *, processes: int, sharded: bool = False
) -> list[subprocess.Popen[str]]:
    """Start each process by hand, without an agent that ends the others when one ends.

    What process N writes to standard error is in `folder / "N.err"`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for number in range(processes):
        place = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {name: str(value) for name, value in (place | meeting).items()}
        with (folder / f"{number}.err").open("w") as errors:
            started.append(
                subprocess.Popen(
                    [sys.executable, *command],
                    env=_environment() | environment | (SHARDED if sharded else {}),
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    text=True,
                )
            )
    return started


def end_all(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Leave none running, whatever happened in the test."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def _environment() -> dict[str, str]:
    source, given = str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH", "")
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, (source, given)))}
