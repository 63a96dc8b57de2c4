"""Preferences and ratings without a download: answers whose quality is known, because we made it.

A prompt asks for a function of the standard library. Its answers are the function itself, damaged in measured
ways: statements dropped, names replaced, neighbouring statements exchanged, comments stripped, filler added.
Each damage is an attribute from 0 to 1, so the true worth of an answer is known:

    worth = sum of weight x attribute, with the weights of the prompt's domain

There are two domains, told apart by a sentence of the prompt: "plain" prompts want the code, "explained"
ones want comments as well. Length is the nuisance, and it is confounded on purpose: the raters like long
answers (`RATER_BIAS` per standard deviation of length, on every attribute), and the pairs' annotators do
too. The truth knows nothing of length.
"""

from __future__ import annotations

import ast
import io
import json
import keyword
import math
import random
import re
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from niwaki.ground.text import stdlib_documents
from niwaki.reward.records import Pair, Rating, prompt_key, side_of

ATTRIBUTES = ("correctness", "naming", "order", "comments")
WEIGHTS = {
    "plain": {"correctness": 0.55, "naming": 0.25, "order": 0.20, "comments": 0.0},
    "explained": {"correctness": 0.30, "naming": 0.10, "order": 0.10, "comments": 0.50},
}
ASKS = {
    "plain": "Only the code, without comments.",
    "explained": "Explain it with a docstring and comments.",
}
RATER_BIAS = 0.5  # rating points (0 to 4) per standard deviation of log length
RATER_NOISE = 0.4
SMALLEST_GAP = 0.02
STRENGTH_STEP = 0.6
FILLERS = (
    "pass",
    "assert True, 'always'",
    "unused = None",
    "if False:\n    pass",
    "str(0) + str(1)",
    "len(()) + 0",
)
LENGTHS = (1.0, 1.0, 1.25, 1.5, 1.9)  # of the undamaged function


@dataclass(frozen=True)
class Function:
    """A function of the standard library: how it is asked for, and its source."""

    ask: str
    source: str


@dataclass(frozen=True)
class Answer:
    """One damaged answer, what was done to it, and what that makes it worth."""

    text: str
    attributes: dict[str, float]
    num_fillers: int
    worth: float


@lru_cache(maxsize=3)
def functions(split: str) -> tuple[Function, ...]:
    """Functions with a docstring, of 5 to 12 lines; a quarter of them, by hash, are "test", "all" are all."""
    return tuple(
        f
        for f in _functions()
        if split == "all"
        or (side_of(prompt_key(prompt_of(f, "plain")), test=0.25, validation=0.0) == "test")
        == (split == "test")
    )


@lru_cache(maxsize=1)
def _functions() -> tuple[Function, ...]:
    found = []
    for document in stdlib_documents():
        try:
            tree = ast.parse(document.text)
        except SyntaxError:
            continue
        lines = document.text.splitlines()
        for node in ast.walk(tree):
            if (
                not isinstance(node, ast.FunctionDef)
                or ast.get_docstring(node) is None
                or node.decorator_list
            ):
                continue
            body = lines[node.lineno - 1 : node.end_lineno]
            indent = len(body[0]) - len(body[0].lstrip())
            source = "\n".join(line[indent:] for line in body)
            if not 5 <= len(body) <= 12 or not 100 <= len(source) <= 300 or len(node.body) < 2:
                continue
            about = (ast.get_docstring(node) or "").strip().splitlines()[0][:80]
            found.append(Function(f"Write {node.name}({ast.unparse(node.args)}): {about}", source))
    return tuple(dict.fromkeys(found))


def damaged(function: Function, domain: str, rng: random.Random) -> Answer:
    """One answer: each damage drawn on its own, so that no attribute tells another."""
    rows = function.source.splitlines()
    head, body = rows[:1], rows[1:]
    share = {name: rng.choice((0.0, 0.0, 0.2, 0.4, 0.7)) for name in ("drop", "rename", "swap")}
    strip = rng.random() < 0.5
    body, comments = _without_comments(head, body) if strip else (body, 1.0)
    dropped = [i for i in range(len(body)) if rng.random() < share["drop"]]
    kept = [row for i, row in enumerate(body) if i not in dropped] or body[:1]
    correctness = len(kept) / max(1, len(body))
    num_swaps = 0
    for i in range(len(kept) - 1):
        if rng.random() < share["swap"]:
            kept[i], kept[i + 1] = kept[i + 1], kept[i]
            num_swaps += 1
    text, naming = _renamed(head + kept, share["rename"], rng)
    # Filled up to a length that is drawn apart from the damage, so that length tells nothing about worth.
    wanted = rng.choice(LENGTHS) * len(function.source)
    num_fillers = 0
    while sum(len(row) + 1 for row in text) < wanted:
        place = rng.randrange(1, len(text) + 1)
        before = text[place - 1]
        indent = before[: len(before) - len(before.lstrip())] or "    "
        text.insert(place, "\n".join(indent + line for line in rng.choice(FILLERS).splitlines()))
        num_fillers += 1
    attributes = {
        "correctness": correctness,
        "naming": naming,
        "order": 1 - num_swaps / max(1, len(kept) - 1),
        "comments": comments,
    }
    worth = sum(WEIGHTS[domain][name] * attributes[name] for name in ATTRIBUTES)
    return Answer("\n".join(text), attributes, num_fillers, worth)


def prompt_of(function: Function, domain: str) -> tuple[dict[str, str], ...]:
    """The prompt as messages."""
    return ({"role": "user", "content": f"{function.ask}\n{ASKS[domain]}"},)


@dataclass(frozen=True)
class Couple:
    """Two answers to one prompt."""

    row: str
    domain: str
    prompt: tuple[dict[str, str], ...]
    answers: tuple[Answer, Answer]


@dataclass(frozen=True)
class Bench:
    """Matched data, as HelpSteer2 has them: the answers of each pair are rated too.

    Attributes:
        couples: of each pair, the index of its couple and that of the chosen answer in it.
        worth: true worths of the (chosen, rejected) answers; where the second is the larger, the annotators
            were misled.
    """

    pairs: list[Pair]
    ratings: list[Rating]
    couples: list[tuple[int, int]]
    worth: list[tuple[float, float]]


def draw(num_couples: int, *, split: str, seed: int) -> list[Couple]:
    """Pairs of damaged answers whose true worths differ."""
    rng = random.Random(f"{split} {seed}")
    pool = list(functions(split))
    rng.shuffle(pool)
    found: list[Couple] = []
    number = 0
    while len(found) < num_couples:
        function, domain = pool[number % len(pool)], rng.choice(sorted(WEIGHTS))
        number += 1
        two = damaged(function, domain, rng), damaged(function, domain, rng)
        if abs(two[0].worth - two[1].worth) >= SMALLEST_GAP:
            found.append(Couple(f"{split}-{seed}-{number}", domain, prompt_of(function, domain), two))
    return found


def annotate(
    couples: Sequence[Couple], *, seed: int, bias: float = RATER_BIAS, noise: float = RATER_NOISE
) -> Bench:
    """Rate both answers and prefer the one that is rated more helpful; `bias` and `noise` 0 give the truth.

    The strength is the difference of the two ratings in steps of 0.6, at most 3. Couples without a
    difference are left out.
    """
    rng = random.Random(f"raters {seed}")
    bench = Bench([], [], [], [])
    for number, couple in enumerate(couples):
        rated = [rate(answer, bias, noise, rng) for answer in couple.answers]
        gap = rated[0]["helpfulness"] - rated[1]["helpfulness"]
        strength = min(3, math.floor(abs(gap) / STRENGTH_STEP + 0.5))
        if not bias and not noise:
            gap, strength = couple.answers[0].worth - couple.answers[1].worth, 1
        for i in (0, 1):
            answer = couple.answers[i].text
            bench.ratings.append(Rating(f"{couple.row}-{i}", couple.prompt, answer, rated[i], couple.domain))
        if strength == 0:
            continue
        best = 0 if gap > 0 else 1
        two = couple.answers[best], couple.answers[1 - best]
        bench.pairs.append(
            Pair(couple.row, couple.prompt, two[0].text, two[1].text, float(strength), 1.0, couple.domain)
        )
        bench.couples.append((number, best))
        bench.worth.append((two[0].worth, two[1].worth))
    return bench


def write(folder: Path, *, num_pairs: int, seed: int) -> tuple[Path, Path]:
    """Files of pairs and of ratings, in the forms that recipes read.

    The functions are all there are: recipes split by prompt themselves, by the hash that "train" and "test"
    are told by, so that of one split alone no plain prompt would be on the test side.
    """
    bench = annotate(draw(num_pairs, split="all", seed=seed), seed=seed)
    pairs, ratings = folder / "stdlib-pairs.jsonl", folder / "stdlib-ratings.jsonl"
    with pairs.open("w", encoding="utf-8") as file:
        for pair in bench.pairs:
            row = {"prompt": list(pair.prompt), "chosen": pair.chosen, "rejected": pair.rejected}
            file.write(json.dumps(row | {"strength": pair.strength, "domain": pair.source}) + "\n")
    with ratings.open("w", encoding="utf-8") as file:
        for rating in bench.ratings:
            messages = [*rating.prompt, {"role": "assistant", "content": rating.answer}]
            file.write(json.dumps({"messages": messages, **rating.ratings}) + "\n")
    return pairs, ratings


def rate(answer: Answer, bias: float, noise: float, rng: random.Random) -> dict[str, float]:
    """Ratings from 0 to 4 by a rater who likes length; helpfulness is the worth, rated the same way."""
    size = (math.log(len(answer.text)) - 5.65) / 0.31
    rated: dict[str, Any] = {
        name: _clip(4 * value + bias * size + rng.gauss(0, noise))
        for name, value in {**answer.attributes, "helpfulness": answer.worth}.items()
    }
    rated["verbosity"] = _clip(2 + size + rng.gauss(0, noise))
    return rated


def _clip(value: float) -> float:
    return round(min(4.0, max(0.0, value)), 2)


def _without_comments(head: list[str], body: list[str]) -> tuple[list[str], float]:
    """The body without docstring and comments, and the share of them that is left (none)."""
    source = "\n".join(head + body)
    try:
        tree = ast.parse(source)
        function: Any = tree.body[0]
        first = function.body[0]
        gone = set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
        rows = source.splitlines()
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                line = token.start[0]
                rows[line - 1] = rows[line - 1][: token.start[1]].rstrip()
        left = [row for i, row in enumerate(rows, 1) if i not in gone and row.strip()]
        return left[1:] or ["    pass"], 0.0
    except (SyntaxError, tokenize.TokenError, AttributeError):
        return body, 1.0


def _renamed(rows: list[str], share: float, rng: random.Random) -> tuple[list[str], float]:
    """Some of the local names replaced by ones that say nothing; and the share of uses that kept theirs."""
    text = "\n".join(rows)
    names = sorted({n for n in re.findall(r"\b[a-z_][a-z_0-9]{2,}\b", text) if n not in _KEYWORDS})
    wrong = {n: f"x{i}" for i, n in enumerate(names) if rng.random() < share}
    uses = re.findall(r"\b[a-z_][a-z_0-9]{2,}\b", text)
    uses = [u for u in uses if u not in _KEYWORDS]
    if wrong:
        text = re.sub(r"\b(" + "|".join(map(re.escape, wrong)) + r")\b", lambda m: wrong[m[1]], text)
    kept = sum(u not in wrong for u in uses) / max(1, len(uses))
    return text.splitlines(), kept


_KEYWORDS = frozenset(keyword.kwlist) | {"self", "cls", "str", "int", "len", "the", "and"}
