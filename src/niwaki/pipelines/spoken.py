"""Quantities as people say them."""

from __future__ import annotations


def in_bytes(num_bytes: float) -> str:
    """Bytes as people say them: 16.1 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.4g} TB"


def in_words(duration_s: float) -> str:
    """A duration as people say it: 40 s, 12 min, 5.2 hours, 3.1 days."""
    if duration_s < 90:
        return f"{duration_s:.0f} s"
    if duration_s < 90 * 60:
        return f"{duration_s / 60:.0f} min"
    return f"{duration_s / 3600:.1f} hours" if duration_s < 48 * 3600 else f"{duration_s / 86400:,.1f} days"


def in_milliseconds(duration_s: float) -> str:
    """A latency: 3.2 ms, 580 ms, 1,240 ms."""
    return f"{duration_s * 1000:,.0f} ms" if duration_s >= 0.1 else f"{duration_s * 1000:.3g} ms"


def in_count(number: int) -> str:
    """A large number: 163 thousand, 1.31 million, 94 billion."""
    for unit, size in (("billion", 10**9), ("million", 10**6), ("thousand", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
