"""The model card of a student: `README.md` beside its weights, with what the run measured."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from niwaki.errors import RunError
from niwaki.reporting import words
from niwaki.reporting.collect import collect
from niwaki.reporting.facts import Collected
from niwaki.reporting.page import provenance, render, sample_columns, write_atomically
from niwaki.reporting.table import TITLES, comparison

LICENCE_FIELDS = ("license", "license_name", "license_link")
LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*")
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_LOCAL_PATH = re.compile(r"~?/|\.{1,2}/")


def write_card(
    run_dir: str | Path,
    model_dir: str | Path,
    *,
    teacher_dir: str | Path | None = None,
    stated_licence: str | None = None,
) -> Path:
    """Write `README.md` into the student's folder and return its path.

    A licence that the teacher's folder carries, in its card or as a file, is carried over. That folder is
    `teacher_dir`, by default the teacher that the manifest names if it names a folder. `stated_licence` is
    what the user says the licence is, where that folder names none. Folders of this machine are shown by
    their last part alone.

    Raises:
        RunError: `run_dir` is not a run directory, a file of it is damaged, or `model_dir` holds no model.
    """
    run, model = collect(run_dir), Path(model_dir)
    if not (model / "config.json").exists():
        raise RunError(
            f"{model} holds no model: expected config.json in it.",
            "Give the folder of the saved student, such as runs/demo/4-distill/model.",
        )
    teacher = Path(teacher_dir or run.teacher_path or model)
    licence: dict[str, str] = {}
    if teacher.is_dir() and teacher != model:
        licence = card_licence(teacher)
        _copy_licence_files(teacher, model)
    is_stated = "license" not in licence and stated_licence is not None
    if is_stated:
        licence = {"license": str(stated_licence)}
    out = model / "README.md"
    write_atomically(out, render("card.md.j2", _card_facts(run, licence) | {"is_stated": is_stated}))
    return out


def _card_facts(run: Collected, licence: dict[str, str]) -> dict[str, Any]:
    front = {
        "base_model": run.teacher_path if run.teacher_path and is_hub_name(run.teacher_path) else None,
        **licence,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["niwaki", "pruning", "distillation", "minitron"],
    }
    front = {key: value for key, value in front.items() if value is not None}
    recipe = None if run.recipe is None else without_local_paths(run.recipe)
    texts = [recipe or "", *(text for s in run.samples for text in (s.prompt, *s.continuations.values()))]
    return {
        "front_matter": yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "fence": fence(texts),
        "name": public_name(run.teacher_path) if run.teacher_path else run.name,
        "headline": words.headline(run),
        "licence": licence.get("license"),
        "limits": _limits(run),
        "trim": run.trim,
        "distilled": run.finished["4-distill"],
        "taught_by": public_name(run.distill_teacher_path) if run.distill_teacher_path else "the whole model",
        "table": comparison(run.results),
        "titles": TITLES,
        "samples": run.samples,
        "sample_columns": sample_columns(run.samples),
        "recipe": recipe,
        "provenance": [
            fact
            for fact in provenance(run)
            if fact[0] not in ("Command", "Teacher", "Distilled from", "Data")
        ],
    }


def public_name(path: str) -> str:
    """The teacher's name for others: a name on the Hub as it is, of a local folder only the last part."""
    return path if is_hub_name(path) else Path(path).resolve().name


def is_hub_name(path: str) -> bool:
    """Whether a teacher is named as on the Hub, user/name, and is no folder here."""
    return _HUB_NAME.fullmatch(path) is not None and not Path(path).exists()


def without_local_paths(recipe: str) -> str:
    """A recipe with folders of this machine by their last part: /data/me/llama becomes .../llama."""
    try:
        nodes = list(_scalars(yaml.compose(recipe, Loader=yaml.SafeLoader)))
    except yaml.YAMLError:
        return recipe
    for node in reversed(nodes):
        if _LOCAL_PATH.match(node.value):
            shown = json.dumps(f".../{Path(node.value).name}", ensure_ascii=False)
            recipe = recipe[: node.start_mark.index] + shown + recipe[node.end_mark.index :]
    return recipe


def _scalars(node: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """The values in a YAML tree, in the order of the text."""
    if isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from _scalars(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _scalars(item)
    elif isinstance(node, yaml.ScalarNode):
        yield node


def _limits(run: Collected) -> list[str]:
    """What a reader must know before relying on the numbers, as sentences."""
    limits = [
        "The model has the teacher’s flaws and biases, and those of the text it was distilled on.",
        "It was measured on the text above and on nothing else: no safety evaluation was made.",
    ]
    tokens = (run.manifest.get("data") or {}).get("num_train_tokens")
    if tokens:
        limits.append(f"The text that it was distilled on holds {words.quantity(tokens)} tokens.")
    student = run.results.get("distilled")
    if student is not None and not student.tasks:
        limits.append("No task was measured, only the loss on held-out text.")
    return limits


def fence(texts: list[str]) -> str:
    """A run of backticks longer than any in the texts, so that none of them can close its block."""
    longest = max((len(run) for text in texts for run in re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)


def card_licence(folder: Path) -> dict[str, str]:
    """The licence fields of the card in a model's folder, if it has them."""
    card = folder / "README.md"
    if not card.exists():
        return {}
    found = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", card.read_text(encoding="utf-8"), re.DOTALL)
    try:
        front = yaml.safe_load(found.group(1)) if found else None
    except yaml.YAMLError:
        return {}
    if not isinstance(front, dict):
        return {}
    return {name: front[name] for name in LICENCE_FIELDS if front.get(name) is not None}


def _copy_licence_files(teacher: Path, model: Path) -> None:
    for pattern in LICENCE_FILES:
        for file in teacher.glob(pattern):
            if file.is_file() and not (model / file.name).exists():
                shutil.copyfile(file, model / file.name)
