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


@pytest.fixture(scope="module")
def shared(given, tmp_path_factory):
    """The folder in which two processes have done every stage."""
    out = tmp_path_factory.mktemp("shared")
    done = torchrun(shared_work.__file__, str(given), str(out), processes=2)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.mark.parametrize("stage", shared_work.STAGES)
def test_each_of_two_processes_gets_what_one_gets_and_does_part_of_it(given, shared, stage, tmp_path):
    expected, num_tokens = shared_work.do(stage, given, tmp_path)
    for number in range(2):
        found = load_file(shared / f"{stage}-{number}.safetensors")
        assert set(found) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=TOLERANCE, atol=1e-5, err_msg=name)
        # The first also does what the main process does to check what it saved.
        part = json.loads((shared / f"{stage}-{number}.json").read_text())
        assert 0 < part <= (0.9, 0.5)[number] * num_tokens
