"""Texts that are made from the code: `python tests/policy/generated.py` writes them, a test compares them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from typer.main import get_command

from niwaki.cli import app
from niwaki.ground.family import FAMILIES
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.curate import CurateRecipe
from niwaki.recipe.family import FamilyRecipe
from niwaki.recipe.reason import ReasonRecipe
from niwaki.recipe.reward import RewardRecipe
from niwaki.recipe.sparsify import SparsifyRecipe
from niwaki.recipe.write import commented

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def cli_surface() -> str:
    """Every verb with its arguments and options, one a line: what scripts of users depend on."""
    lines = []
    for name, verb in sorted(_verbs().items()):
        for parameter in verb.params:
            kind = parameter.param_type_name
            flags = " ".join(parameter.opts) if kind == "option" else parameter.name
            need = "required" if parameter.required else "optional"
            lines.append(f"{name} {kind} {flags} {need}")
    return "\n".join(lines) + "\n"


def cli_help() -> str:
    """The help of every verb, as `niwaki VERB --help` prints it in 100 columns."""
    top = get_command(app).make_context("niwaki", [], resilient_parsing=True)
    pages = [_page("niwaki --help", top)]
    for name in _verbs():
        context, group = top, get_command(app)
        for word in name.split():
            group = group.commands[word]  # type: ignore[attr-defined]
            context = group.make_context(word, [], parent=context, resilient_parsing=True)
        pages.append(_page(f"niwaki {name} --help", context))
    return "\n\n".join(pages) + "\n"


def recipe_keys() -> str:
    """A recipe with every default and what each key means."""
    smallest = {"kind": "compress", "teacher": "MODEL", "choose": {"to": "50%"}}
    return f"```yaml\n{commented(CompressRecipe.model_validate(smallest))}```\n"


def family_keys() -> str:
    """A family recipe with every default and what each key means."""
    smallest = {"kind": "family", "teacher": "MODEL", "members": [{"to": "50%"}]}
    return f"```yaml\n{commented(FamilyRecipe.model_validate(smallest))}```\n"


def curate_keys() -> str:
    """A curate recipe with every default and what each key means."""
    return f"```yaml\n{commented(CurateRecipe(kind='curate'))}```\n"


def reason_keys() -> str:
    """A reason recipe with every default and what each key means."""
    smallest = {"kind": "reason", "model": "MODEL"}
    return f"```yaml\n{commented(ReasonRecipe.model_validate(smallest))}```\n"


def reward_keys() -> str:
    """A reward recipe with every default and what each key means."""
    source = {"source": "FILE"}
    smallest = {
        "kind": "reward",
        "backbone": "MODEL",
        "data": {"pairs": [source], "ratings": [source]},
        "regression": {},
        "preference": {},
        "expo": {},
        "objectives": {},
        "justifier": {},
    }
    return f"```yaml\n{commented(RewardRecipe.model_validate(smallest))}```\n"


# What the axis tables do not say in a word.
_TO_KNOW = {
    "granite": "its multipliers stay as they are",
    "olmo2": "norms only after attention and MLP; query and key norms run over all heads",
    "olmo3": "as olmo2",
    "gemma": "embeddings scaled by sqrt(hidden)",
    "gemma2": "embeddings scaled; the number of heads divides hidden",
    "gemma3_text": "embeddings scaled; the number of heads divides hidden",
    "llama": "the number of heads divides hidden",
    "gpt_neox": "every head is a `kv`; head named otherwise on disk",
    "mixtral": "experts named otherwise on disk",
    "qwen3_moe": "experts named otherwise on disk; every layer has experts",
}


def families_table() -> str:
    """Every family with the axes that can be trimmed, from the tables themselves."""
    rows = ["| model type | axes that can be trimmed | to know |", "|---|---|---|"]
    for name, family in sorted(FAMILIES.items()):
        together = ["hidden = heads * head size, so they are cut together"] if family.hidden_is_heads else []
        note = "; ".join([*together, *([_TO_KNOW[name]] if name in _TO_KNOW else [])])
        rows.append(f"| `{name}` | {' '.join(family.axes)} | {note} |")
    return "\n".join(rows) + "\n"


def fill(text: str) -> str:
    """Put the generated texts between their marks."""
    makers = {
        "families_table": families_table,
        "cli_help": cli_help,
        "recipe_keys": recipe_keys,
        "family_keys": family_keys,
        "curate_keys": curate_keys,
        "sparsify_keys": sparsify_keys,
        "reason_keys": reason_keys,
        "reward_keys": reward_keys,
    }
    return _BLOCK.sub(lambda match: match[1] + makers[match[2]]() + match[3], text)


def files() -> dict[Path, str]:
    """Every file that holds generated text, and what it should hold."""
    pages = {path: fill(path.read_text()) for path in sorted((ROOT / "docs").glob("*.md"))}
    return pages | {Path(__file__).parent / "cli.txt": cli_surface()}


def sparsify_keys() -> str:
    """A sparsify recipe with every default and what each key means."""
    smallest = {"kind": "sparsify", "model": "MODEL"}
    return f"```yaml\n{commented(SparsifyRecipe.model_validate(smallest))}```\n"


def _verbs() -> dict[str, Any]:
    """Every verb; those of a group are called by both words."""
    found: dict[str, Any] = {}
    for name, verb in get_command(app).commands.items():  # type: ignore[attr-defined]
        found |= {f"{name} {n}": v for n, v in getattr(verb, "commands", {"": verb}).items() if n} or {
            name: verb
        }
    return found


def _page(command: str, context: Any) -> str:
    context.terminal_width = context.max_content_width = 100
    return f"## `{command}`\n\n```text\n{context.command.get_help(context).strip()}\n```"


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
