"""A question -> what the model is asked. The wordings are versioned: a changed wording is a new name.

The wording of arXiv 2504.13941 is not published. Ours asks for what its reward demands: reasoning in
`<think>...</think>`, then the answer in a box, of a multiple-choice question its label alone (the paper's
table of answer templates has labels ahead of labels with text).
"""

from __future__ import annotations

from string import ascii_uppercase
from types import MappingProxyType

from niwaki.errors import RecipeError
from niwaki.verify.question import Question

BARE, THINK_BOXED = "bare-1", "think-boxed-1"

# After the question and its options. A question with options is asked with the second wording.
_REQUESTS = MappingProxyType(
    {
        BARE: ("", ""),
        THINK_BOXED: (
            "\nReason step by step between <think> and </think>. Then give the final answer in \\boxed{}.\n",
            "\nReason step by step between <think> and </think>. Then give the letter of the right option in "
            "\\boxed{}.\n",
        ),
    }
)
STYLES = tuple(_REQUESTS)


def prompt_of(question: Question, style: str = THINK_BOXED) -> str:
    """The question, its options one a line as `A) ...`, and the request of this style.

    Raises:
        RecipeError: there is no such style.
    """
    if style not in _REQUESTS:
        raise RecipeError(f"There is no prompt {style!r}.", f"Prompts: {', '.join(STYLES)}.")
    options = question.options or ()
    listed = "".join(f"{label}) {text}\n" for label, text in zip(ascii_uppercase, options, strict=False))
    return f"{question.question.rstrip()}\n{listed}{_REQUESTS[style][bool(options)]}"


def completion_of(solution: str, gold: str) -> str:
    """A right answer in the form that is asked for, from a worked solution."""
    return f"<think>{solution.strip()}</think>\\boxed{{{gold.strip()}}}"
