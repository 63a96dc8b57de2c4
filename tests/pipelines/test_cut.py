"""A cut as the recipe says: what lies in the folder, what is counted, what is refused beforehand."""

import json

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from niwaki.errors import FamilyError, RecipeError
from niwaki.pipelines.cut import MENDED, cut
from niwaki.pipelines.inputs import Inputs
from niwaki.pipelines.plan import plan
from niwaki.pruning.score import score
from niwaki.pruning.trim import RECORD, TrimRecord
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.load import load

SIZES = {"layer": 2, "hidden": 24, "ffn": 32, "kv": 2, "group": 2, "dim": 8, "vocab": 300}


@pytest.fixture
def recipe(recipe_file):
    """The recipe with another `trim` section, and a `choose` section that fits one shape."""

    def build(grid=None, **trim):
        content = yaml.safe_load(recipe_file.read_text()) | {"trim": trim}
        content["choose"] |= {"tolerance": "60%", "grid": grid or {"hidden": [24], "ffn": [32]}}
        recipe_file.write_text(yaml.safe_dump(content))
        return load(recipe_file, CompressRecipe)

    return build


@pytest.fixture
def cut_as(recipe, tmp_path):
    def build(name="out", sizes=SIZES, **trim):
        inputs = Inputs(recipe(**trim), tmp_path / "run")
        scores = score(inputs.load(inputs.teacher_folder), inputs.calibration, num_samples=8)
        cut(inputs, scores.importances(), sizes, tmp_path / name, depth_folder=tmp_path)
        return tmp_path / name

    return build


def read(folder):
    return json.loads((folder / MENDED).read_text())


def test_nothing_asked_for_is_a_bare_trim(cut_as):
    out = cut_as(rescale=False, repair=False)
    assert not (out / MENDED).exists()
    assert TrimRecord.load(out / RECORD).edits == []


def test_the_better_of_two_losses_decides_about_the_norms(cut_as):
    done = {choice: read(cut_as(str(choice), rescale=choice, repair=False)) for choice in ("auto", True)}
    losses = done["auto"]["kl_to_teacher"]
    assert losses == pytest.approx(done[True]["kl_to_teacher"])
    assert (done["auto"]["rescale"] is not None) == (losses["rescaled"] < losses["cut"])
    assert done[True]["rescale"] == pytest.approx((32 / 24) ** 0.5)


def test_a_repaired_student_is_saved_as_measured(cut_as, tmp_path):
    out = cut_as(repair=True)
    done = read(out)
    assert done["kl_to_teacher"]["repaired"] < done["kl_to_teacher"]["cut"]
    assert len(done["repairs"]) == 2 * 7
    student = AutoModelForCausalLM.from_pretrained(out)
    assert student.dtype == torch.bfloat16
    assert student.num_parameters() == TrimRecord.load(out / RECORD).num_parameters
    assert not list(tmp_path.glob("*.bare"))


def test_a_cut_again_after_a_kill_gives_the_same_bytes(cut_as):
    first = (cut_as() / "model.safetensors").read_bytes()
    assert (cut_as() / "model.safetensors").read_bytes() == first


def test_a_rotation_unties_and_is_counted_so(cut_as, recipe, tmp_path):
    out = cut_as(rotate=True, repair=True)
    record = TrimRecord.load(out / RECORD)
    student = AutoModelForCausalLM.from_pretrained(out)
    assert not student.config.tie_word_embeddings
    planned = plan(recipe(rotate=True), out=tmp_path / "run", flops_per_s=1e9)
    assert planned.problems == ()
    assert [s.num_parameters for s in planned.candidates] == [student.num_parameters()]
    assert record.num_parameters == student.num_parameters()
    tied = plan(recipe(rotate=False), out=tmp_path / "run", flops_per_s=1e9).candidates[0]
    assert planned.candidates[0].num_parameters == tied.num_parameters + 300 * 24
    assert planned.candidates[0].num_active_parameters == tied.num_active_parameters
    assert planned.teacher.num_parameters == record.num_parent_parameters
    assert record.keep["hidden"] == list(range(24))
    assert record.edits[0].startswith("rotation")


def test_a_cut_that_leaves_hidden_alone_is_not_rotated(cut_as):
    out = cut_as(rotate=True, repair=False, sizes=SIZES | {"hidden": 32})
    assert TrimRecord.load(out / RECORD).edits == []
    assert AutoModelForCausalLM.from_pretrained(out).config.tie_word_embeddings


def test_auto_rotates_where_embeddings_are_apart(cut_as):
    assert TrimRecord.load(cut_as(rotate="auto", repair=False) / RECORD).edits == []


def test_what_a_teacher_cannot_do_is_a_problem_of_the_plan(recipe, teacher, tmp_path):
    found = plan(
        recipe(grid={"group": [1, 2], "hidden": [24]}, head_residual="away", repair=False),
        out=tmp_path / "run",
        flops_per_s=1e9,
    )
    assert found.problems == ()
    config = json.loads((teacher / "config.json").read_text())
    config |= {"num_attention_heads": 8, "head_dim": 4, "num_key_value_heads": 2}
    (teacher / "config.json").write_text(json.dumps(config))
    found = plan(
        recipe(grid={"group": [1], "hidden": [24]}, head_residual="away", repair=False),
        out=tmp_path / "run",
        flops_per_s=1e9,
    )
    assert [type(problem) for problem in found.problems] == [RecipeError]
    assert "1 of 4 query heads" in found.problems[0].message
    config |= {"model_type": "olmo2"}
    (teacher / "config.json").write_text(json.dumps(config))
    found = plan(recipe(rotate=True), out=tmp_path / "run", flops_per_s=1e9)
    assert [type(problem) for problem in found.problems] == [FamilyError]
    assert "olmo2: the hidden stream cannot be rotated" in found.problems[0].message


@pytest.mark.parametrize(
    "grid, trim, message",
    [
        ({"ffn": [32]}, {"rotate": True}, "trim.rotate is about cut hidden channels"),
        ({"ffn": [32]}, {"rescale": True}, "trim.rescale is about cut hidden channels"),
        ({"ffn": [32]}, {"head_residual": "away"}, "trim.head_residual is about cut query heads"),
        ({"group": [1]}, {"head_residual": "away"}, "would undo trim.head_residual"),
        (None, {"rotate": "sometimes"}, "'sometimes' is not one of True, False, auto"),
    ],
)
def test_switches_that_would_do_nothing_are_refused(recipe, grid, trim, message):
    with pytest.raises(RecipeError, match=message):
        recipe(grid=grid, **trim)
