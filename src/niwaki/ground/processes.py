"""The processes that carry out one run together, started by `torchrun` or `accelerate launch`.

Every process runs the same program. Process 0, the main one, writes files and does what only one can do
(`by_main`); the others wait there. What all do together, each does for its part of the rows (`my_part`) and
tells the others (`gather`). A program that was started as usual is the only process, and the main one.

Waiting for the main process goes through gloo, whose connections end with the process at the other end, so a
process that was killed is known at once, while a stage that takes a day is waited for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from contextvars import ContextVar
from datetime import timedelta
from functools import cache, wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from accelerate import PartialState
from torch import distributed

from niwaki.errors import NiwakiError, RunError, TrainingError

T = TypeVar("T")
U = TypeVar("U")
P = ParamSpec("P")

_LONGEST_WAIT = timedelta(days=30)
_SHARED_FOLDER_DELAY_S = 30.0
_SAID, _SPEAKERS = "niwaki/said", "niwaki/speakers"
_SAYING_LIMIT = timedelta(seconds=5)
# How gloo and NCCL begin to say that the process at the other end is gone.
_LOST = ("gloo", "Connection closed", "Connection reset", "NCCL", "Socket", "ProcessGroup")
_alone: ContextVar[bool] = ContextVar("alone", default=False)


class ElsewhereError(RunError):
    """What went wrong did so in another process, which says what it was."""


class Supposed(NamedTuple):
    """A launch to plan for: how many processes, and whether they share the weights (FSDP2)."""

    num_processes: int
    is_sharded: bool


_supposed: ContextVar[Supposed | None] = ContextVar("supposed", default=None)


@contextmanager
def supposing(num_processes: int, *, is_sharded: bool) -> Iterator[None]:
    """Plan inside the block as if so many processes had been launched; nothing can be done together there."""
    token = _supposed.set(Supposed(num_processes, is_sharded))
    try:
        yield
    finally:
        _supposed.reset(token)


def supposed() -> Supposed | None:
    """The launch that is planned for, inside `supposing`."""
    return _supposed.get()


def are_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join() -> None:
    """Meet the other processes of the launch; nothing where there are none, or they have met."""
    if distributed.is_initialized() or not are_launched():
        return
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"  # else accelerate leaves processes on processors alone
    # Otherwise transformers would load weights in the main process only; here each uses what it loads.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    PartialState(cpu=not torch.cuda.is_available())


def count() -> int:
    """How many processes work together here: 1 inside `by_main`."""
    if (planned := _supposed.get()) is not None:
        return planned.num_processes
    if _alone.get():
        return 1
    join()
    return distributed.get_world_size() if distributed.is_initialized() else 1


def are_sharded() -> bool:
    """Whether several processes work together and share the weights (FSDP2), as the launcher asks.

    `accelerate launch` with `fsdp_version: 2`, or ACCELERATE_USE_FSDP=true and FSDP_VERSION=2 in the
    environment, means FSDP2; DDP otherwise.

    Raises:
        TrainingError: it asks for the first FSDP.
    """
    if (planned := _supposed.get()) is not None:
        return planned.is_sharded and planned.num_processes > 1
    if count() == 1 or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise TrainingError("The launcher's settings ask for the first FSDP.", "Write `fsdp_version: 2`.")
    return True


def number() -> int:
    """The number of this process, from 0."""
    return 0 if count() == 1 else distributed.get_rank()


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return number() == 0


def by_main(work: Callable[[], T]) -> T:
    """What `work` returns in the main process, which alone does it while the others wait.

    Inside `work` the main process is alone: nothing there is divided.

    Raises:
        NiwakiError: in the main process whatever `work` raises, in the others an `ElsewhereError`.
    """
    if count() == 1:
        return work()
    answer: list[Any] = [None, None]
    failure: BaseException | None = None
    if is_main():
        token = _alone.set(True)
        try:
            answer[0] = work()
        except BaseException as error:
            failure = error
            answer[1] = f"{type(error).__name__}: {error}"
        finally:
            _alone.reset(token)
    distributed.broadcast_object_list(answer, src=0, group=_waiting_group())
    if failure is not None:
        raise failure
    if answer[1] is not None:
        raise ElsewhereError(f"The main process stopped: {answer[1]}", "See what it says.")
    result: T = answer[0]
    return result


def main_only(work: Callable[P, T]) -> Callable[P, T]:
    """A function that the main process carries out for all, see `by_main`."""

    @wraps(work)
    def for_all(*args: P.args, **kwargs: P.kwargs) -> T:
        return by_main(lambda: work(*args, **kwargs))

    return for_all


def gather(value: T) -> list[T]:
    """The `value` of every process, in their order."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    distributed.all_gather_object(values, value, group=_waiting_group())
    return values


def wait() -> None:
    """Wait until every process is here."""
    if count() > 1:
        distributed.barrier(group=_waiting_group())


def add_up(tensors: Sequence[torch.Tensor]) -> None:
    """Make each tensor, in place, the sum of those of all processes, however long one takes to get here."""
    if count() > 1:
        wait()
        for tensor in tensors:
            # A group of GPUs adds up what is on them alone.
            distributed.all_reduce(tensor, group=_waiting_group() if tensor.device.type == "cpu" else None)


def my_part(total: int, *, step: int = 1) -> range:
    """The part of `range(total)` that is this process's, in one piece; cuts lie at multiples of `step`.

    So batches of `step` rows are the same on any number of processes, and parts follow each other in the
    order of the processes. The last may be shorter, or empty.
    """
    num_steps = -(-total // step)
    share = -(-num_steps // count())
    first = min(number() * share * step, total)
    return range(first, min(first + share * step, total))


def deal_out(items: Sequence[T], work: Callable[[Sequence[T]], Iterable[U]]) -> list[U]:
    """What `work` makes of the items, one of each and in their order; every process gets all of it.

    They are dealt out in turn, so that what grows along them is shared out evenly. A process that gets none
    does not call `work`.
    """
    mine = items[number() :: count()]
    made = list(work(mine)) if mine else []
    parts = [iter(part) for part in gather(made)]
    return [next(parts[index % len(parts)]) for index in range(len(items))]


def check_shared(path: Path) -> None:
    """Check that a file which the main process wrote is seen by all.

    Raises:
        RunError: it is not, as on machines that do not share the folder.
    """
    if count() == 1:
        return
    deadline = time.monotonic() + _SHARED_FOLDER_DELAY_S
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    if unseen := [process for process, seen in enumerate(gather(path.exists())) if not seen]:
        raise RunError(
            f"{path.parent}: process {unseen[0]} does not see what process 0 wrote there.",
            "Give an `out` on a disk that all machines share.",
        )


@contextmanager
def together() -> Iterator[None]:
    """Work with the other processes of the launch inside the block, and let only the main one print.

    Raises:
        ElsewhereError: another process ended while this one waited for it.
    """
    join()
    if count() == 1:
        yield
        return
    try:
        with _quiet_unless_main():
            yield
        wait()
    except RuntimeError as error:
        if is_lost_peer(error):
            raise ElsewhereError(
                f"Another process of the run ended while process {distributed.get_rank()} waited for it "
                f"({str(error).splitlines()[0][:200]}).",
                "Look above for what it said; one that was killed (by hand, or for its memory) says nothing. "
                "The same command goes on from here, on any number of processes.",
            ) from error
        raise
    distributed.destroy_process_group()


def is_lost_peer(error: RuntimeError) -> bool:
    """Whether an error of `torch.distributed` says that another process is gone."""
    return isinstance(error, distributed.DistError) or any(sign in str(error) for sign in _LOST)


def say_once(error: NiwakiError, say: Callable[[], object]) -> None:
    """Call `say` in one of the processes that ended with an error: if there is one, one that knows its cause.

    The others return when that has been said, or is not going to be.
    """
    if not distributed.is_initialized():
        say()
        return
    try:
        store = distributed.distributed_c10d._get_default_store()
        if isinstance(error, ElsewhereError) and _is_said(store):
            return
        if store.add(_SPEAKERS, 1) > 1:
            _is_said(store)
            return
        say()
        store.set(_SAID, "yes")
    except RuntimeError:  # the store went with the process that held it
        say()


def _is_said(store: Any) -> bool:
    try:
        store.wait([_SAID], _SAYING_LIMIT)
    except RuntimeError:
        return False
    return True


@contextmanager
def _quiet_unless_main() -> Iterator[None]:
    """Send to nowhere what processes other than the main one print; their errors come after the block."""
    if is_main():
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


@cache
def _waiting_group() -> Any:
    return distributed.new_group(backend="gloo", timeout=_LONGEST_WAIT)
