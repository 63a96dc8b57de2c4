"""The recipe of curation, from its file to the mixture and the page."""

import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from niwaki.cli import app
from niwaki.errors import DataError, RecipeError
from niwaki.pipelines.questions import check_section, make_questions
from niwaki.recipe.curate import Curate, CurateRecipe
from niwaki.recipe.kinds import parse_recipe
from niwaki.recipe.load import parse
from niwaki.recipe.write import dump
from niwaki.verify.question import read_questions

ROOT = Path(__file__).parents[2]
RECIPE = """
kind: curate
curate:
  sources:
    - {name: sums, adapter: generated, tasks: [arithmetic], rows: 80, difficulty: 3}
    - {name: logic, adapter: generated, tasks: [logic], rows: 40, form: mc}
  benchmarks:
    - {name: held-out, adapter: generated, rows: 30, split: test}
  open_template: both
  blend: {groups: [{share: 75%, sets: [sums]}, {share: 25%, sets: [logic]}], rows: 100}
  workers: 1
"""


def test_niwaki_curate_makes_a_mixture_and_a_page(tmp_path):
    recipe, out = tmp_path / "mine.yaml", tmp_path / "run"
    recipe.write_text(RECIPE)
    result = CliRunner().invoke(app, ["curate", str(recipe), "--out", str(out)])
    assert result.exit_code == 0, result.output
    train = list(read_questions(out / "2-blend" / "train.jsonl"))
    assert Counter(q.source for q in train) == {"sums": 75, "logic": 25}
    assert {q.template for q in train} == {"open", "mc"}
    page = (out / "report.html").read_text("utf-8")
    assert "The funnel" in page
    assert "75.000%" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    again = CliRunner().invoke(app, ["run", str(out)])
    assert again.exit_code == 0, again.output
    assert CliRunner().invoke(app, ["report", str(out)]).exit_code == 0


def test_the_section_works_with_its_defaults_alone(tmp_path):
    section = Curate(workers=1)
    curated = make_questions(section, tmp_path, seed=0)
    assert len(list(read_questions(curated.train))) > 1_500
    [bench] = curated.benchmarks.values()
    train, test = ({q.question for q in read_questions(path)} for path in (curated.train, bench))
    assert test
    assert not train & test


def test_a_recipe_goes_in_and_out():
    recipe = parse_recipe(RECIPE, name="mine")
    assert isinstance(recipe, CurateRecipe)
    assert parse_recipe(dump(recipe), name="again") == recipe
    crossthink = parse_recipe((ROOT / "recipes" / "crossthink.yaml").read_text(), name="crossthink")
    assert len(crossthink.curate.benchmarks) == 7


@pytest.mark.parametrize(
    "change, says",
    [
        (("adapter: generated, tasks: [logic]", "adapter: gsm8k, tasks: [logic]"), "tasks are for generated"),
        (("rows: 40, form: mc", "form: mc"), "rows says how many"),
        (("open_template: both", "open_template: open"), "open_template is open, which changes nothing"),
        (("sets: [logic]", "sets: [magic]"), "no source is called 'magic'"),
        (("name: logic", "name: sums"), "two sets are called 'sums'"),
        (("share: 25%", "share: 20%"), "sum to 0.95, not to 100%"),
        (("rows: 100}", "rows: 100, most_repetitions: 0.5}"), "greater than or equal to 1"),
        (("open_template", "open_templates"), "Did you mean 'open_template'?"),
    ],
)
def test_what_a_recipe_cannot_say(change, says):
    with pytest.raises(RecipeError) as error:
        parse_recipe(RECIPE.replace(*change), name="mine")
    assert says in str(error.value)


def test_what_only_the_rooms_know(tmp_path):
    with pytest.raises(RecipeError, match=r"no adapter 'gsm8'\. Did you mean 'gsm8k'"):
        check_section(parse("sources: [{name: a, adapter: gsm8}]", Curate, name="x"))
    wide = parse_recipe(RECIPE.replace("rows: 100}", "rows: 9k}"), name="x")
    with pytest.raises(DataError, match="Ask for at most"):
        check_section(wide.curate)
    dropped = RECIPE.replace("rows: 100}", "rows: 150}").replace(
        "open_template: both", "longest_question_words: 7"
    )
    with pytest.raises(DataError, match="Ask for at most"):  # enough rows, until most are dropped
        make_questions(parse_recipe(dropped, name="x").curate, tmp_path, seed=0)
    missing = tmp_path / "blend.yaml"
    missing.write_text("groups: [{share: 100%, sets: [nowhere]}]")
    with pytest.raises(RecipeError, match="no source is called 'nowhere'"):
        check_section(Curate(blend=str(missing)))


def test_difficulty_asks_a_model_once_and_drops(tmp_path):
    section = parse(
        f"""
sources: [{{name: sums, adapter: generated, tasks: [addition], rows: 40, difficulty: 2}}]
benchmarks: []
workers: 1
difficulty: {{model: M, store: {tmp_path / "store.jsonl"}, samples: 8, highest: 50%}}
""",
        Curate,
        name="x",
    )
    asked = []

    def answer_with(settings):
        assert settings.model == "M"

        def answer(questions, num_samples, seed):
            asked.extend(questions)
            return [[q.gold if int(q.gold) % 2 else "0"] * num_samples for q in questions]

        return answer

    curated = make_questions(section, tmp_path / "run", seed=0, answer=answer_with)
    kept = list(read_questions(curated.train))
    assert all(int(q.gold) % 2 == 0 for q in kept)
    record = json.loads((tmp_path / "run" / "2-blend" / "difficulty.json").read_text())
    assert record["questions"] == {"kept": len(kept), "too_easy": 40 - len(kept)}
    assert record["answers_asked"] == 320
    make_questions(section, tmp_path / "other", seed=0, answer=answer_with)
    assert len(asked) == 40
