"""Make next-line questions from source text: a real context, the line after it, and three other real lines.

In: (module name, source text) of modules that no training has seen. Out: questions, the same for the same
sources and seed. All four choices have the same indentation and nearly the same length. The right one stands
at each of the four positions equally often, and is the shortest, second, third or longest equally often, so
that neither place nor form gives it away.
"""

from __future__ import annotations

import ast
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest

from niwaki.errors import DataError

NUM_CHOICES = 4
NUM_CONTEXT_LINES = 16
MAX_CONTEXT_CHARACTERS = 900
MIN_CHOICE_CHARACTERS, MAX_CHOICE_CHARACTERS = 14, 90


@dataclass(frozen=True)
class Question:
    """`choices[answer]` is the line that follows `context`; the context has no newline at its end."""

    id: str
    module: str
    context: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class _Line:
    """A line of code that may be a choice: its module, its number (from 0) and its text with indentation."""

    module: str
    number: int
    text: str

    @property
    def indentation(self) -> int:
        return len(self.text) - len(self.text.lstrip())


def build_questions(
    documents: Iterable[tuple[str, str]], *, num_questions: int = 400, seed: int = 0
) -> list[Question]:
    """Draw `num_questions` questions, taking the modules in turn so that none dominates.

    Raises:
        DataError: the documents do not hold that many questions.
    """
    generator = random.Random(seed)
    sources = {module: text.split("\n") for module, text in sorted(documents)}
    pool = {module: _code_lines(module, lines) for module, lines in sources.items()}
    by_indentation: dict[int, list[_Line]] = defaultdict(list)
    for lines in pool.values():
        for line in lines:
            by_indentation[line.indentation].append(line)
    # Where the answer stands, and how many of the other choices are shorter: each value equally often.
    answers = _balanced(num_questions, generator)
    num_shorter = _balanced(num_questions, generator)

    questions: list[Question] = []
    used: set[str] = set()
    for gold in _in_turn(pool, generator):
        if len(questions) == num_questions:
            break
        context = _context(sources[gold.module], gold)
        if context is None or gold.text.strip() in used:
            continue
        turn = len(questions)
        candidates = by_indentation[gold.indentation]
        distractors = _distractors(gold, context, candidates, num_shorter[turn], generator)
        if distractors is None:
            continue
        answer = answers[turn]
        choices = (*distractors[:answer], gold.text, *distractors[answer:])
        used.add(gold.text.strip())
        identity = f"{gold.module}:{gold.number + 1}"
        questions.append(Question(identity, gold.module, context, choices, answer))
    if len(questions) < num_questions:
        raise DataError(
            f"{len(sources)} documents hold {len(questions)} questions; {num_questions} were asked for.",
            "Give more source text, or ask for fewer questions.",
        )
    return questions


def _balanced(count: int, generator: random.Random) -> list[int]:
    """`count` positions of a choice in random order, each equally often."""
    positions = [index % NUM_CHOICES for index in range(count)]
    generator.shuffle(positions)
    return positions


def _code_lines(module: str, lines: list[str]) -> list[_Line]:
    """The lines that a person would call code: no blank, comment, bracket, prose in a string, or repeat."""
    prose = _multi_line_strings(module, lines)
    found, seen = [], set()
    for number, line in enumerate(lines):
        text, stripped = line.rstrip(), line.strip()
        long_enough = MIN_CHOICE_CHARACTERS <= len(stripped) <= MAX_CHOICE_CHARACTERS
        wordy = sum(character.isalpha() for character in stripped) >= MIN_CHOICE_CHARACTERS // 2
        if long_enough and wordy and text.isascii() and stripped[0] != "#":
            if number not in prose and stripped not in seen:
                found.append(_Line(module, number, text))
            seen.add(stripped)
    return found


def _multi_line_strings(module: str, lines: list[str]) -> set[int]:
    """Numbers (from 0) of the lines that a string of several lines covers."""
    try:
        nodes = list(ast.walk(ast.parse("\n".join(lines))))
    except SyntaxError as error:
        raise DataError(f"{module} does not parse as Python: {error}.", "Leave this module out.") from error
    covered: set[int] = set()
    for node in nodes:
        if isinstance(node, ast.JoinedStr | ast.Constant) and node.end_lineno not in (None, node.lineno):
            covered.update(range(node.lineno - 1, node.end_lineno))
    return covered


def _in_turn(pool: dict[str, list[_Line]], generator: random.Random) -> Iterable[_Line]:
    """Every line once: a random one of each module, then another of each, and so on."""
    shuffled = [generator.sample(lines, len(lines)) for lines in pool.values()]
    for turn in zip_longest(*shuffled):
        yield from (line for line in turn if line is not None)


def _context(lines: list[str], gold: _Line) -> str | None:
    """The text before `gold` with `NUM_CONTEXT_LINES` lines that are not blank, or None if unsuitable.

    Unsuitable: too little text, a blank line just before the answer, text outside ASCII (lm-eval's acc_norm
    divides by characters; in ASCII these are bytes), too long, or the answer already in it.
    """
    first, num_lines = gold.number, 0
    while first > 0 and num_lines < NUM_CONTEXT_LINES:
        first -= 1
        num_lines += bool(lines[first].strip())
    before = [line.rstrip() for line in lines[first : gold.number]]
    context = "\n".join(before)
    suitable = (
        num_lines == NUM_CONTEXT_LINES
        and before[-1] != ""
        and context.isascii()
        and len(context) <= MAX_CONTEXT_CHARACTERS
        and gold.text.strip() not in context
    )
    return context if suitable else None


def _distractors(
    gold: _Line, context: str, candidates: list[_Line], num_shorter: int, generator: random.Random
) -> list[str] | None:
    """Three lines absent from the context, `num_shorter` shorter than `gold` and the others longer.

    All are as long as `gold` to within a tenth (at least 3 characters). None if there are too few.
    """
    slack = max(3, len(gold.text.strip()) // 10)
    fitting = {line.text for line in candidates if line.text.strip() not in context}
    shorter = sorted(text for text in fitting if 0 < len(gold.text) - len(text) <= slack)
    longer = sorted(text for text in fitting if 0 < len(text) - len(gold.text) <= slack)
    num_longer = NUM_CHOICES - 1 - num_shorter
    if len(shorter) < num_shorter or len(longer) < num_longer:
        return None
    distractors = generator.sample(shorter, num_shorter) + generator.sample(longer, num_longer)
    return generator.sample(distractors, len(distractors))
