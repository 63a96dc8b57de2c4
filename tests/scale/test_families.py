"""Every family in parts over two processes gives the logits of the whole model; so does what is gathered."""

import json
from pathlib import Path

import pytest

from niwaki.ground.family import FAMILIES

from ..launch import torchrun

FAMILY_TESTS = Path(__file__).parents[1] / "families"
SCRIPT = """
import json, sys, torch
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from tiny import PROMPT, tiny

from niwaki.ground import processes
from niwaki.ground.family import FAMILIES
from niwaki.ground.model import load_model
from niwaki.ground.parts import gather_model, load_in_parts
from niwaki.ground.spread import running

out, found = Path(sys.argv[2]), {}
with processes.together(), torch.no_grad():
    for name in FAMILIES:
        for tied in (False, True):
            folder = out / f"{name}-{tied}"
            processes.by_main(lambda: tiny(name, tie_word_embeddings=tied)[2].save_pretrained(folder))
            whole, divided = (load(folder, dtype=torch.float32) for load in (load_model, load_in_parts))
            expected = whole(PROMPT).logits
            with running(divided):
                same = torch.equal(divided(PROMPT).logits, expected)
            gathered = gather_model(divided, torch.float32)
            found[folder.name] = same and (gathered is None or torch.equal(gathered(PROMPT).logits, expected))
    (out / f"{processes.number()}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Family and whether embeddings are tied -> whether each of the two processes found the same logits."""
    out = tmp_path_factory.mktemp("families")
    (out / "script.py").write_text(SCRIPT)
    done = torchrun(str(out / "script.py"), str(FAMILY_TESTS), str(out), processes=2, sharded=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((out / f"{number}.json").read_text()) for number in range(2)]


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_family_in_parts_is_the_family(found, name, tied):
    assert [each[f"{name}-{tied}"] for each in found] == [True, True]
