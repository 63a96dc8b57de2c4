"""What the pages say is true: commands parse, snippets compile, recipes load, generated text is fresh."""

import re
import shlex
from pathlib import Path

import generated
import pytest
from typer.main import get_command

from niwaki.cli import app
from niwaki.errors import RecipeError
from niwaki.recipe.kinds import load_recipe, parse_recipe

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def snippets(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[list[str]]:
    """Every `niwaki ...` command in the shell snippets of a page, as arguments."""
    found = []
    for snippet in snippets(text, "(?:bash|sh|console)"):
        for line in snippet.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;|\|", line.strip().removeprefix("$ ")):
                words = shlex.split(part, comments=True)
                if words and words[0] == "niwaki":
                    found.append(words[1:])
    return found


def refusal(arguments: list[str]) -> str | None:
    """Why the command line would not take these arguments, if it would not."""
    group = get_command(app)
    try:
        context = group.make_context("niwaki", list(arguments))
        while hasattr(group, "commands"):
            words = [*context._protected_args, *context.args]
            name, group, rest = group.resolve_command(context, words)
            context = group.make_context(name, rest, parent=context)
    except Exception as error:
        return None if type(error).__name__ == "Exit" else str(error) or type(error).__name__
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_of_a_page_are_true(page, capsys):
    text = page.read_text()
    assert {shlex.join(words): refusal(words) for words in commands(text) if refusal(words)} == {}
    for snippet in snippets(text, "python"):
        compile(snippet, str(page), "exec")
    for snippet in snippets(text, "yaml"):
        if snippet.lstrip("# ").startswith("kind:"):
            parse_recipe(snippet, name=page.name)


def test_false_snippets_are_found(capsys):
    page = (
        "```bash\nniwaki run a.yaml --out b && niwaki rum a.yaml  # typo\n$ niwaki run \\\n  --owt c\n```\n"
    )
    assert [refusal(words) is None for words in commands(page)] == [True, False, False]
    assert refusal(["--version"]) is None
    assert refusal(["compress", "model", "--to", "50%"]) is not None


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_recipes_load(path):
    load_recipe(path)


def test_there_are_recipes_and_a_broken_one_is_found(tmp_path):
    assert RECIPES
    broken = tmp_path / "broken.yaml"
    broken.write_text(RECIPES[0].read_text() + "\nlearning_rate: 1\n")
    with pytest.raises(RecipeError):
        load_recipe(broken)


@pytest.mark.parametrize("path", generated.files(), ids=lambda path: path.name)
def test_generated_text_is_fresh(path):
    """After a wanted change run `python tests/policy/generated.py` and commit what it wrote.

    A line that leaves `cli.txt` breaks scripts of users: say so in CHANGELOG.md.
    """
    assert path.read_text() == generated.files()[path]


def test_stale_text_is_found():
    stale = "a\n<!-- generated: recipe_keys -->\nold\n<!-- end -->\nb"
    assert generated.fill(stale) != stale
    assert generated.fill(stale).startswith("a\n<!-- generated: recipe_keys -->\n```yaml\n#")
    assert generated.fill(stale).endswith("<!-- end -->\nb")


def missing_modules(text: str) -> list[str]:
    """The modules that a page names and that are not there; a bare name lies in the room named before it."""
    room, missing = Path(), []
    for name in re.findall(r"(?<![\w/.])(?:\w+/)*\w+\.py\b", text):
        path = Path(name.removeprefix("src/niwaki/"))
        room = path.parent if path.parent != Path() else room
        if path.name != "errors.py" and not (ROOT / "src" / "niwaki" / room / path.name).is_file():
            missing.append(str(room / path.name))
    return missing


def test_the_plan_of_the_house_names_modules_that_are_there():
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert missing_modules(text) == []
    assert len(re.findall(r"\w\.py\b", text)) > 100


def test_a_module_that_is_not_there_is_found():
    text = "ground/loop.py, spread.py and src/niwaki/pruning/trim.py; ground/attic.py, cellar.py"
    assert missing_modules(text) == ["ground/attic.py", "ground/cellar.py"]
