"""What the documentation site takes from outside `docs/`: recipes, changes, contributing, a page per room.

`mkdocs.yml` names this file. Links that leave `docs/` become links to the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# What people call from their own code; recipes, pipelines and the command line have pages of their own.
ROOMS = {
    "ground": "The floor: models, families, text, the training loop, statistics",
    "verify": "Is this answer right?",
    "pruning": "What matters, which shape, the cut",
    "distillation": "Teaching the smaller model",
    "masks": "Learned N:M masks",
    "reward": "Reward models",
    "curation": "Questions to train on",
    "rl": "Training on verdicts",
    "evaluation": "How good, how fast",
    "reporting": "Pages and cards from run directories",
}
_LINK = re.compile(r"(\]\()((?:\.\./)+[^)\s#]+)((?:#[^)\s]*)?\))")
_ERRORS = "errors"


def on_config(config: Any) -> Any:
    """Put the pages of results, and of the rooms, where the navigation says RESULTS and REFERENCE."""
    results = [f"results/{path.name}" for path in sorted((ROOT / "docs" / "results").glob("*.md"))]
    pages = [{"niwaki": "reference/niwaki.md"}]
    pages += [{room: f"reference/{room}.md"} for room in [*_rooms(), _ERRORS]]
    for section in config["nav"]:
        if section.get("Results") == "RESULTS":
            section["Results"] = [*results, {"Log of experiments": "experiments.md"}]
        for entries in section.values():
            for entry in entries if isinstance(entries, list) else []:
                if isinstance(entry, dict) and entry.get("Python") == "REFERENCE":
                    entry["Python"] = pages
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {
        "gallery.md": _gallery(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
        "contributing.md": _from_root("CONTRIBUTING.md", config["repo_url"]),
        "experiments.md": _from_root("experiments/LOG.md", config["repo_url"]),
        "reference/niwaki.md": _surface(),
        f"reference/{_ERRORS}.md": "# niwaki.errors\n\n::: niwaki.errors\n",
    }
    pages |= {f"reference/{room}.md": _reference(room) for room in _rooms()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links that leave `docs/` to the repository."""
    folder = posixpath.dirname(page.file.src_uri)

    def outside(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, match[2]))
        if target.startswith("docs/"):
            return match[0]
        kind = "blob" if posixpath.splitext(target)[1] else "tree"
        return f"{match[1]}{config['repo_url']}/{kind}/main/{target}{match[3]}"

    return _LINK.sub(outside, markdown)


def _rooms() -> list[str]:
    return [room for room in ROOMS if (ROOT / "src" / "niwaki" / room).is_dir()]


def _gallery() -> str:
    parts = [
        "# Recipes to copy",
        "`niwaki new KIND` writes a commented one to start from; these are complete; `niwaki check` plans "
        "each. Every key is in [recipe keys](recipes.md).",
    ]
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        parts.append(f"## {path.name}\n\n```yaml\n{path.read_text(encoding='utf-8').rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def _from_root(name: str, repo_url: str) -> str:
    """A page of the repository, its links to neighbours made relative to `docs/`; folders are shown there."""
    folder = posixpath.dirname(name)

    def moved(match: re.Match[str]) -> str:
        if "://" in match[2] or match[2].startswith("#"):
            return match[0]
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        if not posixpath.splitext(target)[1]:
            return f"{match[1]}{repo_url}/tree/main/{target}{match[3]}"
        inside = target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"
        return f"{match[1]}{inside}{match[3]}"

    text = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"(\]\()([^)\s]+)(\))", moved, text)


def _surface() -> str:
    """The functions of `import niwaki`, each from its home."""
    source = (ROOT / "src" / "niwaki" / "__init__.py").read_text(encoding="utf-8")
    homes = re.findall(r'"(\w+)": "(niwaki\.[\w.]+)"', source)
    blocks = [f"::: {home}.{name}\n    options: {{show_root_full_path: false}}" for name, home in homes]
    head = "# niwaki\n\nThe functions of `import niwaki`, each loaded when it is first used.\n"
    return head + "\n" + "\n\n".join(blocks) + "\n"


def _reference(room: str) -> str:
    folder = ROOT / "src" / "niwaki" / room
    modules = [path.stem for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]
    blocks = [f"::: niwaki.{room}.{module}" for module in modules]
    return f"# niwaki.{room}\n\n{ROOMS[room]}.\n\n" + "\n\n".join(blocks) + "\n"
