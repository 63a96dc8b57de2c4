"""Multiple choice: a label with any common decoration, or the text of exactly one option."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence

from niwaki.errors import VerifyError
from niwaki.verify.notation import plain
from niwaki.verify.text import normal
from niwaki.verify.verdict import Reason, UnreadableError

Options = Mapping[str, str]

_LABELLED = re.compile(r"\(?([A-Za-z])[).:]\s+(.+)\Z", re.DOTALL)
_WORD_BEFORE = re.compile(
    r"(?:(?:so,?\s+)?I\s+(?:would\s+)?(?:choose|pick|select|think|believe)\s+)?(?:it(?:\s+is|['’]s)\s+)?"
    r"(?:(?:the|my)\s+)?(?:correct\s+)?(?:(?:option|choice|answer|letter)\s*(?:is\b)?\s*(?::|-\s)?\s*)?(?=[(\[{*]?\s*\w)",
    re.IGNORECASE,
)
_WORDS_AFTER = re.compile(
    r"\s*\b(?:is|are)\s+(?:the\s+)?(?:correct|right)(?:\s+(?:option|choice|answer))?\Z", re.IGNORECASE
)
_LABEL = re.compile(r"[(\[{<]?\s*(\w{1,2})\s*[)\]}>]?\s*[.):,]?\Z")
_LABEL_AND_TEXT = re.compile(
    r"(?:\(\s*(\w)\s*\)|\[\s*(\w)\s*\]|(\w)\s*[).:]|(\w)\s+[-–—]\s)\s*[-–—:.]?\s*(.+)\Z", re.DOTALL
)
_ANOTHER_LABEL = re.compile(r"\b[A-Z]\b(?!['’-])")
_NO_OPTION_TEXT = re.compile(r"(?:or|and|not|is|are|because|since|but|if)\b", re.IGNORECASE)
_ANOTHER = re.compile(r"(?:\bor|\band|\bnot|\bboth|[,/&;])\s*\(?[A-Z]\)?(?:[).:,\s]|\Z)|\(\s*[A-Z]\s*\)")


def as_options(options: Sequence[str] | Mapping[str, str]) -> Options:
    """Options by label. A sequence is labelled A, B, C, ...; labels already in the texts are used instead."""
    if isinstance(options, Mapping):
        return {str(label).strip(): str(text) for label, text in options.items()}
    letters = [chr(ord("A") + index) for index in range(len(options))]
    matches = [_LABELLED.match(text.strip()) for text in options]
    if all(match and match[1].upper() == letter for match, letter in zip(matches, letters, strict=True)):
        return {letter: match[2] for letter, match in zip(letters, matches, strict=True) if match}
    return dict(zip(letters, options, strict=True))


def options_from_json(text: str) -> list[str] | dict[str, str]:
    """Options written as a JSON list of texts, or as an object from labels to texts.

    Raises:
        VerifyError: it is neither.
    """
    try:
        read = json.loads(text)
    except ValueError:
        read = None
    texts = list(read.values()) if isinstance(read, dict) else read
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) for one in texts):
        raise VerifyError(
            f"The options are {text:.80}; a JSON list or object of texts was expected.",
            """Write them like '["Paris", "Rome"]' or '{"A": "Paris", "B": "Rome"}'.""",
        )
    return read


def option_in(gold: str) -> Options | None:
    """The one option that a gold answer such as "A) Paris" states, with its label; None for any other."""
    match = _LABELLED.match(plain(gold))
    return {match[1].upper(): match[2].strip()} if match else None


def gold_label(gold: str, options: Options | None) -> str:
    """The label that the gold answer means.

    Raises:
        UnreadableError: with `bad_gold`, when it is none of the options.
    """
    try:
        return chosen(gold, options, same=lambda a, b: normal(a) == normal(b))
    except UnreadableError:
        raise UnreadableError(Reason.BAD_GOLD) from None


def chosen(answer: str, options: Options | None, *, same: Callable[[str, str], bool]) -> str:
    """The label that `answer` chooses. `same` says whether an answer states an option's text.

    Raises:
        UnreadableError: it chooses nothing, more than one option, or something that is no option.
    """
    text = _unwrapped(answer)
    bare = _unwrapped(_WORDS_AFTER.sub("", _WORD_BEFORE.sub("", text, count=1)))
    if match := _LABEL.match(bare):
        if label := _known(match[1], options):
            return label
        if options is None and match[1].isalpha() and match[1].isascii():
            raise UnreadableError(Reason.SEVERAL_ANSWERS if len(match[1]) == 2 else Reason.UNREADABLE)
    if (match := _LABEL_AND_TEXT.match(bare)) and (
        label := _known(next(filter(None, match.groups()[:4])), options)
    ):
        said = match[5].strip()
        if options is None:
            if _ANOTHER_LABEL.search(said) or _NO_OPTION_TEXT.match(said):
                raise UnreadableError(Reason.SEVERAL_ANSWERS)
            return label
        if _one_of(said, options, same) == label or normal(said) == normal(options[label]):
            return label
        raise UnreadableError(Reason.SEVERAL_ANSWERS)
    if options is not None and (label := _one_of(text, options, same)):
        return label
    if _ANOTHER.search(f" {bare}"):
        raise UnreadableError(Reason.SEVERAL_ANSWERS)
    raise UnreadableError(
        Reason.NOT_AN_OPTION if options is not None or _LABEL.match(bare) else Reason.UNREADABLE
    )


def _known(label: str, options: Options | None) -> str | None:
    if options is None:
        return label.upper() if len(label) == 1 and label.isascii() and label.isalpha() else None
    if label in options:
        return label
    found = [one for one in options if one.upper() == label.upper()]
    return found[0] if len(found) == 1 else None


def _one_of(text: str, options: Options, same: Callable[[str, str], bool]) -> str | None:
    wanted = normal(text)
    exact = [label for label, option in options.items() if wanted and normal(option) == wanted]
    if len(exact) == 1:
        return exact[0]
    if exact:
        raise UnreadableError(Reason.SEVERAL_ANSWERS)
    alike = [label for label, option in options.items() if same(text, option)]
    return alike[0] if len(alike) == 1 else None


_WRAPPED = re.compile(
    r"(?:\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|bf|rm)\s*\{|\{\s*\\(?:bf|rm|it|sf)\s)([^{}]*)\}"
)


def _unwrapped(text: str) -> str:
    previous = None
    while text != previous:
        previous = text
        text = plain(_WRAPPED.sub(r"\1", text)).strip()
        text = text.replace("\\ ", " ").replace("**", "").replace("\\left", "").replace("\\right", "")
    return text
