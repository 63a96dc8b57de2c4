"""The corrected teacher: alone or in its student's lessons it goes the same way, through kills too."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from niwaki.distillation.correction import correct, distill_and_correct
from niwaki.distillation.train import distill
from niwaki.errors import CheckpointError
from niwaki.ground.stream import Rows

TOKENS = np.random.default_rng(0).integers(0, 20, 4000)
ROWS = Rows(TOKENS, sequence_length=16, seed=0)
HELD_OUT = Rows(TOKENS[::-1].copy(), sequence_length=16)
SETTINGS = {
    "num_steps": 6,
    "batch_rows": 4,
    "micro_rows": 2,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "weight_decay": 0.1,
    "clip_norm": 0.5,
    "save_every_steps": 2,
}


@pytest.fixture
def student(tiny_model):
    return tiny_model


@pytest.fixture
def teacher(tiny_model):
    """Larger weights than the student's, so that the two clip and learn differently."""
    model = copy.deepcopy(tiny_model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same_bytes(first, second):
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def records(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").open()]


def test_a_corrected_teacher_predicts_the_text_better(teacher, tmp_path):
    measured = {"held_out": HELD_OUT, "held_out_rows": 8, "num_steps": 12}
    correct(teacher, ROWS, out=tmp_path, **SETTINGS | measured)
    first, last = (r["held_out_cross_entropy"] for r in records(tmp_path) if "held_out_cross_entropy" in r)
    assert last < first - 0.5


def test_beside_its_student_a_teacher_goes_the_way_it_goes_alone(student, teacher, tmp_path):
    alone, beside = copy.deepcopy(teacher), teacher
    correct(alone, ROWS, out=tmp_path / "alone", **SETTINGS | {"learning_rate": 2e-3})
    distill_and_correct(
        student, beside, ROWS, out=tmp_path / "beside", teacher_learning_rate=2e-3, **SETTINGS
    )
    assert_same_bytes(state(alone), state(beside))
    theirs = [r["teacher_cross_entropy"] for r in records(tmp_path / "beside")]
    assert theirs == [r["cross_entropy"] for r in records(tmp_path / "alone")]


def test_a_teacher_that_stands_still_teaches_as_a_live_one_does(student, teacher, tmp_path):
    live, beside, before = copy.deepcopy(student), student, state(teacher)
    distill(live, teacher, ROWS, out=tmp_path / "live", **SETTINGS)
    distill_and_correct(beside, teacher, ROWS, out=tmp_path / "beside", teacher_learning_rate=0.0, **SETTINGS)
    assert_same_bytes(before, state(teacher))
    assert_same_bytes(state(live), state(beside))


def test_the_student_learns_from_the_teacher_as_it_is_being_corrected(student, teacher, tmp_path):
    settings = SETTINGS | {"num_steps": 2, "warmup_steps": 0, "save_every_steps": 1}
    once, first = copy.deepcopy(teacher), SETTINGS | {"num_steps": 1, "warmup_steps": 0}
    correct(once, ROWS, out=tmp_path / "once", **first)
    distill_and_correct(student, teacher, ROWS, out=tmp_path / "run", teacher_learning_rate=1e-2, **settings)
    batch = ROWS.take(4, 4)
    trained = copy.deepcopy(student)
    after_one = load_file(tmp_path / "run" / "checkpoints" / "step-0000001" / "model-1-of-1.safetensors")
    prefix = "model.student."
    trained.load_state_dict(
        {n.removeprefix(prefix): t for n, t in after_one.items() if n.startswith(prefix)}, strict=False
    )
    with torch.no_grad():
        log_p = torch.log_softmax(once(batch["inputs"]).logits, dim=-1)
        log_q = torch.log_softmax(trained(batch["inputs"]).logits, dim=-1)
    expected = (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()
    assert records(tmp_path / "run")[1]["kl"] == pytest.approx(expected.item(), rel=1e-4)


def run_correction(student, teacher, out, **options):
    correct(teacher, ROWS, out=out, **SETTINGS | options)


def run_lessons(student, teacher, out, **options):
    distill_and_correct(student, teacher, ROWS, out=out, teacher_learning_rate=2e-3, **SETTINGS | options)


class Dying(Rows):
    """Rows that end the process when they are asked for the first row of step 5."""

    def take(self, start, count):
        if start == 4 * 5:
            raise KeyboardInterrupt
        return super().take(start, count)


@pytest.mark.parametrize("run", [run_correction, run_lessons])
def test_killed_and_resumed_is_straight_through(student, teacher, tmp_path, monkeypatch, run):
    models = student, teacher
    straight, killed, resumed = (copy.deepcopy(models) for _ in range(3))
    run(*straight, tmp_path / "straight")
    monkeypatch.setitem(globals(), "ROWS", Dying(TOKENS, sequence_length=16, seed=0))
    with pytest.raises(KeyboardInterrupt):
        run(*killed, tmp_path / "killed")
    monkeypatch.undo()
    assert len(records(tmp_path / "killed")) == 5
    run(*resumed, tmp_path / "killed")
    for ours, theirs in zip(straight, resumed, strict=True):
        assert_same_bytes(state(ours), state(theirs))
    losses = [[r["loss"] for r in records(tmp_path / name)] for name in ("straight", "killed")]
    assert losses[0] == losses[1]


def test_the_teacher_answers_without_dropout_in_its_students_lessons(student, teacher, tmp_path):
    for layer in teacher.model.layers:
        layer.self_attn.attention_dropout = 0.5
    results = []
    for seed in (0, 1):
        run_lessons(copy.deepcopy(student), copy.deepcopy(teacher), tmp_path / str(seed), seed=seed)
        results.append([r["loss"] for r in records(tmp_path / str(seed))])
    assert results[0] == results[1]


def test_vocabularies_of_different_size_are_refused_before_anything_is_written(student, teacher, tmp_path):
    teacher.resize_token_embeddings(320)
    with pytest.raises(CheckpointError, match="student's head has 300 tokens, the teacher's 320"):
        run_lessons(student, teacher, tmp_path / "run")
    assert not (tmp_path / "run").exists()
