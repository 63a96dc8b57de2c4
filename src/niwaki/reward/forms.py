"""The column forms of the public preference and rating sets -> `Pair` and `Rating`.

| form | columns |
|---|---|
| pairs | chosen, rejected (text or messages), prompt unless they hold it; strength, q, margin, score_*,
elaboration if known |
| helpsteer2-preference | prompt, response_1, response_2, preference_strength, preference_elaboration,
three_most_similar_preferences |
| hh | chosen, rejected: whole dialogues with "Human:" and "Assistant:" |
| shp | history, human_ref_A, human_ref_B, labels |
| annotators | prompt, response_1, response_2, annotations: a list of strengths, one a person |
| helpsteer | prompt, response and one number a column |
| ultrafeedback | instruction, completions with annotations |
| ratings | messages, or prompt and response, and one number a column; null is missing |

Strengths run from -3 to 3, below 0 when the first answer is the better one (arXiv 2410.01257).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from niwaki.errors import DataError
from niwaki.ground.chat import Message
from niwaki.reward.records import MISSING, Pair, Rating, exchanged

Row = Mapping[str, Any]
MOST_SPREAD = 2
MOST_STRENGTH = 3
_HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
SCALES = {
    "helpsteer": dict.fromkeys(_HELPSTEER, (0.0, 4.0)),
    "ultrafeedback": {"overall_score": (1.0, 10.0)},
}
_NO_OBJECTIVE = {"messages", "prompt", "response", "source", "id"}


@dataclass(frozen=True)
class Skipped:
    """A row that is not used, and why."""

    row: str
    reason: str


def form_of(row: Row, name: str) -> str:
    """The form that a row's columns say it has. Raises DataError naming the columns when none fits."""
    columns = set(row)
    for form, needed in _SIGNS:
        if needed <= columns and (form != "hh" or _is_dialogue(row["chosen"])):
            return form
    raise DataError(
        f"{name}: the columns ({', '.join(sorted(columns))}) are of no known form.",
        "Rename them to prompt, chosen and rejected, or to messages and one column a rating; docs/reward.md.",
    )


def read_pair(row: Row, name: str, form: str, *, ties: str = "drop", source: str = "") -> Pair | Skipped:
    """One preference row as a `Pair`, or why it is none.

    `ties`: "drop" the pairs that are about the same, as the paper does, or keep them "soft", with q = 0.5.

    Raises:
        DataError: names the row and what is wrong with it.
    """
    read = _PAIR_FORMS[form](row, name)
    if isinstance(read, Skipped):
        return read
    prompt, first, second, strength, q = read
    if not prompt or prompt[-1]["role"] != "user":
        raise DataError(
            f"{name}: the prompt ends with {prompt[-1]['role'] if prompt else 'nothing'!r}, expected a "
            "user's turn.",
            "Are the columns swapped? The prompt holds what was asked, chosen and rejected the answers.",
        )
    if not first.strip() or not second.strip():
        return Skipped(name, "an answer is empty")
    if first.strip() == second.strip():
        return Skipped(name, "both answers are the same")
    turned = (strength > 0) != (q < 0.5)
    if turned:
        first, second = second, first
    q = max(q, 1 - q)
    wrote = str(row.get("preference_elaboration") or row.get("elaboration") or "")
    about = {"source": source, "elaboration": exchanged(wrote) if turned else wrote}
    if strength == 0 or q == 0.5:
        if ties == "drop":
            return Skipped(name, "a tie")
        return Pair(name, prompt, first, second, strength=1.0, q=0.5, **about)
    return Pair(name, prompt, first, second, strength=abs(strength), q=q, **about)


def read_ratings(row: Row, name: str, form: str, *, source: str = "") -> Iterator[Rating]:
    """The rated answers of one row; several for UltraFeedback.

    Raises:
        DataError: names the row and the attribute when a rating is NaN or no number.
    """
    for number, (prompt, answer, ratings) in enumerate(_RATING_FORMS[form](row, name)):
        kept = {}
        for attribute, value in ratings.items():
            number_read = _number(value, f"{name}, {attribute}")
            if number_read is not None:
                kept[attribute] = number_read
        yield Rating(f"{name}#{number}" if form == "ultrafeedback" else name, prompt, answer, kept, source)


def text_columns(row: Row) -> dict[str, str]:
    """Columns that hold text, which is no rating: a mistake where other rows have a number."""
    return {k: v for k, v in row.items() if isinstance(v, str) and k not in _NO_OBJECTIVE}


def overall_strength(annotations: list[float], *, most_spread: int = MOST_SPREAD) -> int | str:
    """The overall strength of several people's, or why there is none (arXiv 2410.01257, section 3).

    Those who found neither answer valid (-100) do not count. Of more than three the three most similar are
    taken; their mean is rounded. A spread above `most_spread` drops the pair.
    """
    valid = sorted(a for a in annotations if a != MISSING)
    if not valid:
        return "no annotator found a valid answer"
    size = min(3, len(valid))
    windows = [valid[i : i + size] for i in range(len(valid) - size + 1)]
    nearest = min(windows, key=lambda w: (w[-1] - w[0], abs(sum(w))))
    if nearest[-1] - nearest[0] > most_spread:
        return "the annotators disagree"
    return round(sum(nearest) / size)


_Read = tuple[tuple[Message, ...], str, str, float, float]


def _plain_pair(row: Row, name: str) -> _Read | Skipped:
    prompt = turns(row["prompt"], name) if row.get("prompt") else ()
    chosen, rejected = turns(row["chosen"], name, "assistant"), turns(row["rejected"], name, "assistant")
    if len(chosen) > 1 or len(rejected) > 1:
        shared = tuple(a for a, _ in takewhile(lambda p: p[0] == p[1], zip(chosen, rejected, strict=False)))
        if len(shared) != len(chosen) - 1 or len(shared) != len(rejected) - 1:
            return Skipped(name, "the two conversations part before the last answer")
        prompt = prompt if prompt and shared[: len(prompt)] != prompt else ()
        prompt, chosen, rejected = prompt + shared, chosen[-1:], rejected[-1:]
    for turn in (*chosen, *rejected):
        if turn["role"] != "assistant":
            raise DataError(
                f"{name}: an answer is by {turn['role']!r}, expected the assistant.",
                "Are the columns swapped? chosen and rejected hold the assistant's answers.",
            )
    strength, q = 1.0, _number(row.get("q"), f"{name}, q")
    for column in ("strength", "preference_strength", "margin"):
        if (value := _number(row.get(column), f"{name}, {column}")) is not None:
            strength = abs(value)
            if strength > MOST_STRENGTH and column != "margin":
                raise DataError(
                    f"{name}: {column} is {value:g}, expected -3 to 3.",
                    "Bring it to 1, 2 or 3, or call the column margin if it is one.",
                )
    if q is not None and not 0 <= q <= 1:
        raise DataError(f"{name}: q is {q}, expected a probability.", "Write 0 to 1.")
    better, worse = (_number(row.get(c), f"{name}, {c}") for c in ("score_chosen", "score_rejected"))
    if better is not None and worse is not None and better == worse:
        strength = 0.0
    return prompt, chosen[0]["content"], rejected[0]["content"], -strength, 1.0 if q is None else q


def scores_disagree(row: Row) -> bool:
    """Whether a row's own scores say that its rejected answer is the better one."""
    better, worse = row.get("score_chosen"), row.get("score_rejected")
    return isinstance(better, int | float) and isinstance(worse, int | float) and better < worse


def _helpsteer2_pair(row: Row, name: str) -> _Read | Skipped:
    strength = _number(row["preference_strength"], f"{name}, preference_strength")
    if strength is None or abs(strength) > MOST_STRENGTH:
        raise DataError(
            f"{name}: preference_strength is {row['preference_strength']!r}, expected -3 to 3.",
            "Below 0 response 1 is the better one.",
        )
    people = [p["strength"] for p in row.get("three_most_similar_preferences") or []]
    if people and max(people) - min(people) > MOST_SPREAD:
        return Skipped(name, "the annotators disagree")
    return turns(row["prompt"], name), row["response_1"], row["response_2"], strength, 1.0


def _annotated_pair(row: Row, name: str) -> _Read | Skipped:
    overall = overall_strength([float(a) for a in row["annotations"]])
    if isinstance(overall, str):
        return Skipped(name, overall)
    return turns(row["prompt"], name), row["response_1"], row["response_2"], float(overall), 1.0


def _hh_pair(row: Row, name: str) -> _Read | Skipped:
    return _plain_pair({"chosen": dialogue(row["chosen"]), "rejected": dialogue(row["rejected"])}, name)


def _shp_pair(row: Row, name: str) -> _Read | Skipped:
    label = row["labels"]
    if label not in (0, 1):
        raise DataError(f"{name}: labels is {label!r}, expected 1 (A is better) or 0.", "Check the column.")
    prompt = turns(row["history"], name)
    return prompt, row["human_ref_A"], row["human_ref_B"], -1.0 if label == 1 else 1.0, 1.0


def _rated(row: Row, name: str) -> Iterator[tuple[tuple[Message, ...], str, dict[str, Any]]]:
    if row.get("messages") is not None:
        messages = turns(row["messages"], name)
        prompt, last = messages[:-1], messages[-1]
        if last["role"] != "assistant":
            raise DataError(f"{name}: the last message is by {last['role']!r}.", "It holds the rated answer.")
        answer = last["content"]
    else:
        prompt, answer = turns(row["prompt"], name), row["response"]
    if not prompt:
        raise DataError(f"{name}: there is no prompt before the answer.", "Add the user's turn.")
    rated = {k: v for k, v in row.items() if k not in _NO_OBJECTIVE and not isinstance(v, str | list | dict)}
    yield prompt, answer, rated


def _ultrafeedback(row: Row, name: str) -> Iterator[tuple[tuple[Message, ...], str, dict[str, Any]]]:
    prompt = turns(row["instruction"], name)
    for completion in row["completions"]:
        ratings: dict[str, Any] = {"overall_score": completion.get("overall_score")}
        for aspect, annotation in (completion.get("annotations") or {}).items():
            value = annotation[0] if isinstance(annotation, list) else annotation
            rating = value.get("Rating") if isinstance(value, Mapping) else value
            ratings[aspect] = None if rating in ("N/A", None) else float(rating)
        yield prompt, completion["response"], ratings


def turns(value: Any, name: str, role: str = "user") -> tuple[Message, ...]:
    """Text or a list of messages as messages; HelpSteer2's marks between turns are understood.

    Raises:
        DataError: names the row when it is neither.
    """
    if isinstance(value, str):
        parts = re.split(r"\n*<extra_id_1>(User|Assistant)\n", value)
        said = [{"role": role, "content": parts[0]}]
        said += [{"role": r.lower(), "content": c} for r, c in zip(parts[1::2], parts[2::2], strict=True)]
        while len(said) > 1 and not said[-1]["content"].strip():
            said.pop()
        return tuple(said)
    if not isinstance(value, list | tuple) or not all(
        isinstance(m, Mapping) and isinstance(m.get("content"), str) and isinstance(m.get("role"), str)
        for m in value
    ):
        raise DataError(
            f"{name}: {type(value).__name__} where text or a list of messages was expected.",
            'A message is {"role": "user", "content": "..."}.',
        )
    return tuple({"role": m["role"], "content": m["content"]} for m in value)


def dialogue(text: str) -> list[Message]:
    """A dialogue in the form of HH as messages."""
    parts = re.split(r"\n\n(Human|Assistant):[ ]?", text)
    roles = {"Human": "user", "Assistant": "assistant"}
    said = zip(parts[1::2], parts[2::2], strict=True)
    return [{"role": roles[who], "content": words.strip()} for who, words in said]


def _is_dialogue(value: Any) -> bool:
    return isinstance(value, str) and "\n\nHuman:" in value and "\n\nAssistant:" in value


def _number(value: Any, what: str) -> float | None:
    """A number, or None where it is missing. Raises DataError for NaN, infinities and words."""
    if value is None or value == MISSING:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{what}: {value!r} is no number.", "Write a number, or null where there is none.")
    if not math.isfinite(value):
        raise DataError(f"{what}: {value} is not finite.", "Write null where there is no number.")
    return float(value)


_PAIR_FORMS: dict[str, Callable[[Row, str], _Read | Skipped]] = {
    "pairs": _plain_pair,
    "helpsteer2-preference": _helpsteer2_pair,
    "hh": _hh_pair,
    "shp": _shp_pair,
    "annotators": _annotated_pair,
}
_RATING_FORMS = {"helpsteer": _rated, "ultrafeedback": _ultrafeedback, "ratings": _rated}
PAIR_FORMS, RATING_FORMS = tuple(_PAIR_FORMS), tuple(_RATING_FORMS)
_SIGNS: list[tuple[str, set[str]]] = [
    ("helpsteer2-preference", {"prompt", "response_1", "response_2", "preference_strength"}),
    ("annotators", {"prompt", "response_1", "response_2", "annotations"}),
    ("shp", {"history", "human_ref_A", "human_ref_B", "labels"}),
    ("ultrafeedback", {"instruction", "completions"}),
    ("helpsteer", {"prompt", "response", *_HELPSTEER}),
    ("hh", {"chosen", "rejected"}),
    ("pairs", {"chosen", "rejected"}),
    ("ratings", {"messages"}),
    ("ratings", {"prompt", "response"}),
]
