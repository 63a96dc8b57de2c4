"""Units of measure and money: many spellings, one canonical product of powers.

Units are compared, never converted: 10 m is not 10 cm, and 1000 m is not accepted for 1 km.
"""

from __future__ import annotations

import re

Unit = tuple[tuple[str, int], ...]  # ((symbol, power), ...) sorted by symbol

_PREFIXES = {
    "p": "pico", "n": "nano", "u": "micro", "m": "milli", "c": "centi", "d": "deci", "k": "kilo", "M": "mega",
    "G": "giga", "T": "tera",
}  # fmt: skip
_PREFIXED = {
    "m": "meter metre", "g": "gram gramme", "s": "second sec", "A": "ampere amp", "mol": "mole",
    "Hz": "hertz",
    "N": "newton", "Pa": "pascal", "J": "joule", "W": "watt", "C": "coulomb", "V": "volt", "F": "farad",
    "ohm": "ohm", "Wb": "weber", "T": "tesla", "H": "henry", "L": "liter litre", "eV": "electronvolt",
    "cal": "calorie", "bar": "bar", "B": "byte", "bit": "bit", "K": "kelvin", "lm": "lumen", "lx": "lux",
}  # fmt: skip
_PLAIN = {
    "in": "in inch inches", "ft": "ft foot feet", "yd": "yd yard", "mi": "mi mile", "min": "min minute mins",
    "h": "h hr hrs hour", "day": "day", "week": "week wk wks", "month": "month", "year": "year yr yrs",
    "°": "° deg degree", "°C": "°C celsius", "°F": "°F fahrenheit", "rad": "rad radian", "oz": "oz ounce",
    "lb": "lb lbs pound", "ton": "ton tonne", "acre": "acre", "ha": "ha hectare", "gal": "gal gallon",
    "qt": "quart", "pt": "pint", "cup": "cup", "USD": "USD dollar buck", "EUR": "€ EUR euro",
    "GBP": "£ GBP", "INR": "₹ INR rupee Rs", "JPY": "¥ JPY yen", "cent": "cent ¢ cents", "%": "% percent pct",
    "unit": "unit", "atm": "atm atmosphere", "hp": "horsepower", "rev": "revolution", "kn": "knot",
    "decade": "decade", "century": "century centuries", "mph": "mph", "rpm": "rpm", "dB": "dB decibel",
    "M": "molar",
}  # fmt: skip
_COMPOUND = {
    "mph": (("h", -1), ("mi", 1)), "kph": (("h", -1), ("km", 1)), "kmh": (("h", -1), ("km", 1)),
    "kmph": (("h", -1), ("km", 1)),
    "kwh": (("h", 1), ("kW", 1)),
}  # fmt: skip
_NOT_THINGS_TABLE = """
    times minus plus thousands millions billions trillions hundreds tens dozens scores halves quarters pairs
    is was has does yes perhaps always this as us thus less unless guess plus its various besides across
    versus sometimes odds evens squares cubes powers factors multiples mods roots logs digits places
    decimals negatives positives opposites reciprocals inverses previous otherwise afterwards backwards
    upwards towards nevertheless regardless minuses pluses bases ones twos threes fours fives sixes sevens
    eights nines zeros dozens grosses fifths sixths percents
"""
_PLURALS = frozenset(["people", "children", "men", "women", "mice", "geese", "teeth", "fish", "sheep"])
_NOT_THINGS = frozenset(_NOT_THINGS_TABLE.split())
MONEY = frozenset({"USD", "EUR", "GBP", "INR", "JPY"})
# May be left out of an answer though the gold answer has them: they decorate a number whose meaning is clear.
DECORATION = MONEY | {"°", "unit", "thing"}
_MULTIPLIERS = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "k": 3}


def _names() -> tuple[dict[str, str], dict[str, str]]:
    symbols: dict[str, str] = {}
    words: dict[str, str] = {}
    for canonical, spellings in _PREFIXED.items():
        for prefix, prefix_word in [("", ""), *_PREFIXES.items()]:
            symbols[prefix + canonical] = prefix + canonical
            for word in spellings.split():
                words[prefix_word + word] = words[prefix_word + word + "s"] = prefix + canonical
    for canonical, spellings in _PLAIN.items():
        symbols[canonical] = canonical
        for word in spellings.split():
            target = words if len(word) > 2 and word.isalpha() else symbols
            target[word] = canonical
            if len(word) > 2:
                words[word.lower() + "s"] = canonical
    symbols |= {"l": "L", "ml": "mL", "dl": "dL", "cl": "cL", "µm": "um", "μm": "um", "µs": "us", "μs": "us",
                "Ω": "ohm", "kΩ": "kohm", "MΩ": "Mohm", "secs": "s", "sec": "s", "sq": "sq"}  # fmt: skip
    words |= {"hertz": "Hz", "hz": "Hz", "henries": "H", "lux": "lx", "ohms": "ohm", "metric tons": "ton"}
    return symbols, {word.lower(): canonical for word, canonical in words.items()}


_SYMBOLS, _WORDS = _names()
_FACTOR = re.compile(r"([^\W\d_]+|[°%€£¥₹¢]\s?[CF]?)\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?")
_POWER_WORDS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWER_AFTER = {"squared": 2, "cubed": 3}


def multiplier(text: str) -> int:
    """The power of ten that a word such as "million" stands for, 0 when it is no such word."""
    return _MULTIPLIERS.get(text.lower(), 0) if text != "K" else 0


def read_unit(text: str) -> Unit | None:
    """The unit that `text` names, or None when it names none.

    "m/s", "m s^{-1}" and "meters per second" are one unit. A plural noun that is no unit ("apples") is a
    thing counted.
    """
    text = text.strip().strip(".").strip()
    if not text or len(text) > 60:
        return None
    if text.lower() in _COMPOUND:
        return _COMPOUND[text.lower()]
    powers: dict[str, int] = {}
    parts = re.split(r"\s*/\s*|\s+per\s+", text.replace("\\cdot", "*").replace("(", " ").replace(")", " "))
    if len(parts) > 2:
        return None
    for sign, part in zip((1, -1), parts, strict=False):
        factors = _factors(part)
        if factors is None:
            return _thing(text)
        for symbol, power in factors:
            powers[symbol] = powers.get(symbol, 0) + sign * power
    return tuple(sorted((symbol, power) for symbol, power in powers.items() if power))


def _factors(text: str) -> list[tuple[str, int]] | None:
    found: list[tuple[str, int]] = []
    pending, position = 1, 0
    text = text.strip()
    while position < len(text):
        match = _FACTOR.match(text, position)
        if match is None:
            return None
        word = match[1].replace(" ", "")
        position = match.end()
        while position < len(text) and text[position] in " *-":
            position += 1
        if word == "Nm":  # a product that is written like a prefix
            found += [("N", 1), ("m", 1)]
        elif word.lower() in _POWER_WORDS:
            pending = _POWER_WORDS[word.lower()]
        elif word.lower() in _POWER_AFTER and found:
            found[-1] = (found[-1][0], _POWER_AFTER[word.lower()])
        else:
            canonical = _SYMBOLS.get(word) or _WORDS.get(word.lower())
            if canonical is None or canonical == "sq":
                return None
            if canonical in {"°"} and text[position:].strip().lower() in {"c", "f", "celsius", "fahrenheit"}:
                canonical, position = f"°{text[position:].strip()[0].upper()}", len(text)
            power = int(match[2] or 1) * pending
            if canonical == "ms" and power < 0:  # "ms^{-1}" is metres a second in every textbook
                found.append(("m", 1))
                canonical = "s"
            found.append((canonical, power))
            pending = 1
    return found if found and pending == 1 else None


def _thing(text: str) -> Unit | None:
    words = text.split()
    if not 1 <= len(words) <= 2 or not all(word.isascii() and word.isalpha() for word in words):
        return None
    noun = words[-1].lower()
    plural = noun.endswith("s") and not noun.endswith(("ss", "ths", "rds", "ous")) and len(noun) >= 4
    if not plural and noun not in _PLURALS:
        return None
    if any(word.lower() in _NOT_THINGS for word in words) or (
        len(words) == 2 and not _is_adjective(words[0])
    ):
        return None
    return ((f"thing:{text.lower()}", 1),)


def _is_adjective(word: str) -> bool:
    return word.lower() in {
        "red",
        "blue",
        "green",
        "white",
        "black",
        "yellow",
        "small",
        "large",
        "big",
        "total",
    }


def is_decoration(unit: Unit) -> bool:
    """Whether an answer may leave `unit` out."""
    return all(symbol in DECORATION or symbol.startswith("thing:") for symbol, _ in unit)
