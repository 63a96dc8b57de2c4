"""One spelling for many: wrappers taken off, Unicode signs and LaTeX variants written one way.

`plain` takes off what never changes a meaning (dollars around a formula, bold, quotes, a closing full stop)
and serves every type. `maths` also rewrites signs and layout commands for the formula reader. Both are
linear in the length of the text, up to a few rounds of unwrapping.
"""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = dict.fromkeys([0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, 0x00AD], None)
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "′": "'", "`": "`"})
_PAIRS = [
    ("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("__", "__"), ("*", "*"),
    ("_", "_"),
    ("```", "```"), ("`", "`"), ('"', '"'), ("'", "'"), ("<b>", "</b>"), ("<i>", "</i>"), ("<em>", "</em>"),
    ("<strong>", "</strong>"),
]  # fmt: skip
_FIRSTS = frozenset(left[0] for left, _ in _PAIRS)
_TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|texttt|textsf|mathrm|mathbf|mathit|mathsf|mathtt|operatorname|mbox|hbox"
    r"|boldsymbol|bm|ce|emph|underline)\*?\s*\{"
)
_MIXED_UP_SPACE = re.compile(
    r"\\(?:[,;:! ]|quad\b|qquad\b|displaystyle\b|textstyle\b|limits\b|hspace\s*\{[^{}]*\}"
    r"|(?:text)?color\s*\{[^{}]*\}|(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|bf|rm|it)(?![A-Za-z]))|~"
)

_SIGNS = {
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*", "÷": "/",
    "⁄": "/", "∕": "/", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "∛": r"\cbrt ", "≤": r"\le ",
    "⩽": r"\le ",
    "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ",
    "∓": r"\mp ", "∅": r"\emptyset ", "∶": ":",
    "ℝ": r"\mathbb{R}", "∖": r"\setminus ", "∨": r"\lor ", "∧": r"\land ",
    "≈": r"\approx ", "≡": r"\equiv ", "⟨": r"\langle ", "⟩": r"\rangle ", "∫": r"\int ", "∑": r"\sum ",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "θ": r"\theta ", "λ": r"\lambda ",
    "σ": r"\sigma ", "φ": r"\phi ", "ω": r"\omega ", "ρ": r"\rho ", "τ": r"\tau ", "ε": r"\epsilon ",
}  # fmt: skip
_COMMANDS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "leq": "le",
    "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "lt": "<", "gt": ">",
    "varnothing": "emptyset",
    "wedge": "land", "vee": "lor", "to": "to", "lvert": "|", "rvert": "|", "vert": "|", "mid": "|",
    "ast": "*",
    "div": "/", "bigcup": "cup", "R": "mathbb{R}", "Reals": "mathbb{R}", "colon": ":",
    "backslash": "setminus",
    "varphi": "phi", "varepsilon": "epsilon", "degree": "°", "lbrace": "{", "rbrace": "}", "ge": "ge",
    "lbrack": "[",
    "rbrack": "]", "arcsin": "arcsin", "euro": "€", "pounds": "£", "textdollar": "$", "infin": "infty",
}  # fmt: skip
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_LAYOUT = re.compile(
    r"\\(?:left|right|bigl|bigr|Bigl|Bigr|biggl|biggr|big|Big|bigg|Bigg)(?![A-Za-z])\s*\.?(?=[^A-Za-z]|\Z)"
)
_MICRO = re.compile(r"(?<=\d)( ?)\\mu\s*(?=[msgLFA](?![A-Za-z]))")
_OHM = re.compile(r"(?<=\d)\s*([kM]?)\s*\\Omega\s*\Z")
_TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s?\^)")
_DOTTED = re.compile(r"(\d*\.\d*)\\(?:dot\s*\{?\s*(\d)\s*\}?|bar\s*\{?\s*(\d{1,40})\s*\}?)|(\d+\.)\((\d+)\)")
_SMALL_FRACTION = re.compile(r"(?<![\w)}])\^\{(\d+)\}[⁄∕/]_\{(\d+)\}")
_ABOUT = re.compile(r"\A\s*~\s*(?=[\d.$\\-])")
_DEGREE = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))")


def plain(text: str) -> str:
    """`text` without the wrappers that never change what it says."""
    text = _fold_unicode(text)
    previous = None
    while text != previous:
        previous = text
        text = _unwrap(text.strip())
    return text


def maths(text: str) -> str:
    """`plain(text)` in the one spelling that the formula reader knows."""
    text = _spelled(_dollars(_ABOUT.sub(r"\\approx ", _fold_unicode(text))))
    previous = None
    while text != previous:
        previous = text
        text = _unwrap(text.strip())
    return " ".join(text.split())


def _fold_unicode(text: str) -> str:
    if text.isascii():
        return text
    text = text.translate(_INVISIBLE)
    out: list[str] = []
    for character in text:
        if character in _SUPERSCRIPTS:
            out.append(f"^{{{_SUPERSCRIPTS[character]}}}")
        elif character in _SUBSCRIPTS:
            out.append(f"_{{{_SUBSCRIPTS[character]}}}")
        elif unicodedata.decomposition(character).startswith("<fraction>"):
            above, _, below = unicodedata.normalize("NFKC", character).partition("⁄")
            out.append(f"\\frac{{{above}}}{{{below}}}")
        else:
            out.append(r"\mathbb{R}" if character == "ℝ" else character)
    joined = _SMALL_FRACTION.sub(r"\\frac{\1}{\2}", "".join(out).replace("}^{", "").replace("}_{", ""))
    return unicodedata.normalize("NFKC", joined).translate(_QUOTES)


def _unwrap(text: str) -> str:
    for left, right in _PAIRS if text[:1] in _FIRSTS else ():
        if len(text) >= len(left) + len(right) and text.startswith(left) and text.endswith(right):
            inside = text[len(left) : len(text) - len(right)]
            if inside.strip() and left not in inside and right not in inside and not inside.endswith("\\"):
                return inside
    if (match := _TEXT_COMMAND.match(text)) and text.endswith("}") and _closes_at_end(text, match.end() - 1):
        return text[match.end() : -1]
    for tail in ("\\\\", "\\ ", r"\newline", "\\"):
        if text.endswith(tail) and len(text) > len(tail):
            return text[: -len(tail)]
    if len(text) > 1 and text[-1] in ".,;:" and not text.endswith(".."):
        return text[:-1]
    if len(text) > 1 and text[0] in ":=" and text[1:2] != "=":
        return text[1:]
    return text


def _closes_at_end(text: str, start: int) -> bool:
    depth = 0
    for index in range(start, len(text)):
        if text[index] in "{}" and text[index - 1] != "\\":
            depth += 1 if text[index] == "{" else -1
            if depth == 0:
                return index == len(text) - 1
    return False


def _dollars(text: str) -> str:
    """Formula marks removed; a dollar that is money becomes `\\$`."""
    text = text.replace("\\(", " ").replace("\\)", " ")
    if text.startswith("\\[") and text.endswith("\\]"):
        text = text[2:-2]
    bare = text.replace("\\$", "")
    if bare.count("$") % 2 == 0:
        return re.sub(r"(?<!\\)\$", " ", text)
    return re.sub(r"(?<!\\)\$", r"\\$", text) if bare.count("$") == 1 else text


def _spelled(text: str) -> str:
    for sign, command in _SIGNS.items():
        if sign in text:
            text = text.replace(sign, command)
    text = text.replace("\\\\", r"\newline ").replace("\\!", "").replace("{,}", ",")
    text = _DEGREE.sub("°", _LAYOUT.sub("", text))
    text = _MIXED_UP_SPACE.sub(" ", text)
    text = text.replace("\\%", "%").replace("\\lt", "<").replace("\\gt", ">")
    text = text.replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ").replace("==", "=")
    text = _DOTTED.sub(_repeating, text).replace("per cent", "percent")
    text = re.sub(r"(?<![A-Za-z\\])infinity(?![A-Za-z])", r"\\infty ", text)
    text = _without_text_commands(_COMMAND.sub(_one_name, text))
    text = _TIMES_TEN.sub(r" \\times ", text.replace("**", "^") if _is_power(text) else text)
    return _OHM.sub(r" \1Ω", _MICRO.sub(r"\1μ", text))


def _repeating(match: re.Match[str]) -> str:
    """0.1\\dot{6} and 0.(6) in the one spelling. 0.5(3) stays: it may be a product."""
    return rf"{match[1] or match[4]}\overline{{{match[2] or match[3] or match[5]}}}"


def _one_name(match: re.Match[str]) -> str:
    new = _COMMANDS.get(match[1], match[1])
    if new in {"{", "}"}:
        return "\\" + new
    return "\\" + new + " " if new[0].isalpha() else new


def _is_power(text: str) -> bool:
    return "**" in text and not text.strip().startswith("**")


def _without_text_commands(text: str) -> str:
    """`\\text{ cm}` becomes ` cm `: words are told from symbols by their length."""
    for _ in range(40):
        match = _TEXT_COMMAND.search(text.replace("\\ ", "  "))
        if match is None:
            return text
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            end += 1
        text = f"{text[: match.start()]} {text[match.end() : end - 1 if depth == 0 else end]} {text[end:]}"
    return text
