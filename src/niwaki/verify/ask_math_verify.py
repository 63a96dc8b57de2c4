"""Runs only in the sandbox: `prepare` once, then `answer` in a fresh fork for every question."""

from __future__ import annotations

from typing import Any

_EXERCISES = [
    (r"\frac{1}{2}", "0.5"),
    (r"\int_0^1 x^2 dx", r"\frac{1}{2}"),
    (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}"),
    (r"\lim_{x\to 0} \frac{\sin x}{x}", "1"),
]


def prepare() -> None:
    """Load math-verify and use it, so that forks find the parsers built and the modules of sympy loaded."""
    for gold, given in _EXERCISES:
        answer({"answer": given, "gold": gold})


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
