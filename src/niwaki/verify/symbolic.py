"""Mathematics beyond our own methods: `math-verify` (the extra `reason`), in a process that can be killed.

math-verify accepts too much for a reward: it merges sets and intervals, and its comparison depends on the
order of its arguments. So it is asked only about formulas that tokens.py names as beyond us, once in each
direction, and both must agree.
"""

from __future__ import annotations

import importlib.util
import re
import time
from functools import cache
from pathlib import Path

from niwaki.verify.sandbox import Sandbox
from niwaki.verify.verdict import Reason

MEMORY_BYTES = 1 << 30
_SUBSCRIPT = re.compile(r"_\s?\{[^{}]*\}")
_SEVERAL = re.compile(
    r"\b(?:or|and|not|either|maybe|is)\b|[;=?]|\\(?:lor|land|pm|mp|cup|approx|text)(?![A-Za-z])|,\s"
)


@cache
def _sandbox() -> Sandbox:
    return Sandbox(Path(__file__).with_name("ask_math_verify.py"))


def is_installed() -> bool:
    """Whether math-verify can be imported; it is not imported here."""
    return importlib.util.find_spec("math_verify") is not None


def warm() -> None:
    """Start the process that math-verify runs in, so that the first verdict does not wait for it."""
    if is_installed():
        _sandbox().start()


def asks_for_one_answer(text: str) -> bool:
    """Whether `text` is one formula, without words, lists or relations: math-verify may be asked."""
    return "cases" not in text and not _SEVERAL.search(_SUBSCRIPT.sub("", text))


def equivalent(answer: str, gold: str, *, ends_at: float, memory_bytes: int = MEMORY_BYTES) -> Reason:
    """What math-verify says, within the time and memory given.

    The first call of a process also starts math-verify, about a second that does not count; see `warm`.
    """
    if not is_installed():
        return Reason.NEEDS_MATH_VERIFY
    left_s = ends_at - time.monotonic()
    reply = _sandbox().ask({"answer": answer, "gold": gold}, limit_s=left_s, memory_bytes=memory_bytes)
    if reply.problem is not None:
        return Reason.TIMEOUT if reply.problem == "timeout" else Reason.WORKER_DIED
    return Reason.EQUIVALENT if reply.value is True else Reason.DIFFERENT
