"""Runs only in the sandbox: `prepare` once, then `answer` in a fresh fork for every question."""

from __future__ import annotations

from typing import Any


def prepare() -> None:
    """Load math-verify, and use it once so that forks find its parsers built."""
    answer({"answer": "\\frac{1}{2}", "gold": "0.5"})


def answer(question: dict[str, Any]) -> bool:
    """Whether math-verify finds answer and gold the same in both directions."""
    from math_verify import LatexExtractionConfig, parse, verify

    # The sandbox keeps the time: math-verify's own timers use signals, which work in a main thread only.
    settings = [LatexExtractionConfig()]
    gold, given = (
        parse(
            f"${question[name]}$",
            extraction_config=settings,
            parsing_timeout=None,
            fallback_mode="no_fallback",
        )
        for name in ("gold", "answer")
    )
    if not gold or not given:
        return False
    return bool(
        verify(gold, given, strict=True, float_rounding=12, timeout_seconds=None)
        and verify(given, gold, strict=True, float_rounding=12, timeout_seconds=None)
    )
