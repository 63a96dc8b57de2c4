"""What the model card of each kind of run says, from the run directory alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from niwaki.reporting import words
from niwaki.reporting.collect import collect
from niwaki.reporting.compress_page import provenance, sample_columns
from niwaki.reporting.facts import Collected, Sample
from niwaki.reporting.page import markdown_text
from niwaki.reporting.public import public_name
from niwaki.reporting.reason_facts import read_run
from niwaki.reporting.reason_page import TITLES as REASON_TITLES
from niwaki.reporting.reason_page import page_facts
from niwaki.reporting.reward_page import read_reward
from niwaki.reporting.run_files import MANIFEST, read_json
from niwaki.reporting.sparsify_page import read_sparsify
from niwaki.reporting.table import TITLES, Cell, comparison

_MEASURED = "Measured in one run on one machine, on the same held-out text; in brackets: 95 % intervals"
_FLAWS = (
    "The model has the flaws and biases of the model that it was made from, and of the text it was {} on."
)
_NOT_SAFE = "It was measured on the text above and on nothing else: no safety evaluation was made."


@dataclass(frozen=True)
class Card:
    """What a card says beside licence, recipe and how to load the model.

    Attributes:
        source: path or name of the model that this one was made from; None where there is none.
        change: what became of it, for the title.
        made: how, a sentence in Markdown.
        auto_class: of `transformers`, that loads it.
        columns, rows: the table of measurements; a row is a label and a cell for each column.
        note: what the table's remarks mean.
        sample_titles: column of the samples -> its title.
    """

    source: str | None
    change: str
    headline: str
    made: str
    tags: list[str]
    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    note: str
    limits: list[str]
    provenance: list[tuple[str, str]]
    auto_class: str = "AutoModelForCausalLM"
    pipeline_tag: str = "text-generation"
    samples: Sequence[Sample] = ()
    sample_titles: Mapping[str, str] = field(default_factory=dict)


def student_card(run_dir: Path) -> Card:
    """Of a compress run."""
    run = collect(run_dir)
    table = comparison(run.results)
    made = "Made with [niwaki](https://github.com/niwaki-ml/niwaki)."
    if run.trim:
        taught_by = "the whole model"
        if run.distill_teacher_path:
            taught_by = markdown_text(public_name(run.distill_teacher_path))
        distilled = f", then distilled from {taught_by}" if run.finished["4-distill"] else ""
        made = (
            f"Cut from {words.shape(run.trim.sizes_from)} to {words.shape(run.trim.sizes_to)} with "
            f"[niwaki](https://github.com/niwaki-ml/niwaki){distilled}."
        )
    note = f"{_MEASURED}, or the ratio to the teacher."
    if "random" in table.columns:
        note += (
            " “Random weights” is the same shape, taught by the same teacher on the same tokens, but started "
            "from random weights."
        )
    return Card(
        source=run.teacher_path,
        change="made smaller",
        headline=words.headline(run),
        made=made,
        tags=["pruning", "distillation", "minitron"],
        columns=[TITLES[name] for name in table.columns],
        rows=[(_label(row.label, row.unit), row.cells) for row in table.rows],
        note=note,
        limits=_student_limits(run),
        provenance=_without(provenance(run), "Teacher", "Distilled from", "Data"),
        samples=run.samples,
        sample_titles={name: TITLES[name] for name in sample_columns(run.samples)},
    )


def sparse_card(run_dir: Path) -> Card:
    """Of a sparsify run."""
    facts = read_sparsify(run_dir)
    way = (
        "" if facts["steps"] is None else f", learned in {facts['steps']:,} steps on {facts['tokens']} tokens"
    )
    return Card(
        source=_manifest(run_dir)["model"]["path"],
        change="made sparse",
        headline=" ".join(part for part in (facts["headline"], facts["lede"]) if part),
        made=(
            f"Masked with [niwaki](https://github.com/niwaki-ml/niwaki){way}. The weights are stored dense, "
            "with zeros where the mask has them."
        ),
        tags=["sparsity", "maskllm"],
        columns=[_label(*column) for column in facts["columns"]],
        rows=[(_label(*row["title"]), row["cells"]) for row in facts["rows"]],
        note=f"{_MEASURED}.",
        limits=[_FLAWS.format("masked"), _NOT_SAFE, "A dense kernel runs it at the speed of a dense model."],
        provenance=_without(facts["provenance"], "Model", "Text"),
    )


def reason_card(run_dir: Path) -> Card:
    """Of a reason run."""
    run = read_run(run_dir)
    facts = page_facts(run)
    table = facts["table"] or {"columns": [], "rows": []}
    source = run.manifest.get("model")
    return Card(
        source=None if source == "fresh" else source,
        change="trained to reason",
        headline=" ".join(part for part in (facts["headline"], facts["lede"]) if part),
        made=(
            "Trained with [niwaki](https://github.com/niwaki-ml/niwaki) by GRPO on questions whose answers "
            "are checked by rules."
        ),
        tags=["reasoning", "grpo", "crossthink"],
        columns=[REASON_TITLES[name] for name in table["columns"]],
        rows=[(_label(label, unit), cells) for label, unit, cells in table["rows"]],
        note="In brackets: 95 % intervals over questions.",
        limits=[
            _FLAWS.format("trained"),
            "It was measured on the questions above and on nothing else: no safety evaluation was made.",
        ],
        provenance=_without(facts["provenance"], "Model"),
    )


def reward_card(run_dir: Path) -> Card:
    """Of a reward run: of the model that scores answers, or of the justifier where there is none."""
    facts, manifest = read_reward(run_dir), _manifest(run_dir)
    if not (run_dir / "7-calibrate" / "model").exists():
        return _justifier_card(facts, manifest)
    rows = [
        _ordered(f"{judged['title']}, {row['name']}", row["accuracy"], row["longer"], row["shorter"])
        for judged in facts["sets"]
        for row in judged["rows"]
    ]
    return _card_of_pairs(
        facts,
        manifest,
        rows,
        change="a reward model",
        made=(
            "Trained with [niwaki](https://github.com/niwaki-ml/niwaki). Its one logit is the reward of a "
            "conversation, written with the chat template."
        ),
        limits=[
            "It was measured on the pairs above and on nothing else; rewards of different prompts are not "
            "comparable.",
            *facts["warnings"],
        ],
        auto_class="AutoModelForSequenceClassification",
        pipeline_tag="text-classification",
    )


def _justifier_card(facts: Mapping[str, Any], manifest: Mapping[str, Any]) -> Card:
    rows = []
    if facts["justifier"] is not None:
        judged = facts["justifier"]["judged"]
        lengths = judged["by_length"]
        asked = [lengths.get(f"chosen {which}") for which in ("longer", "shorter")]
        rows = [_ordered("Test pairs, asked in both orders", judged["accuracy"], *asked)]
    return _card_of_pairs(
        facts,
        manifest,
        rows,
        change="a pairwise justifier",
        made=(
            "Trained with [niwaki](https://github.com/niwaki-ml/niwaki) to write why one of two answers is "
            "better, and which. `niwaki reward justify` asks it in both orders and adds up its verdicts."
        ),
        limits=[
            "It was measured on the pairs above and on nothing else. Asked in one order alone, it may prefer "
            "a place to an answer.",
        ],
    )


def _card_of_pairs(
    facts: Mapping[str, Any],
    manifest: Mapping[str, Any],
    rows: list[tuple[str, list[Cell]]],
    *,
    limits: list[str],
    **parts: Any,
) -> Card:
    """What the cards of a reward run share; `parts` are the others of `Card`."""
    return Card(
        source=manifest["backbone"]["path"],
        headline=facts["headline"],
        tags=["reward-model", "preference"],
        columns=["Pairs in order, %", "chosen longer", "chosen shorter"] if rows else [],
        rows=rows,
        note="In brackets: 95 % intervals over pairs.",
        limits=[_FLAWS.format("trained"), *limits],
        provenance=_about(manifest),
        **parts,
    )


def _ordered(
    label: str, accuracy: Mapping[str, float], *by_length: Mapping[str, float] | None
) -> tuple[str, list[Cell]]:
    """A row of the table of pairs; `by_length` where the chosen answer is longer, and shorter."""
    cells = [Cell("" if share is None else f"{100 * share['accuracy']:.1f}") for share in by_length]
    return label, [_share(accuracy), *cells]


CARDS: Mapping[str, Callable[[Path], Card]] = {
    "compress": student_card,
    "sparsify": sparse_card,
    "reason": reason_card,
    "reward": reward_card,
}


def _label(title: str, remark: str) -> str:
    return f"{title} ({remark})" if remark else title


def _share(value: Mapping[str, float]) -> Cell:
    return Cell(f"{100 * value['mean']:.1f}", f"{100 * value['low']:.1f}–{100 * value['high']:.1f}")


def _manifest(run_dir: Path) -> dict[str, Any]:
    return read_json(run_dir / MANIFEST, dict) or {}


def _about(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    known = {"Created": "created", "Seed": "seed", "niwaki": "niwaki"}
    facts = [(what, str(manifest[key])) for what, key in known.items() if key in manifest]
    return facts + [(name, str(version)) for name, version in manifest.get("versions", {}).items()]


def _without(facts: Sequence[tuple[str, str]], *names: str) -> list[tuple[str, str]]:
    """Commands and paths are not for others."""
    return [fact for fact in facts if fact[0] not in ("Command", *names)]


def _student_limits(run: Collected) -> list[str]:
    """What a reader must know before relying on the numbers, as sentences."""
    limits = [_FLAWS.format("distilled"), _NOT_SAFE]
    tokens = (run.manifest.get("data") or {}).get("num_train_tokens")
    if tokens:
        limits.append(f"The text that it was distilled on holds {words.quantity(tokens)} tokens.")
    student = run.results.get("distilled")
    if student is not None and not student.tasks:
        limits.append("No task was measured, only the loss on held-out text.")
    return limits
