import subprocess
import sys

import pytest

import niwaki


@pytest.mark.parametrize("name", niwaki.__all__)
def test_every_public_name_is_a_documented_function(name):
    function = getattr(niwaki, name)
    assert callable(function)
    assert function.__doc__
    assert name in dir(niwaki)


def test_public_names_are_sorted_and_complete():
    assert niwaki.__all__ == sorted(niwaki._HOMES)


def test_importing_niwaki_loads_no_torch():
    code = "import niwaki, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        _ = niwaki.prune
