"""Does a completion have the form that the reward asks for: one thought, then an answer in a box?

arXiv 2504.13941, section 2: `R_format` is 1 for one `<think>...</think>` followed by `\\boxed{}`.
"""

from __future__ import annotations

from enum import StrEnum

from niwaki.verify.extract import box_of
from niwaki.verify.verdict import UnreadableError

OPEN, CLOSE = "<think>", "</think>"


class Form(StrEnum):
    """The form of a completion; all but the first are not what was asked for."""

    OK = "ok"
    NO_THOUGHT = "no_thought"
    TEXT_BEFORE_THOUGHT = "text_before_thought"
    SEVERAL_THOUGHTS = "several_thoughts"
    UNFINISHED_THOUGHT = "unfinished_thought"
    NO_BOX = "no_box"
    UNCLOSED_BOX = "unclosed_box"
    EMPTY_BOX = "empty_box"


def form_of(completion: str) -> Form:
    """The form of everything that the model wrote."""
    text = completion.strip()
    if OPEN not in text:
        return Form.NO_THOUGHT
    if text.count(OPEN) > 1 or text.count(CLOSE) > 1:
        return Form.SEVERAL_THOUGHTS
    if not text.startswith(OPEN):
        return Form.TEXT_BEFORE_THOUGHT
    if CLOSE not in text:
        return Form.UNFINISHED_THOUGHT
    try:
        box = box_of(text.partition(CLOSE)[2])
    except UnreadableError:
        return Form.UNCLOSED_BOX
    if box is None:
        return Form.NO_BOX
    return Form.OK if box.strip() else Form.EMPTY_BOX
