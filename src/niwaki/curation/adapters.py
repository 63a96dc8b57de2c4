"""The forms of public sets -> fields of our record. A new one is a function of a row and a line above it:

    @adapter("my_set", domain="gpr", hub="me/my-set")
    def my_set(row):
        return {"question": text(row, "prompt"), "gold": text(row, "answer")}

It returns `question`, `gold` and, where it knows them, `options` (texts), `type`, `domain` and `meta`. What
it cannot use it leaves to `fields.text` and its kin, which raise a `RowError` that names the field: such
a row is set aside and counted. A gold answer is taken as it is; filters judge it later.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from niwaki.curation.fields import RowError, boxed, letter, split_options, text, texts
from niwaki.verify.verdict import Type

Row = Mapping[str, Any]
_MATHS = re.compile(r"math|numina|gsm|aime|amc|olympiad|algebra|geometry", re.IGNORECASE)
_CALCULATOR = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True)
class Adapter:
    """How the rows of one set become questions, and where the hub has it (name, configuration, split)."""

    name: str
    convert: Callable[[Row], dict[str, Any]]
    domain: str
    hub: tuple[str, str | None, str] | None


ADAPTERS: dict[str, Adapter] = {}


def adapter(
    name: str, *, domain: str, hub: str | None = None, config: str | None = None, split: str = "train"
) -> Callable[[Callable[[Row], dict[str, Any]]], Callable[[Row], dict[str, Any]]]:
    """Register the function below as the adapter `name` (the extension point, for ours and for yours)."""

    def register(convert: Callable[[Row], dict[str, Any]]) -> Callable[[Row], dict[str, Any]]:
        ADAPTERS[name] = Adapter(name, convert, domain, (hub, config, split) if hub else None)
        return convert

    return register


def by_columns(columns: Mapping[str, str]) -> Callable[[Row], dict[str, Any]]:
    """An adapter from names of columns: {"question": "prompt", "gold": "answer", "options": "choices"}.

    With options, gold is a letter, an index (a number), or the text of an option.
    """

    def convert(row: Row) -> dict[str, Any]:
        fields: dict[str, Any] = {"question": text(row, columns["question"])}
        if "options" in columns and row.get(columns["options"]) is not None:
            options, said = texts(row, columns["options"]), row.get(columns["gold"])
            if isinstance(said, str) and said.strip() in options:
                said = options.index(said.strip())
            return _choice({"gold": said}, fields["question"], options, "gold")
        return fields | {"gold": text(row, columns["gold"])}

    return convert


def _choice(row: Row, question: str, options: tuple[str, ...], *gold: str, **meta: Any) -> dict[str, Any]:
    try:
        right = letter(row, len(options), *gold)
    except RowError:
        right = text(row, *gold)  # the text of an option, or one that is not among them
    return {"question": question, "options": options, "gold": right, "type": Type.MC, "meta": meta}


@adapter("crossthink", domain="gpr", hub="nvidia/Nemotron-CrossThink", split="train_qa")
def crossthink(row: Row) -> dict[str, Any]:
    """`meta_data.question`, `reward_model.ground_truth`; other fields of the release may be missing."""
    try:
        question = text(row, "meta_data.question", "question")
    except RowError:
        messages = row.get("prompt")
        if not isinstance(messages, list) or not messages:
            raise
        question = text(messages[-1], "content")
    said = " ".join(str(row.get(name, "")) for name in ("data_source", "ability"))
    stem, options = split_options(question)
    fields: dict[str, Any] = {
        "question": stem,
        "gold": text(row, "reward_model.ground_truth", "answer"),
        "domain": "math" if _MATHS.search(said) else "gpr",
    }
    return fields if options is None else fields | {"options": options, "type": Type.MC}


@adapter("natural_reasoning", domain="gpr", hub="facebook/natural_reasoning")
def natural_reasoning(row: Row) -> dict[str, Any]:
    """`question`, `reference_answer`."""
    return {"question": text(row, "question"), "gold": text(row, "reference_answer")}


@adapter("mmlu", domain="gpr", hub="cais/mmlu", config="all", split="test")
def mmlu(row: Row) -> dict[str, Any]:
    """`question`, `choices` (or columns choice0 ... choice3, or A ... D), `answer`: an index or a letter."""
    row = row["train"] if isinstance(row.get("train"), Mapping) else row
    for columns in (["choice0", "choice1", "choice2", "choice3"], ["A", "B", "C", "D"]):
        if all(name in row for name in columns):
            options = tuple(text(row, name) for name in columns)
            break
    else:
        options = texts(row, "choices", "options")
    meta = {"subject": row["subject"]} if isinstance(row.get("subject"), str) and row["subject"] else {}
    return _choice(row, text(row, "question"), options, "answer", **meta)


@adapter("mmlu_auxiliary", domain="gpr", hub="cais/mmlu", config="auxiliary_train")
def mmlu_auxiliary(row: Row) -> dict[str, Any]:
    """The 99,842 training rows of MMLU: ARC, law, MCTest, OBQA, RACE and science."""
    return mmlu(row)


@adapter("mmlu_pro", domain="gpr", hub="TIGER-Lab/MMLU-Pro", split="test")
def mmlu_pro(row: Row) -> dict[str, Any]:
    """`question`, up to ten `options`, `answer`: a letter."""
    return _choice(row, text(row, "question"), texts(row, "options"), "answer", "answer_index")


@adapter("supergpqa", domain="gpr", hub="m-a-p/SuperGPQA")
def supergpqa(row: Row) -> dict[str, Any]:
    """`question`, `options`, `answer_letter`."""
    return _choice(row, text(row, "question"), texts(row, "options"), "answer_letter", "answer")


@adapter("gpqa", domain="gpr", hub="Idavidrein/gpqa", config="gpqa_diamond")
def gpqa(row: Row) -> dict[str, Any]:
    """`Question`, `Correct Answer`, `Incorrect Answer 1` to 3; shuffled by a hash of the question."""
    question, right = text(row, "Question"), text(row, "Correct Answer").strip()
    options = [right, *(text(row, f"Incorrect Answer {index}").strip() for index in (1, 2, 3))]
    random.Random(question).shuffle(options)
    gold = chr(ord("A") + options.index(right))
    return {"question": question, "options": tuple(options), "gold": gold, "type": Type.MC}


@adapter("numina", domain="math", hub="AI-MO/NuminaMath-CoT")
def numina(row: Row) -> dict[str, Any]:
    """`problem` and `answer`, or the box of `solution`; a multiple choice keeps its options in the text."""
    meta = {"set": row["source"]} if isinstance(row.get("source"), str) else {}
    gold = text(row, "answer") if row.get("answer") is not None else boxed(text(row, "solution"))
    return {"question": text(row, "problem", "question"), "gold": gold, "meta": meta}


@adapter("math", domain="math", hub="HuggingFaceH4/MATH-500", split="test")
def math(row: Row) -> dict[str, Any]:
    """MATH, MATH-500, AMC23: `problem` (or `question`) and `answer`, or the box of `solution`."""
    meta = {
        name: row[name] for name in ("type", "subject", "level", "difficulty") if row.get(name) is not None
    }
    gold = text(row, "answer") if row.get("answer") is not None else boxed(text(row, "solution"))
    return {"question": text(row, "problem", "question"), "gold": gold, "meta": meta}


@adapter("gsm8k", domain="math", hub="openai/gsm8k", config="main")
def gsm8k(row: Row) -> dict[str, Any]:
    """`question`, `answer`: working, then "#### 18"."""
    working, mark, gold = text(row, "answer").rpartition("####")
    if not mark:
        raise RowError("field 'answer' has no '####'")
    meta = {"solution": _CALCULATOR.sub("", working).strip()}
    return {"question": text(row, "question"), "gold": gold.strip(), "type": Type.NUMBER, "meta": meta}


@adapter("svamp", domain="math", hub="ChilleD/SVAMP")
def svamp(row: Row) -> dict[str, Any]:
    """`Body`, `Question`, `Answer`: a number."""
    body = text(row, "Body").strip()
    stop = "" if body.endswith((".", "!", "?")) else "."
    asked = f"{body}{stop} {text(row, 'Question').strip()}"
    return {"question": asked, "gold": text(row, "Answer"), "type": Type.NUMBER}


@adapter("aqua", domain="math", hub="deepmind/aqua_rat", config="raw")
def aqua(row: Row) -> dict[str, Any]:
    """`question`, `options` with labels, `correct`: a letter."""
    return _choice(row, text(row, "question"), texts(row, "options"), "correct")


@adapter("agieval", domain="gpr", hub=None)
def agieval(row: Row) -> dict[str, Any]:
    """`passage`, `question`, `options`, `label`: a letter; without options, `answer`."""
    asked = text(row, "question")
    if isinstance(row.get("passage"), str) and row["passage"].strip():
        asked = f"{row['passage'].strip()}\n\n{asked}"
    if not row.get("options"):
        return {"question": asked, "gold": text(row, "answer"), "domain": "math"}
    return _choice(row, asked, texts(row, "options"), "label", "answer")


@adapter("bbh", domain="gpr", hub="lukaemon/bbh", config="boolean_expressions", split="test")
def bbh(row: Row) -> dict[str, Any]:
    """BIG-Bench Hard and its like: `input`, whose last lines may be options, and `target`."""
    stem, options = split_options(text(row, "input"))
    fields: dict[str, Any] = {"question": stem, "gold": text(row, "target")}
    return fields if options is None else fields | {"options": options, "type": Type.MC}
