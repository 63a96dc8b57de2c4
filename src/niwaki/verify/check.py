"""Is this answer right? `check` is the one public function of the room; docs/verify.md states its rules.

The answer is extracted once (extract.py). Choices, numbers, formulas, sets and short texts are graded here,
in this process, in bounded time. What our own methods cannot read (integrals, sums, limits) is asked of
`math-verify`, if it is installed, in a process that can be killed (symbolic.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache

from niwaki.errors import VerifyError
from niwaki.verify import symbolic
from niwaki.verify.choice import Options, as_options, chosen, gold_label, option_in
from niwaki.verify.compare import compare
from niwaki.verify.exact import deadline
from niwaki.verify.extract import ANSWER_ABBREVIATED, LONGEST_ANSWER_CHARS, box_of, extract
from niwaki.verify.notation import maths, plain
from niwaki.verify.read import read
from niwaki.verify.reading import Collection, Quantity, Reading, Region
from niwaki.verify.text import digits_for_words, is_molecule, same_text
from niwaki.verify.tokens import UnsupportedError
from niwaki.verify.tree import symbols
from niwaki.verify.units import read_unit
from niwaki.verify.verdict import RIGHT, Reason, Type, UnreadableError, Verdict

_LETTER = re.compile(r"\(?[A-J]\)?")
_ANY_LETTER = re.compile(r"\(?[A-Za-z]\)?")
_LETTER_AND_TEXT = re.compile(r"\(?[A-J]\)\s+\S.*", re.DOTALL)
_PRODUCT = re.compile(r"ab|ac|bc|abc|mn|pq|pqr|qr|rs|st|uv|vw|uvw|xy|xz|yz|xyz")
_WORDS = re.compile(r"(?:[aA]\s+)?[^\W\d_]{2,}(?:[\s'’.-]+[^\W\d_]+)*[.!?]?")
_NAMES_OF_NUMBERS = frozenset({"pi", "infinity"})
_RANGE_OR_DATE = re.compile(r"\d+(?:\s*[-–—]\s*\d+)+|\d+\s*/\s*\d+\s*/\s*\d+")
_GLUED = re.compile(r"\d+([A-Za-z]{2,})")
_WRAPPERS = " $*_`\"'.,;:\\"
_MATHS = frozenset({Type.NUMBER, Type.EXPRESSION, Type.SET})


def check(
    answer: str,
    gold: str,
    *,
    type: str | None = None,
    options: Sequence[str] | Mapping[str, str] | None = None,
    tolerance: float = 0.0,
    limit_s: float = 1.0,
    memory_bytes: int = symbolic.MEMORY_BYTES,
) -> Verdict:
    """Grade `answer`, all that a model wrote or its final answer alone, against the right answer `gold`.

    Args:
        answer: the completion; its final answer is found by the rules of extract.py.
        gold: the right answer, bare or in a box.
        type: "mc", "number", "expression", "set" (also tuples, intervals, inequalities), "text", or "exact"
            (the same string and nothing else, as in arXiv 2504.13941). Default: inferred by `infer_type`.
        options: the options of a multiple-choice question, in order or by label.
        tolerance: largest |answer - gold| / |gold| of numbers that is still right. Default: none.
        limit_s: seconds until the verdict is `timeout`.
        memory_bytes: address space of a process that does symbolic mathematics.

    Raises:
        VerifyError: an argument that is no text, an unknown type, or a limit that is not positive.
    """
    _refuse_misuse(answer, gold, type, tolerance, limit_s, memory_bytes)
    ends_at = time.monotonic() + limit_s
    token = deadline.set(ends_at)
    try:
        return _check(answer, gold, type, options, tolerance, ends_at, memory_bytes)
    finally:
        deadline.reset(token)


def infer_type(gold: str, options: Sequence[str] | Mapping[str, str] | None = None) -> Type:
    """The type of a gold answer.

    With options, as a single letter from A to J, or as such a label with a text ("A) Paris"): mc. Words,
    ranges, dates and molecules: text. What reads as one value without symbols, with or without a unit:
    number. Several values, or a region of the line: set. Any other formula: expression. All else: text.
    """
    return Type.MC if options is not None else _type_of(gold)


@lru_cache(maxsize=4096)  # the same gold answer comes with every rollout of its question
def _type_of(gold: str) -> Type:
    bare = _unworded(plain(gold))
    if _LETTER.fullmatch(bare) or _LETTER_AND_TEXT.fullmatch(bare):
        return Type.MC
    if _PRODUCT.fullmatch(bare):
        return Type.EXPRESSION
    if _RANGE_OR_DATE.fullmatch(bare) or (_WORDS.fullmatch(bare) and bare.lower() not in _NAMES_OF_NUMBERS):
        return Type.TEXT
    if is_molecule(bare):
        return Type.TEXT
    if (glued := _GLUED.fullmatch(bare)) and read_unit(glued[1]) is None:
        return Type.TEXT
    try:
        reading = read(maths(gold))
    except UnsupportedError:
        return Type.EXPRESSION
    except UnreadableError as error:
        return Type.EXPRESSION if error.reason is Reason.TOO_LARGE else Type.TEXT
    if isinstance(reading, Quantity) and not symbols(reading.tree):
        return Type.NUMBER
    return Type.SET if isinstance(reading, Collection | Region) else Type.EXPRESSION


def _check(
    answer: str,
    gold: str,
    type: str | None,
    options: Sequence[str] | Mapping[str, str] | None,
    tolerance: float,
    ends_at: float,
    memory_bytes: int,
) -> Verdict:
    kind, extracted = Type(type or Type.TEXT), None
    try:
        wanted = _gold(gold)
        inferred = infer_type(wanted, options)
        kind = _kind(Type(type) if type else inferred, inferred, wanted, options)
        listed = as_options(options) if options is not None else option_in(wanted)
        label = gold_label(wanted, listed) if kind is Type.MC else ""
        found = extract(answer)
        extracted = found.text
        for said in [found.text] if found.also is None else [found.also, found.text]:
            text = said if kind in {Type.MC, Type.EXACT} else ANSWER_ABBREVIATED.sub("", said)
            if kind is Type.MC:
                reason = _choice(text, label, listed)
            elif kind is Type.EXACT:
                reason = Reason.SAME_TEXT if text.strip() == wanted else Reason.DIFFERENT
            elif kind is Type.TEXT:
                reason = Reason.SAME_TEXT if same_text(text, wanted) else Reason.DIFFERENT
            else:
                reason = _mathematics(text, wanted, tolerance, ends_at, memory_bytes)
            if reason not in RIGHT:
                if said == found.also:
                    reason = Reason.SEVERAL_ANSWERS
                break
    except UnreadableError as error:
        reason = error.reason
    return Verdict(reason in RIGHT, reason, kind, extracted)


def _gold(gold: str) -> str:
    if len(gold) > LONGEST_ANSWER_CHARS or not gold.strip():
        raise UnreadableError(Reason.BAD_GOLD)
    try:
        inside = box_of(gold)
    except UnreadableError:
        raise UnreadableError(Reason.BAD_GOLD) from None
    wanted = (gold if inside is None else inside).strip()
    if not plain(wanted).strip(_WRAPPERS):
        raise UnreadableError(Reason.BAD_GOLD)
    return wanted


def _kind(given: Type, inferred: Type, gold: str, options: object) -> Type:
    """The grader for a gold answer of a type that it may not have: datasets call "even" an expression."""
    if given is Type.EXACT or (given is Type.MC and (options is not None or inferred is Type.MC)):
        return given
    if given is Type.MC and (_ANY_LETTER.fullmatch(plain(gold)) or option_in(gold) is not None):
        return given
    if given in _MATHS and inferred is Type.TEXT and _GLUED.fullmatch(_unworded(plain(gold))):
        return Type.EXPRESSION
    if given in _MATHS or given is Type.MC:
        return (
            inferred
            if inferred in {Type.TEXT, *_MATHS}
            else (Type.EXPRESSION if given in _MATHS else Type.TEXT)
        )
    return Type.NUMBER if inferred is Type.NUMBER and given is Type.TEXT else given


def _choice(text: str, label: str, options: Options | None) -> Reason:
    def states(said: str, option: str) -> bool:
        if infer_type(option) not in _MATHS:
            return False
        try:
            return compare(_read(said), read(maths(option))) in RIGHT
        except UnreadableError:
            return False

    return Reason.SAME_OPTION if chosen(text, options, same=states) == label else Reason.DIFFERENT


def _mathematics(text: str, gold: str, tolerance: float, ends_at: float, memory_bytes: int) -> Reason:
    spelled_gold = maths(gold)
    if maths(text) == spelled_gold:
        return Reason.SAME_TEXT
    try:
        wanted = _read_gold(spelled_gold)
        given = _read(text, lists=isinstance(wanted, Collection))
    except UnsupportedError:
        if _is_beyond_us(gold) and all(map(symbolic.asks_for_one_answer, (text, gold))):
            return symbolic.equivalent(text, gold, ends_at=ends_at, memory_bytes=memory_bytes)
        return Reason.UNREADABLE
    return compare(given, wanted, tolerance=tolerance)


@lru_cache(maxsize=4096)
def _read_gold(spelled: str) -> Reading:
    return read(spelled, lone_word=True)


def _is_beyond_us(gold: str) -> bool:
    """Whether gold itself needs a computer algebra system. An answer that leaves a sum to be done is none."""
    try:
        _read_gold(maths(gold))
    except UnsupportedError:
        return True
    return False


def _read(text: str, *, lists: bool = False) -> Reading:
    return read(maths(digits_for_words(plain(text))), lists=lists, lone_word=True)


def _unworded(text: str) -> str:
    return plain(re.sub(r"\\(?:text|textbf|mathrm|mathbf|textit)\s*\{([^{}]*)\}", r"\1", text))


def _refuse_misuse(
    answer: object, gold: object, type: str | None, tolerance: float, limit_s: float, memory_bytes: int
) -> None:
    for name, text in (("answer", answer), ("gold", gold)):
        if not isinstance(text, str):
            raise VerifyError(
                f"{name} is {text!r:.80}; text was expected.",
                f"Pass {name} as a string, such as str({name}).",
            )
    if type is not None and type not in set(Type):
        raise VerifyError(f"There is no type of answer '{type}'.", f"Types: {', '.join(Type)}.")
    for name, value in (("limit_s", limit_s), ("memory_bytes", memory_bytes)):
        if not value > 0:
            raise VerifyError(
                f"{name} is {value}; more than 0 was expected.", f"Give {name} a positive value."
            )
    if not 0 <= tolerance < 1:
        raise VerifyError(
            f"tolerance is {tolerance}; 0 to 1 was expected.", "Give it as a ratio, such as 0.01."
        )
