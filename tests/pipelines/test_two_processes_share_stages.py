"""What processes share out by rows: each gets what one process gets."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file

from ..conftest import write_texts
from ..launch import torchrun
from . import shared_work

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def given(tokenizer, tmp_path_factory):
    """A folder with what the stages read: a teacher, texts and tasks."""
    folder = tmp_path_factory.mktemp("given")
    shared_work.write_tasks(folder / "tasks")
    write_texts(folder / "texts")
    shared_work.model().save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    return folder


def work_together(given, out, *stages, sharded):
    done = torchrun(shared_work.__file__, str(given), str(out), *stages, processes=2, sharded=sharded)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def shared(given, tmp_path_factory):
    """The folder in which two processes have done every stage."""
    return work_together(given, tmp_path_factory.mktemp("shared"), *shared_work.STAGES, sharded=False)


@pytest.mark.parametrize("stage", shared_work.STAGES)
def test_each_of_two_processes_gets_what_one_gets_and_does_part_of_it(given, shared, stage, tmp_path):
    num_tokens = check_same(given, shared, stage, tmp_path)
    for number in range(2):
        # The first also does what the main process does to check what it saved.
        part = json.loads((shared / f"{stage}-{number}.json").read_text())
        assert 0 < part <= (0.9, 0.5)[number] * num_tokens


def test_processes_that_share_the_weights_cut_and_answer_alike(given, tmp_path):
    stages = [stage for stage in ("trim", "tasks") if stage in shared_work.STAGES]
    (tmp_path / "two").mkdir()
    out = work_together(given, tmp_path / "two", *stages, sharded=True)
    for stage in stages:
        (tmp_path / stage).mkdir()
        check_same(given, out, stage, tmp_path / stage)


def check_same(given, shared, stage, alone):
    """Compare what each of two processes got with what this one gets; how many tokens this one ran."""
    expected, num_tokens = shared_work.do(stage, given, alone)
    for number in range(2):
        found = load_file(shared / f"{stage}-{number}.safetensors")
        assert set(found) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=TOLERANCE, atol=1e-5, err_msg=name)
    return num_tokens
