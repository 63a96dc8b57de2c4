"""The final answer of a completion: found once, before any grader reads it.

In: everything a model wrote. Out: the text of its final answer, or `UnreadableError` with the reason why
there is none. In order: only what follows `</think>` counts; then the last `<answer>` tag or box; then what
follows the last "answer is", "Answer:" or `####`; then the last line. Boxes are never merged. Every step is
linear in the length of the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from niwaki.verify.notation import plain
from niwaki.verify.units import read_unit
from niwaki.verify.verdict import Reason, UnreadableError

LONGEST_COMPLETION_CHARS = 2_000_000
LONGEST_ANSWER_CHARS = 2_000
_TAIL_CHARS = 4_000  # markers of the weaker kind are looked for in the end of the text only

_END_OF_TURN = re.compile(r"(?:<\|[a-z_]{1,30}\|>|</s>|<eos>|<end_of_turn>)\s*\Z")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
_UNBRACED = re.compile(r"\s*(-?[A-Za-z0-9.]{1,40})\s*(?:\Z|[\s$.,])")
_OPENERS = r"(?:\$|\\\(|\\\[|\*|_|`|\s|=|\()*\Z"
_NEGATION_BEFORE = re.compile(
    r"(?:\b(?:not|never|cannot|without|except|wrong|incorrect|isnt|rather than|instead of|other than)|n['’]t"
    r"|\\neq?|≠|!=)\s*(?:equal to|equal|be|is|option|choice|answer)?\s*:?\s*" + _OPENERS,
    re.IGNORECASE,
)
_OR_BEFORE = re.compile(
    r"(?:\bor|\beither|\\lor|\\vee)(?:\s+(?:maybe|perhaps|possibly))?\s*" + _OPENERS, re.IGNORECASE
)
_OR_AFTER = re.compile(r"(?:\$|\\\)|\\\]|\*|[\s,.)])*(?:or|\\text\s*\{\s*or)\b", re.IGNORECASE)
_SIGN_AFTER = re.compile(r"\s*(\\%|%|\^\s*\{?\s*\\circ\s*\}?|°)")
_PART_OF_MORE_BEFORE = re.compile(
    r"(?:\d|[/^+]\s*|\\(?:times|cdot|div)\s*|\^\s*\{|\\(?:sqrt|[dt]?frac|sin|cos|tan|ln|log)[^\\$]{0,20}\{)\Z"
)
_PART_OF_MORE_AFTER = re.compile(
    r"\.?\d|\{|\s*(?:[/^]|\+\s*[\dA-Za-z\\]|-\s*\d|\\(?:times|cdot|div|pm|frac|sqrt|pi)(?![A-Za-z]))"
)
_UNIT_AFTER = re.compile(
    r"(?:\s|~|\\[,;! ]|\$|\\\))*"
    r"(?:\\(?:text|mathrm|textrm|mbox)\s*\{\s*([^{}]{1,30})\}((?:\s?\^\s?\{?-?\d\}?)?)"
    r"|([A-Za-zΩµμ]{1,12}(?:\s?/\s?[A-Za-z]{1,8})?(?:\s?\^\s?\{?-?\d\}?)?)[\s$.\\)\]]*\Z)"
)
_RETRACTION = re.compile(
    r"\b(?:wait|actually|incorrect|wrong|mistaken?|scratch that|correction|retract|disregard"
    r"|ignore (?:that|this)|second thoughts?|not (?:right|correct|sure|the answer))\b",
    re.IGNORECASE,
)
_MARKER = re.compile(
    r"(?:\b(?:answer|correct (?:option|choice)|final (?:result|value|solution|choice))"
    r"(?: choice| option)?(?:\*\*|__)?\s{0,3}(?:is|was|:|=|would be|should be)(?:\s{0,3}:)?(?:\*\*|__)?"
    r"(?:\s{1,3}(?:therefore|thus|hence|simply|then|clearly|indeed)\b,?)?|####)",
    re.IGNORECASE,
)
_NEGATION_IN_CLAUSE = re.compile(
    r"\b(?:not|never|wrong|incorrect|isnt|if|unless|whether|opposite|doubt)\b|n['’]t\b", re.IGNORECASE
)
_LEAD_IN = re.compile(
    r"(?:(?:so|thus|therefore|hence|then|finally|we (?:get|have|find)|∴|exactly)\b[,:]?\s*"
    r"|(?:I (?:think|believe) (?:that )?)?it(?: is|['’]s)\s+"
    r"|(?:the |my )?(?:final )?(?:result|solution|value)\s*(?:is|equals|=|:)\s*|#{1,6}\s+)+",
    re.IGNORECASE,
)
_CONFIRMED = re.compile(r"(?:correct|right|confirmed|verified|valid)\b", re.IGNORECASE)
ANSWER_ABBREVIATED = re.compile(r"\A(?:A|Ans)\s?[:.]\s+", re.IGNORECASE)  # the end of GSM8K's model solutions
_HEADING = re.compile(r"[\W_]*(?:the\s+)?(?:final\s+)?(?:answer|result|solution)[\W_]*", re.IGNORECASE)
_FENCED = re.compile(r"\A```\w*\n([^`]*?)\n?```\Z")
_ANSWER_FIRST = re.compile(r"\s{1,3}is (?:the|my) (?:final |right |correct )?answer\.?\Z", re.IGNORECASE)
_HOPE = re.compile(r"\s{0,3}I hope it is correct\.?\Z")  # closes the four-shot prompt of Minerva
_DISPLAY = re.compile(r"\$\$\s*([^$]*?)\s*\$\$|\\\[\s*([^\[\]]*?)\s*\\\]")


@dataclass(frozen=True)
class Extracted:
    """The final answer. `also` is a second statement of it after the box, which must be right as well."""

    text: str
    also: str | None = None


def extract(completion: str) -> Extracted:
    """The final answer of `completion`.

    Raises:
        UnreadableError: there is no final answer, or more than one, or it is taken back.
    """
    if len(completion) > LONGEST_COMPLETION_CHARS:
        raise UnreadableError(Reason.TOO_LONG)
    text = _END_OF_TURN.sub("", after_thinking(completion).rstrip()[-LONGEST_COMPLETION_CHARS:]).strip()
    if not text:
        raise UnreadableError(Reason.NO_ANSWER)
    found = _tagged_or_boxed(text) or Extracted(_marked(text) or _last_line(text))
    if len(found.text) > LONGEST_ANSWER_CHARS:
        raise UnreadableError(Reason.TOO_LONG)
    if not found.text.strip():
        raise UnreadableError(Reason.EMPTY_ANSWER)
    return found


def after_thinking(completion: str) -> str:
    """What follows the last `</think>`; a thought that never ends holds no answer."""
    lowered = completion.lower() if completion.isascii() else completion
    start = 0
    for tag in ("</think>", "</thinking>"):
        if (found := lowered.rfind(tag)) >= 0:
            start = max(start, found + len(tag))
    if lowered.find("<think>", start) >= 0 or lowered.find("<thinking>", start) >= 0:
        raise UnreadableError(Reason.UNFINISHED_THINKING)
    return completion[start:]


def box_of(text: str) -> str | None:
    """What stands in the last box, None without a box.

    Raises:
        UnreadableError: the last box is not closed.
    """
    found = _last_box(text)
    return None if found is None else text[found[1] : found[2]]


def _tagged_or_boxed(text: str) -> Extracted | None:
    box = _last_box(text)
    tag = text.rfind("<answer>")
    if tag >= 0 and (box is None or tag > box[0]):
        end = text.find("</answer>", tag)
        if end < 0:
            raise UnreadableError(Reason.UNCLOSED)
        if _RETRACTION.search(text, end, end + _TAIL_CHARS):
            raise UnreadableError(Reason.RETRACTED)
        inside = text[tag + len("<answer>") : end].strip()
        return Extracted(_marked(inside) or inside)
    if box is None:
        return None
    start, inner, inner_end, end = box
    before, after = text[max(0, start - 80) : start], text[end : end + _TAIL_CHARS]
    if _NEGATION_BEFORE.search(before):
        raise UnreadableError(Reason.NEGATED)
    other = _or_before(text[:start]) if _OR_BEFORE.search(before) else None
    if _OR_AFTER.match(after):
        raise UnreadableError(Reason.SEVERAL_ANSWERS)
    if _RETRACTION.search(after):
        raise UnreadableError(Reason.RETRACTED)
    answer = text[inner:inner_end].strip()
    if answer and (sign := _SIGN_AFTER.match(after)):
        answer += sign[1]
    elif _PART_OF_MORE_BEFORE.search(before) or _PART_OF_MORE_AFTER.match(after):
        raise UnreadableError  # 2\\boxed{7} states no 7
    elif answer[-1:].isdigit() and (unit := _UNIT_AFTER.match(after)) and read_unit(name := _unit_of(unit)):
        answer += f" {name}"
    if answer and before.endswith(("-", "−")) and not before.endswith("--"):
        answer = f"-({answer})"
    said = _marked(plain(answer)) if answer.startswith("\\text") else None
    also = _marked(after.replace("</answer>", "")) if answer else None
    return Extracted(said or answer, also=other if not also or _CONFIRMED.match(also) else also)


def _or_before(text: str) -> str:
    """What stands in the box before the "or" that ends `text`: 3.5 or 7/2 may be one value in two forms."""
    box = _last_box(text)
    if box is None or not re.fullmatch(r"[\s,$.\\()\]]*or[\s$\\(\[]*", text[box[3] :]):
        raise UnreadableError(Reason.SEVERAL_ANSWERS)
    return text[box[1] : box[2]].strip()


def _unit_of(match: re.Match[str]) -> str:
    return (match[1] + match[2] if match[1] else match[3]).strip()


def _last_box(text: str) -> tuple[int, int, int, int] | None:
    """Where the last box starts, its content starts and ends, and it ends.

    Of a box inside a box it is the outer one, unless that holds nothing else.
    """
    found = _box_at(text, max(text.rfind("\\boxed"), text.rfind("\\fbox")))
    if found is None:
        return None
    before = max(text.rfind("\\boxed", 0, found[0]), text.rfind("\\fbox", 0, found[0]))
    try:
        outer = _box_at(text, before)
    except UnreadableError:
        return found
    if outer is None or outer[3] < found[3] or text[outer[1] : outer[2]].strip() == text[found[0] : found[3]]:
        return found
    return outer


def _box_at(text: str, start: int) -> tuple[int, int, int, int] | None:
    if start < 0 or not (match := _BOX.match(text, start)):
        return None
    inner = match.end()
    while inner < len(text) and text[inner] in " \t\n":
        inner += 1
    if not text.startswith("{", inner):
        if not (bare := _UNBRACED.match(text, inner)):
            raise UnreadableError(Reason.UNCLOSED)
        return start, bare.start(1), bare.end(1), bare.end(1)
    end = _closing_brace(text, inner)
    return start, inner + 1, end, end + 1


def _closing_brace(text: str, start: int) -> int:
    depth, index = 0, start
    while index < len(text):
        character = text[index]
        if character == "\\":
            index += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return index
        index += 1
    raise UnreadableError(Reason.UNCLOSED)


def _marked(text: str) -> str | None:
    """What follows the last "the answer is"; it must end the text."""
    tail = text[-_TAIL_CHARS:]
    matches = list(_MARKER.finditer(tail))
    if not matches:
        return None
    last = matches[-1]
    clause = re.split(r"[.!?;\n]", tail[max(0, last.start() - 200) : last.start()])[-1]
    if last[0] != "####" and _NEGATION_IN_CLAUSE.search(clause):
        raise UnreadableError(Reason.NEGATED)
    rest = _one_line(_HOPE.sub("", tail[last.end() :].strip()).removeprefix(":").strip())
    if rest.startswith("}"):  # the end of \\text{the answer is}
        rest = rest[1:].strip()
    return rest if rest.count("**") % 2 == 0 else rest.replace("**", "").strip()


def _last_line(text: str) -> str:
    if "\\begin" in text:
        return text
    text = _FENCED.sub(r"\1", text)
    lines = [line for line in _one_line_displays(text).splitlines() if line.strip()]
    introduced = len(lines) > 1 and (
        ANSWER_ABBREVIATED.match(lines[-1].strip()) or _HEADING.fullmatch(lines[-2][:100])
    )
    if len(lines) > 1 and not introduced and len(re.findall(r"[^\W\d_]{2,}", lines[-2][:1_000])) < 3:
        # a bare list of lines, and not working with an answer below it
        raise UnreadableError(Reason.SEVERAL_ANSWERS)
    last = lines[-1].strip()
    if len(last) <= LONGEST_ANSWER_CHARS and (match := _ANSWER_FIRST.search(last)):
        last = last[: match.start()]
    return (
        last[match.end() :] if len(last) <= LONGEST_ANSWER_CHARS and (match := _LEAD_IN.match(last)) else last
    )


def _one_line(text: str) -> str:
    if "\\begin" in text:
        return text
    lines = [line for line in _one_line_displays(text).splitlines() if line.strip()]
    if len(lines) > 1:
        raise UnreadableError(Reason.SEVERAL_ANSWERS)
    return lines[0].strip() if lines else ""


def _one_line_displays(text: str) -> str:
    """Formulas on lines of their own, brought back to one line."""
    if len(text) > _TAIL_CHARS:
        return text
    return _DISPLAY.sub(lambda match: "$" + " ".join((match[1] or match[2] or "").split()) + "$", text)
