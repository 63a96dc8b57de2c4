"""What processes share out by rows: each gets what one process gets."""

import numpy as np
import pytest
from safetensors.torch import load_file

from ..launch import torchrun
from . import shared_work

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The folder in which two processes have done every stage."""
    folder = tmp_path_factory.mktemp("shared")
    done = torchrun(shared_work.__file__, str(folder), processes=2)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("stage", shared_work.STAGES)
def test_each_of_two_processes_gets_what_one_gets(shared, stage, tmp_path):
    expected = shared_work.STAGES[stage](tmp_path)
    for number in range(2):
        found = load_file(shared / f"{stage}-{number}.safetensors")
        assert set(found) == set(expected)
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, rtol=TOLERANCE, atol=1e-7, err_msg=name)
