"""What a formula is once it is read: a tree of tuples.

("num", Fraction)  ("sym", name)  ("const", "pi" | "e" | "i")  ("sum", [..])  ("prod", [..])
("div", a, b)  ("neg", a)  ("pow", a, b)  ("root", a, n)  ("fn", name, [..])
"""

from __future__ import annotations

from typing import Any

Tree = tuple[Any, ...]


def symbols(tree: Tree) -> set[str]:
    """Names of the free symbols of a tree."""
    if tree[0] == "sym":
        return {tree[1]}
    found: set[str] = set()
    for part in tree[1:]:
        for child in part if isinstance(part, list) else [part]:
            if isinstance(child, tuple):
                found |= symbols(child)
    return found
