"""The page of curation: what became of the questions, what was dropped and why, and the mixture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from niwaki.errors import RunError
from niwaki.ground.run import write_atomically
from niwaki.reporting.figures.funnel import Bar, funnel, shares
from niwaki.reporting.page import both_widths, render
from niwaki.reporting.run_files import naming, read_json, recipe_text

CURATION, BLEND, DIFFICULTY = "1-curate/curation.json", "2-blend/blend.json", "2-blend/difficulty.json"
_DUPLICATES = ("duplicate", "near_duplicate", "duplicate_with_other_gold")
_FILTERS = (
    "empty_gold", "gold_not_an_option", "options_repeat", "long_gold", "several_parts", "own_form",
    "unverifiable_gold", "long_question",
)  # fmt: skip
WORDS = {
    "empty_gold": "no gold answer",
    "gold_not_an_option": "gold is none of the options",
    "options_repeat": "two options say the same",
    "long_gold": "gold is too long to check",
    "several_parts": "asks several things",
    "own_form": "prescribes its own form of answer",
    "unverifiable_gold": "gold does not verify against itself",
    "long_question": "too long",
    "contaminated": "repeats an item of a benchmark",
    "duplicate": "asked before",
    "near_duplicate": "nearly the same was asked before",
    "duplicate_with_other_gold": "asked before, with another answer",
    "points_at_options": "asks about “the following”",
    "negated": "asks which is not",
    "compares_options": "asks for the best option",
    "gold_about_options": "the right option speaks of the others",
    "unfinished_sentence": "a sentence that could end in many ways",
    "too_few_distractors": "too few wrong answers to mine",
}


def write_curation_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a run directory of curation, finished or not, and return the path.

    Raises:
        RunError: curation has not finished there, or its record is damaged.
    """
    folder = Path(run_dir)
    facts = curation_facts(folder)
    if facts is None:
        raise RunError(f"{folder} holds no {CURATION}: curation has not finished.", "Give the recipe again.")
    facts |= {"name": folder.resolve().name, "recipe": recipe_text(folder)}
    out = folder / "report.html"
    write_atomically(out, render("curation.html.j2", facts))
    return out


def curation_facts(folder: Path) -> dict[str, Any] | None:
    """What `curation_sections.html.j2` shows of a run directory; None where curation has not finished.

    Raises:
        RunError: a record is damaged.
    """
    summary, blend, difficulty = (read_json(folder / file, dict) for file in (CURATION, BLEND, DIFFICULTY))
    if summary is None:
        return None
    with naming(folder / CURATION):
        bars = [_bar(name, counts) for name, counts in summary["sources"].items()]
        read, kept = (sum(counts) for counts in ([b.total for b in bars], [_kept(b) for b in bars]))
        return {
            "headline": f"Of {read:,} questions {kept:,} can be trained on.",
            "funnel": both_widths(lambda width: funnel(bars, width)),
            "reasons": _reasons(summary),
            "sources": summary["sources"],
            "aside_examples": summary["aside_examples"],
            "contamination": _contamination(summary["contamination"]),
            "templates": _templates(summary["templates"]),
            "letters": summary["gold_letters"],
            "blend": None if blend is None else _blend(blend),
            "difficulty": difficulty,
            "seconds": summary["seconds"],
        }


def _bar(name: str, counts: Mapping[str, Any]) -> Bar:
    dropped = counts["dropped"]
    known = {*_FILTERS, *_DUPLICATES, "contaminated"}
    return Bar(
        name,
        (
            ("kept", "kept", counts["questions"] - sum(dropped.values())),
            ("filter", "cannot be checked", sum(dropped.get(one, 0) for one in _FILTERS)),
            ("contaminated", "repeat a benchmark", dropped.get("contaminated", 0)),
            ("duplicate", "asked before", sum(dropped.get(one, 0) for one in _DUPLICATES)),
            ("template", "fit no template", sum(n for one, n in dropped.items() if one not in known)),
        ),
    )


def _kept(bar: Bar) -> int:
    return sum(number for class_, _, number in bar.parts if class_ == "kept")


def _reasons(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every reason with its count over all sources and its examples, the commonest first."""
    total: dict[str, int] = {}
    for counts in summary["sources"].values():
        for reason, number in counts["dropped"].items():
            total[reason] = total.get(reason, 0) + number
    examples = summary["dropped_examples"]
    return [
        {"code": reason, "words": _in_words(reason), "number": number, "examples": examples.get(reason, [])}
        for reason, number in sorted(total.items(), key=lambda one: -one[1])
    ]


def _in_words(reason: str) -> str:
    bare = reason.removeprefix("open_")
    return WORDS.get(bare, bare) + (", once open" if bare != reason else "")


def _contamination(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    planted = found["planted"]
    rows = [
        {"kind": kind, "planted": planted_, "called": called}
        for kind, (planted_, called) in planted["by_kind"].items()
    ]
    percents = {
        name: None if planted[name] is None else {k: f"{v:.1%}" for k, v in planted[name].items()}
        for name in ("precision", "recall")
    }
    return {"items": found["items"], "found": found["found"], "rows": rows} | percents


def _templates(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    titles = {"to_open": "Multiple choice to open", "to_mc": "Open to multiple choice"}
    return [
        {
            "title": titles[way],
            "changed": one["changed"],
            "dropped": {_in_words(reason): number for reason, number in one["dropped"].items()},
            "examples": {_in_words(reason): rows for reason, rows in one["examples"].items()},
        }
        for way, one in found.items()
    ]


def _blend(blend: Mapping[str, Any]) -> dict[str, Any]:
    total = sum(part["size"] for part in blend["parts"])
    rows = [(part["name"], part["size"] / total, part["realised"]) for part in blend["parts"]]
    return {
        "rows": blend["rows"],
        "parts": blend["parts"],
        "figure": both_widths(lambda width: shares(rows, width)),
    }
