"""Precision and recall of near duplicates, on copies and look-alikes planted among public questions.

    python benchmarks/curation/duplicates.py --data FOLDER --out benchmarks/curation/duplicates.json

FOLDER holds reason_gsm8k/train.jsonl and reason_math/math_train_7474.json. Of 1,000 questions of 32 words or
more one variant of each kind is made, where the text allows it. Copies: one word misspelt, one word replaced,
a sentence put in front (texts of 60 words or more). Look-alikes, with the same gold answer: a number changed,
a sign of arithmetic changed, a pair of brackets moved, "not" put in. Found means: called a copy of its own
original. Besides, every question of the sets that is called a near copy of another one is counted.
"""

import argparse
import random
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from figures import report, stream
from public_sets import TRAIN

from niwaki.curation.duplicates import Fingerprints, fingerprint
from niwaki.curation.words import words
from niwaki.ground.stats import wilson

SETS = ("gsm8k", "math")
NUM_ORIGINALS = 1_000
LEAST_WORDS = 32
_PLAIN_WORD = re.compile(r"(?<![\\\w])[a-z]{5,}(?![\w}])")


def _instead(text, match, new):
    return text[: match.start()] + new + text[match.end() :]


def misspelt(text, rng):
    """Two letters of one word change places."""
    match = rng.choice(list(_PLAIN_WORD.finditer(text)))
    word = match[0]
    return _instead(text, match, word[0] + word[2] + word[1] + word[3:])


def reworded(text, rng):
    """One word becomes another."""
    return _instead(text, rng.choice(list(_PLAIN_WORD.finditer(text))), "quibble")


def announced(text, rng):
    """A sentence stands in front."""
    return f"Solve the problem below. {text}" if len(words(text)) >= 60 else None


def other_number(text, rng):
    """One number is one higher."""
    match = rng.choice(list(re.finditer(r"\d+", text)) or [None])
    return match and _instead(text, match, str(int(match[0]) + 1))


def other_sign(text, rng):
    """Plus becomes minus, or minus plus."""
    match = rng.choice(list(re.finditer(r"(?<=[\w )}])[+-](?=[ \d({\\])", text)) or [None])
    return match and _instead(text, match, "-" if match[0] == "+" else "+")


def other_brackets(text, rng):
    """A closing bracket moves behind the next word or number."""
    match = rng.choice(list(re.finditer(r"\)([^()\w]{0,3})(\w+)", text)) or [None])
    return match and _instead(text, match, f"{match[1]}{match[2]})")


def negated(text, rng):
    """The word "not" is put in."""
    match = rng.choice(list(re.finditer(r"\b(?:is|are|has|have|can)\b", text)) or [None])
    return match and _instead(text, match, f"{match[0]} not")


COPIES = (misspelt, reworded, announced)
INNOCENTS = (other_number, other_sign, other_brackets, negated)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threshold", type=float, default=0.8)
    parser.add_argument("--out", type=Path, help="JSON file to write the figures to.")
    arguments = parser.parse_args()
    rng = random.Random(0)
    questions = []
    for name in SETS:
        form, path = TRAIN[name]
        questions += stream(name, form, arguments.data / path)(lambda one: None)
    long = [
        place
        for place, one in enumerate(questions)
        if len(words(one.question)) >= LEAST_WORDS and _PLAIN_WORD.search(one.question)
    ]
    num_natural, planted = len(questions), {}
    for place in rng.sample(long, NUM_ORIGINALS):
        original = questions[place]
        for plant in COPIES + INNOCENTS:
            text = plant(original.question, rng)
            if text and text != original.question:
                planted[len(questions)] = (plant.__name__, place)
                questions.append(replace(original, id=f"planted-{len(questions)}", question=text))

    prints = [fingerprint(one) for one in questions]
    with tempfile.TemporaryDirectory() as folder:
        store = Fingerprints(Path(folder))
        store.add(
            np.array([one.exact for one in prints], np.uint64),
            np.array([one.strict for one in prints], np.uint64),
            np.stack([one.signature for one in prints]),
            np.array([len(one.shingles) for one in prints]),
            np.concatenate([one.shingles for one in prints]),
        )
        found = {one.index: one for one in store.duplicates(threshold=arguments.threshold)}
        store.close()
    kinds = {plant.__name__: [0, 0] for plant in COPIES + INNOCENTS}
    for index, (kind, place) in planted.items():
        root = found[place].of if place in found else place
        kinds[kind][0] += 1
        kinds[kind][1] += index in found and found[index].of == root
    called = {way: sum(kinds[one.__name__][1] for one in many)
              for way, many in (("copies", COPIES), ("innocents", INNOCENTS))}  # fmt: skip
    num_copies = sum(kinds[one.__name__][0] for one in COPIES)
    intervals = {
        "recall": wilson(called["copies"], num_copies),
        "precision": wilson(called["copies"], called["copies"] + called["innocents"]),
    }
    natural = [one for one in found.values() if one.index < num_natural]
    figures = {
        "questions": num_natural,
        "threshold": arguments.threshold,
        "planted_and_called_copies": kinds,
        **{name: [round(one.mean, 4), round(one.low, 4), round(one.high, 4)]
           for name, one in intervals.items()},
        "exact_copies_in_the_sets": sum(one.similarity == 1 for one in natural),
        "near_copies_in_the_sets": sum(one.similarity < 1 for one in natural),
        "some_near_copies": [
            [questions[one.of].question, questions[one.index].question]
            for one in natural if one.similarity < 1
        ][:5],
    }  # fmt: skip
    report(figures, arguments.out)


if __name__ == "__main__":
    main()
