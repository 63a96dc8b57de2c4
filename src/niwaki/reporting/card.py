"""The model card of a run: `README.md` beside the weights, with what was measured and whose licence holds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from niwaki.errors import RunError
from niwaki.ground.run import write_atomically
from niwaki.reporting.card_facts import CARDS, Card
from niwaki.reporting.page import render
from niwaki.reporting.public import fence, is_hub_name, public_name, without_local_paths
from niwaki.reporting.run_files import RECIPE, naming, open_run, recipe_text

LICENCE_FIELDS = ("license", "license_name", "license_link")
LICENCE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*")


def write_card(
    run_dir: str | Path,
    model_dir: str | Path,
    *,
    source_dir: str | Path | None = None,
    stated_licence: str | None = None,
) -> Path:
    """Write `README.md` into the folder of the model that a run made, and return its path.

    A licence that the folder of the model it was made from carries, in its card or as a file, is carried
    over. That folder is `source_dir`, by default the one that the manifest names if it names a folder.
    `stated_licence` is what the user says the licence is, where that folder names none. Folders of this
    machine are shown by their last part alone.

    Raises:
        RunError: `run_dir` is not a run directory or of a kind that has no card, a file of it is damaged, or
            `model_dir` holds no model.
    """
    run, model = open_run(run_dir), Path(model_dir)
    card = read_card(run)
    if not (model / "config.json").exists():
        raise RunError(
            f"{model} holds no model: expected config.json in it.",
            "Give the folder of a saved model, such as runs/demo/4-distill/model.",
        )
    source = Path(source_dir or card.source or model)
    licence: dict[str, str] = {}
    if source.is_dir() and source != model:
        licence = card_licence(source)
        _copy_licence_files(source, model)
    is_stated = "license" not in licence and stated_licence is not None
    if is_stated:
        licence = {"license": str(stated_licence)}
    out = model / "README.md"
    facts = {"name": public_name(card.source) if card.source else run.resolve().name, "is_stated": is_stated}
    recipe = without_local_paths(recipe_text(run) or "")
    write_atomically(out, render("card.md.j2", facts | _facts(card, recipe, licence)))
    return out


def read_card(run: Path) -> Card:
    """What the card of a run says. Raises RunError for a kind that has none, or a damaged file."""
    with naming(run / RECIPE):
        kind = yaml.safe_load(recipe_text(run) or "")["kind"]
    if kind not in CARDS:
        raise RunError(
            f"{run} is of kind {kind}, which makes no single model.",
            f"Kinds with a card: {', '.join(CARDS)}.",
        )
    return CARDS[kind](run)


def _facts(card: Card, recipe: str, licence: dict[str, str]) -> dict[str, Any]:
    front = {
        "base_model": card.source if card.source and is_hub_name(card.source) else None,
        **licence,
        "library_name": "transformers",
        "pipeline_tag": card.pipeline_tag,
        "tags": ["niwaki", *card.tags],
    }
    front = {key: value for key, value in front.items() if value is not None}
    texts = [recipe, *(text for s in card.samples for text in (s.prompt, *s.continuations.values()))]
    return {
        "front_matter": yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "fence": fence(texts),
        "card": card,
        "licence": licence.get("license"),
        "recipe": recipe,
    }


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


def _copy_licence_files(source: Path, model: Path) -> None:
    for pattern in LICENCE_FILES:
        for file in source.glob(pattern):
            if file.is_file() and not (model / file.name).exists():
                shutil.copyfile(file, model / file.name)
