"""A family on a tiny teacher: who is cut from whom, who teaches, what it cost, and what is refused."""

import json
import shutil

import pytest
import yaml

from niwaki.errors import BudgetError, CheckpointError, RunError
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.run import DONE
from niwaki.pipelines import compare, compress, family
from niwaki.pipelines.costs import distill_flops, scratch_flops
from niwaki.pipelines.family_plan import plan_family
from niwaki.pipelines.plan import own_shape, read_config
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.family import FamilyRecipe
from niwaki.recipe.load import load
from niwaki.reporting.family_page import write_family_report

from .conftest import write_recipe

MEMBERS = [
    {"to": "70%", "cut_from": "previous"},
    {"to": "45%", "tokens": 1024, "choose": {"axes": ["ffn", "hidden"]}},
    {"to": "40%", "tokens": 512, "cut_from": "teacher", "learn_from": "previous"},
]


def write_family(folder, trained, members=MEMBERS, **changes):
    content = yaml.safe_load(write_recipe(folder, trained).read_text())
    content |= {"kind": "family", "scratch_tokens": 100_000, "members": members}
    content["choose"] = {"tolerance": "15%", "max_candidates": 2, "trial_tokens": 256}
    content["distill"] |= {"tokens": 1536, "save_every_steps": 50}
    content["evaluate"] = {"num_tokens": 160, "speed": True}
    path = folder / "family.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


@pytest.fixture(scope="module", autouse=True)
def short_prompts():
    """The tiny teacher has 128 positions."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (compare, family):
            patch.setattr(module, "PROMPT_TOKENS", 8)
            patch.setattr(module, "NEW_TOKENS", 4)
        yield


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    """A finished family: its folder, what `run` returned, its recipe. Tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("family")
    recipe = load(write_family(folder, trained), FamilyRecipe)
    return folder / "run", family.run(recipe, out=folder / "run"), recipe


@pytest.fixture
def planned(trained, tmp_path):
    def build(members, **changes):
        recipe = load(write_family(tmp_path, trained, members, **changes), FamilyRecipe)
        return plan_family(recipe, out=tmp_path / "run", flops_per_s=1e9)

    return build


def parent_of(folder):
    return json.loads((folder / "3-trim" / "model" / "trim.json").read_text())["parent_fingerprint"]


def test_each_member_is_cut_from_and_taught_by_whom_the_recipe_says(made):
    out, _, recipe = made
    models = [
        Checkpoint(recipe.teacher),
        *(Checkpoint(out / f / "4-distill" / "model") for f in recipe.folders),
    ]
    teacher, first, second, _ = (model.fingerprint() for model in models)
    assert recipe.folders == ("1-70pct", "2-45pct", "3-40pct")
    assert [parent_of(out / folder) for folder in recipe.folders] == [teacher, first, teacher]
    manifests = [json.loads((out / folder / "manifest.json").read_text()) for folder in recipe.folders]
    taught = [m.get("distill teacher", m["teacher"])["fingerprint"] for m in manifests]
    assert taught == [teacher, teacher, second]


def test_percentages_are_of_the_teacher_whatever_is_cut(made):
    _, result, _ = made
    whole = result["teacher"]["num_parameters"]
    parts = [member["num_parameters"] / whole for member in result["members"]]
    for part, wanted in zip(parts, (0.7, 0.45, 0.4), strict=True):
        assert wanted * 0.85 <= part <= wanted * 1.15


def test_a_member_learned_from_its_teacher_and_is_measured_against_it(made):
    out, _, recipe = made
    models = json.loads((out / recipe.folders[1] / "5-evaluate" / "results.json").read_text())["models"]
    assert list(models) == ["teacher", "parent", "trimmed", "distilled"]
    assert models["teacher"]["kl_to_teacher"] is None
    assert models["teacher"]["num_parameters"] > models["parent"]["num_parameters"]
    assert models["distilled"]["kl_to_teacher"]["mean"] < models["trimmed"]["kl_to_teacher"]["mean"]
    page = (out / recipe.folders[1] / "report.html").read_text()
    assert "Parent, " in page
    assert "Teacher, " not in page
    card = (out / recipe.folders[1] / "4-distill" / "model" / "README.md").read_text()
    assert "then distilled from teacher" in card


def test_the_account_is_that_of_shapes_and_tokens(made):
    out, result, recipe = made
    config = read_config(recipe.teacher)
    teacher = own_shape(config)
    shapes = [own_shape(read_config(str(out / f / "4-distill" / "model"))) for f in recipe.folders]
    second = result["members"][1]
    assert second["tokens"] == 1024
    assert second["flops"]["distill"] == 1024 * distill_flops(teacher, shapes[1], 16)
    assert result["members"][2]["flops"]["distill"] == 512 * distill_flops(shapes[1], shapes[2], 16)
    assert second["flops"]["score"] == 8 * 16 * shapes[0].forward_flops(16)
    candidates = json.loads((out / recipe.folders[1] / "2-choose" / "candidates.json").read_text())[
        "candidates"
    ]
    cheapest, dearest = 4 * shapes[1].forward_flops(16), 4 * teacher.forward_flops(16)
    assert len(candidates) * 256 * cheapest < second["flops"]["choose"] < len(candidates) * 256 * dearest
    assert second["scratch_flops"] == scratch_flops(shapes[1], 100_000, 16)
    assert second["share_of_scratch"] == second["flops"]["total"] / second["scratch_flops"]
    scratch = [result["teacher"]["scratch_flops"], *(m["scratch_flops"] for m in result["members"])]
    spent = scratch[0] + sum(m["flops"]["total"] for m in result["members"])
    assert result["saving"] == pytest.approx(sum(scratch) / spent)


def test_a_finished_family_is_not_made_again(made):
    out, result, recipe = made
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert family.run(recipe, out=out) == result
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before


def test_a_member_begun_and_not_done_is_finished_to_the_same_bytes(made, tmp_path):
    out, _, recipe = made
    again = tmp_path / "again"
    shutil.copytree(out, again)
    recipe = recipe.model_copy(update={"members": recipe.members[:1]})
    mark = again / recipe.folders[0] / "4-distill" / DONE
    mark.rename(mark.with_name("BEGUN"))
    family.run(recipe, out=again)
    assert len(json.loads((again / "family.json").read_text())["members"]) == 1
    weights = f"{recipe.folders[0]}/4-distill/model/model.safetensors"
    assert (again / weights).read_bytes() == (out / weights).read_bytes()


def test_a_changed_recipe_is_refused_before_anything_is_lost(made):
    out, _, recipe = made
    kept = (out / "recipe.yaml").read_text()
    with pytest.raises(RunError, match="1-70pct"):
        family.run(recipe.model_copy(update={"seed": 5}), out=out)
    assert (out / "recipe.yaml").read_text() == kept


def test_the_page_has_a_row_for_every_model_and_says_the_saving(made):
    out, result, recipe = made
    page = (out / "report.html").read_text()
    assert all(f'<a href="./{folder}/report.html">' in page for folder in recipe.folders)
    assert f"{result['saving']:.2f} times cheaper" in page
    assert page.count("<svg") == 3  # the mark, and the picture at two widths
    assert f"{result['members'][2]['share_of_scratch']:.2%}" in page


def test_a_page_of_an_unfinished_family_is_refused(made, tmp_path):
    out, *_ = made
    with pytest.raises(RunError, match="not finished"):
        write_family_report(tmp_path)
    family_file = json.loads((out / "family.json").read_text())
    del family_file["members"][0]["flops"]
    (tmp_path / "family.json").write_text(json.dumps(family_file))
    with pytest.raises(RunError, match="flops"):
        write_family_report(tmp_path)


def test_a_plan_without_problems_counts_every_member(planned):
    found = planned(MEMBERS)
    assert found.problems == ()
    assert all(member.candidates for member in found.members)
    sizes = [max(shape.num_parameters for shape in member.candidates) for member in found.members]
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ([{"to": "50%"}, {"to": "60%"}], r"member 2: it is to have .* member 1, from which it is cut"),
        ([{"to": "50%"}, {"to": "1B", "cut_from": "teacher"}], r"member 2: .* and the teacher has"),
        ([{"to": "70%"}, {"to": "3%"}], r"member 2: llama: no shape has"),
        ([{"to": "3%"}, {"to": "2%"}], r"^llama: no shape has"),
    ],
)
def test_sizes_that_cannot_be_are_refused_before_any_work(planned, tmp_path, members, named):
    found = planned(members)
    with pytest.raises(BudgetError, match=named):
        found.raise_problems()
    with pytest.raises(BudgetError, match=named):
        family.run(found.recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_member_that_has_no_shape_for_one_outcome_of_the_one_before(planned):
    """Member 1 may lose a layer or neurons; member 2 only neurons, of which too few are left in one case."""
    first = {"to": "70%", "choose": {"grid": {"layer": [1, 2], "ffn": [8, 48]}, "tolerance": "30%"}}
    found = planned([first, {"to": "45%", "choose": {"axes": ["ffn"], "tolerance": "2%"}}])
    assert any("if member 1 becomes layer=" in problem.message for problem in found.problems)


def test_what_all_members_lack_is_said_once(planned, tmp_path):
    found = planned(MEMBERS, evaluate={"num_tokens": 160, "include_path": str(tmp_path / "none")})
    assert [p.message.count("is not a folder") for p in found.problems] == [1]
    assert not found.problems[0].message.startswith("member")


def test_a_teacher_with_other_tokens_is_refused_before_any_work(recipe_file, teacher, tmp_path):
    other = shutil.copytree(teacher, tmp_path / "other")
    recipe = load(recipe_file, CompressRecipe)
    distill = recipe.distill.model_copy(update={"teacher": str(other)})
    recipe = recipe.model_copy(update={"distill": distill})
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"\u0120\u0120"', '"xx"').replace('"!"', '"!?"'))
    with pytest.raises(CheckpointError, match="tokenizers of teacher"):
        compress.run(recipe, out=tmp_path / "run")
    shutil.copy(teacher / "tokenizer.json", other)
    config = json.loads((other / "config.json").read_text()) | {"vocab_size": 301}
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="has 301 tokens"):
        compress.run(recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_teacher_makes_other_trials_and_another_student(finished, tmp_path):
    """The scores do not depend on who teaches; everything after them does."""
    out, _, recipe = finished
    again = shutil.copytree(out, tmp_path / "again")
    distill = recipe.distill.model_copy(update={"teacher": str(out / "4-distill" / "model")})
    with pytest.raises(RunError, match="2-choose"):
        compress.run(recipe.model_copy(update={"distill": distill}), out=again)
