"""Letters of words. Difficulty: more words."""

from __future__ import annotations

import random
import string

from niwaki.curation.tasks.task import Draft, number, words
from niwaki.curation.tasks.vocabulary import WORDS


def reverse(rng: random.Random, difficulty: int) -> Draft:
    """A string of `difficulty` + 2 letters backwards."""
    text = "".join(rng.choices(string.ascii_lowercase, k=difficulty + 2))
    gold = text[::-1]
    wrong = [gold[1:] + gold[0], gold[-1] + gold[:-1], text, gold[0] + gold[:0:-1], "".join(sorted(text))]
    return words(f"Write the letters of {text} in reverse order.", gold, wrong)


def middle(rng: random.Random, difficulty: int) -> Draft:
    """Three letters in a row of `difficulty` words written together."""
    text = "".join(rng.sample([word for word in WORDS if len(word) > 3], difficulty))
    runs = [text[place : place + 3] for place in range(len(text) - 2)]
    place = rng.randrange(len(runs))
    gold = runs[place]
    wrong = [*runs[max(place - 1, 0) : place + 2], gold[::-1], *rng.sample(runs, min(len(runs), 3))]
    return words(f"What are letters {place + 1} to {place + 3} of {text}?", gold, wrong)


def count_letter(rng: random.Random, difficulty: int) -> Draft:
    """How often a letter is in `difficulty` words."""
    chosen = rng.sample(WORDS, difficulty)
    letter = rng.choice("".join(chosen))
    gold = sum(word.count(letter) for word in chosen)
    wrong = [gold + 1, gold + 2, max(gold - 1, 0), gold + 3]
    return number(f"How many times is the letter {letter} in: {' '.join(chosen)}?", gold, wrong)


def length(rng: random.Random, difficulty: int) -> Draft:
    """The number of letters of `difficulty` + 1 words together."""
    chosen = rng.sample(WORDS, difficulty + 1)
    gold = sum(map(len, chosen))
    return number(
        f"How many letters are in: {' '.join(chosen)}?", gold, [gold + 1, gold - 1, gold + 2, gold - 2]
    )


def same_letters(rng: random.Random, difficulty: int) -> Draft:
    """Whether two strings of `difficulty` + 2 letters are anagrams."""
    letters = rng.choices(string.ascii_lowercase, k=difficulty + 2)
    other = rng.sample(letters, len(letters))
    yes = rng.random() < 0.5
    if not yes:
        place = rng.randrange(len(other))
        other[place] = rng.choice([one for one in string.ascii_lowercase if one != other[place]])
    asked = f"Can the letters of {''.join(letters)} be rearranged to {''.join(other)}? Answer yes or no."
    return words(asked, "yes" if yes else "no", ["no" if yes else "yes"])
