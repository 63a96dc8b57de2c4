"""What somebody else wrote cannot lead out of a folder: names in recipes, indexes and run directories."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from niwaki.errors import CheckpointError, NiwakiError
from niwaki.ground.checkpoint import Checkpoint
from niwaki.recipe import family
from niwaki.recipe.curate import Source
from niwaki.recipe.family import FamilyRecipe

ESCAPES = [
    "../outside.safetensors",
    "/etc/passwd",
    "sub/model.safetensors",
    "a/../../b.safetensors",
    "..",
    "",
]


@pytest.fixture
def sharded(tiny_model, tmp_path) -> Path:
    """A model of two shards or more, beside a file that is none of its business."""
    folder = tmp_path / "model"
    tiny_model.save_pretrained(folder, max_shard_size="20KB")
    (tmp_path / "outside.safetensors").write_bytes((sorted(folder.glob("*.safetensors"))[0]).read_bytes())
    Checkpoint(folder)
    return folder


@pytest.mark.parametrize("name", [*ESCAPES, 7, None, ["x"], {"a": 1}])
def test_an_index_names_files_of_its_own_folder_only(sharded, name):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    first = next(iter(index["weight_map"]))
    index["weight_map"][first] = name
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        Checkpoint(sharded)


@given(to=st.one_of(st.text(max_size=12), st.sampled_from(["50%", "4B", "8GB", "../50%", "1.5B", "/tmp"])))
def test_the_folder_of_a_member_is_one_plain_name(to):
    content = family.starter().model_dump(mode="json") | {"members": [{"to": to}]}
    try:
        folders = FamilyRecipe.model_validate(content).folders
    except (ValueError, NiwakiError):
        return
    assert [Path(folder).name for folder in folders] == list(folders)
    assert not set("/\\\0:") & set("".join(folders))


@given(st.text(max_size=12))
def test_the_name_of_a_set_of_questions_is_one_plain_name(name):
    try:
        source = Source(name=name, adapter="gsm8k")
    except ValueError:
        return
    assert Path(source.name).name == source.name
    assert source.name not in (".", "..")
    assert "\0" not in source.name
