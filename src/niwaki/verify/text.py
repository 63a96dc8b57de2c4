"""Short text: equal after case, articles, accents, hyphens, number words, months and closing punctuation.

Nothing is fuzzy: no distance, no containment. Negations, antonyms, anagrams, plurals and longer sentences
differ.
"""

from __future__ import annotations

import re
import unicodedata

from niwaki.verify.notation import plain

_UNITS_TABLE = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen
"""
_UNITS = _UNITS_TABLE.split()
_TENS = {
    word: 10 * (index + 2)
    for index, word in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    )
}
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_ORDINALS = {
    word: f"{index + 1}{suffix}"
    for index, (word, suffix) in enumerate(
        [("first", "st"), ("second", "nd"), ("third", "rd")]
        + [(word, "th") for word in ["fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]]
        + [(word, "th") for word in ["eleventh", "twelfth", *(f"{word}th" for word in _UNITS[13:])]]
    )
} | {"twentieth": "20th", "thirtieth": "30th"}
_FRACTIONS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4}
_FRACTIONS |= {"fourths": 4, "fifth": 5, "fifths": 5}
_MONTHS_TABLE = """
    january february march april may june july august september october november december
"""
_MONTHS = _MONTHS_TABLE.split()
_MONTH_OF = (
    {month[:3]: month for month in _MONTHS} | {"sept": "september"} | {month: month for month in _MONTHS}
)
_ELEMENTS_TABLE = """
    H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr
    Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W
    Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu
"""
_ELEMENTS = frozenset(_ELEMENTS_TABLE.split())
_WRAPPED = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|ce|emph|operatorname)\s*\{([^{}]*)\}"
)
_FORMULA = re.compile(r"(?:[A-Z][a-z]?\d*)+")
_ACRONYM = re.compile(r"(?<![a-z.])(?:[a-z]\.)+[a-z](?![a-z])\.?")
_BOOLEANS = frozenset({"yes", "no", "true", "false"})


def same_text(answer: str, gold: str) -> bool:
    """Whether two short texts are the same by the rules above. An empty text is the same as none."""
    first, second = normal(answer), normal(gold)
    return bool(first) and first == second and not _other_molecule(answer, gold)


def normal(text: str) -> str:
    """The normal form in which two texts are compared."""
    text = plain(text)
    for _ in range(4):
        text = _WRAPPED.sub(r"\1", text)
    text = (
        text.replace("\\ ", " ").replace("\\&", "&").replace("\\%", "%").replace("\\$", "$").replace("~", " ")
    )
    text = re.sub(r"_\{?(\d+)\}?", r"\1", plain(text)).casefold()
    if not text.isascii():
        text = "".join(map(_without_accent, unicodedata.normalize("NFC", text)))
    text = text.replace("&", " and ")
    text = re.sub(r"(?<=[^\W\d_])[-‐‑–](?=[^\W\d_])", " ", text)
    text = _ACRONYM.sub(lambda match: match[0].replace(".", ""), text)
    text = re.sub(r"(?<=\d)\s*([ap])\.?m\b\.?", r" \1m", text)
    text = re.sub(r"[\s,;:.!\"]+(?=\s|\Z)|\A[\s\"]+", "", text)
    text = re.sub(r"(\d),(?=\d{3}(?!\d))", r"\1", text)
    text = re.sub(r"(?<=\d)\s*[-‐‑–—−]\s*(?=\d)", "-", text)
    words = text.split()
    while len(words) > 1 and words[0] in {"the", "a", "an"}:
        words = words[1:]
    return " ".join(_dated(_numbered(words)))


def number_of_words(text: str) -> int | None:
    """The number that words such as "twenty-five" or "three hundred" spell, None when they spell none."""
    words = text.casefold().replace("-", " ").split()
    total = current = 0
    last = "start"
    for place, word in enumerate(words if 0 < len(words) <= 8 else ["-"]):
        if word == "and" and last == "scale" and place + 1 < len(words):
            continue
        if word in _UNITS and last in {"start", "scale", *(("tens",) if 0 < _UNITS.index(word) < 10 else ())}:
            current, last = current + _UNITS.index(word), "unit"
        elif word in _TENS and last in {"start", "scale"}:
            current, last = current + _TENS[word], "tens"
        elif word == "hundred" and last == "unit" and 0 < current < 10:
            current, last = current * 100, "scale"
        elif word in _SCALES and word != "hundred" and last in {"unit", "tens", "scale"} and current:
            if total and total < _SCALES[word] * 1_000:
                return None
            total, current, last = total + current * _SCALES[word], 0, "scale"
        else:
            return None
    return total + current


def digits_for_words(text: str) -> str:
    """`text` with a number in words at its start in digits: "minus five dollars" is "-5 dollars"."""
    words = text.split()
    if len(words) == 1 and words[0].casefold().rpartition("-")[2] in _FRACTIONS:
        words = words[0].split("-")
    sign = "-" if len(words) > 1 and words[0].casefold() in {"minus", "negative"} else ""
    words = words[1:] if sign else words
    if [word.casefold() for word in words] == ["half"]:
        return f"{sign}1/2"
    if len(words) == 2 and words[1].casefold() in _FRACTIONS:
        above = number_of_words({"a": "one"}.get(words[0].casefold(), words[0]))
        if above is not None and above < 20:  # twenty-fifth is no 20/5
            return f"{sign}{above}/{_FRACTIONS[words[1].casefold()]}"
    for end in range(min(len(words), 8), 0, -1):
        if words[0][:1].isalpha() and (number := number_of_words(" ".join(words[:end]))) is not None:
            return " ".join([f"{sign}{number}", *words[end:]])
    return sign + " ".join(words) if sign else text


def is_molecule(text: str) -> bool:
    """Whether `text` is a chemical formula of several elements with a subscript, such as CO_2."""
    bare = re.sub(r"[{}\s$]", "", text)
    parts = re.findall(r"[A-Z][a-z]?", bare)
    return bool(
        re.fullmatch(r"(?:[A-Z][a-z]?(?:_\d+)?)+", bare)
        and "_" in bare
        and len(parts) > 1
        and set(parts) <= _ELEMENTS
    )


def _numbered(words: list[str]) -> list[str]:
    whole = number_of_words(" ".join(words)) if words else None
    if whole is not None:
        return [str(whole)]
    words = [_ORDINALS.get(word, word) for word in words]
    return [str(_UNITS.index(word)) if word in _UNITS else word for word in words]


def _dated(words: list[str]) -> list[str]:
    """Months in full; "5 January 2020" and "January 5th, 2020" in one order."""
    if len(words) > 3 or not any(word.rstrip(".") in _MONTH_OF for word in words):
        return words
    words = [_MONTH_OF.get(word.rstrip("."), word) for word in words]
    if len(words) == 1:
        return words
    day = [word for word in words if re.fullmatch(r"\d{1,2}(?:st|nd|rd|th)?", word)]
    month = [word for word in words if word in _MONTHS]
    year = [word for word in words if re.fullmatch(r"\d{4}", word)]
    if (
        len(month) == 1
        and len(day) <= 1
        and len(year) <= 1
        and len(day) + len(month) + len(year) == len(words)
    ):
        return [*month, *(re.sub(r"\D", "", one).lstrip("0") for one in day), *year]
    return words


def _without_accent(character: str) -> str:
    base = unicodedata.normalize("NFD", character)[0]
    return base if base.isascii() and base.isalpha() else character


def _other_molecule(answer: str, gold: str) -> bool:
    """Co is cobalt and CO carbon monoxide: chemical formulas that differ by case differ."""
    first, second = (re.sub(r"[_{}\s$.]|\\[a-z]+", "", plain(text)) for text in (answer, gold))
    if (
        first == second
        or first.casefold() in _BOOLEANS
        or not (_FORMULA.fullmatch(first) and _FORMULA.fullmatch(second))
    ):
        return False
    parts = [re.findall(r"[A-Z][a-z]?", text) for text in (first, second)]
    return parts[0] != parts[1] and all(one in _ELEMENTS for part in parts for one in part)
