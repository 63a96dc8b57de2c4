"""What somebody else wrote cannot lead out of a folder: names in recipes, indexes and run directories."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import DictLoader

import niwaki
from niwaki.errors import CheckpointError, NiwakiError
from niwaki.ground.checkpoint import Checkpoint
from niwaki.recipe import family
from niwaki.recipe.curate import Source
from niwaki.recipe.family import FamilyRecipe
from niwaki.reporting import page

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


TEMPLATES = sorted((Path(niwaki.__file__).parent / "reporting" / "templates").glob("*.j2"))
SOURCES = {path: path.read_text() for path in sorted(Path(niwaki.__file__).parent.rglob("*.py"))}
HOSTILE = "</pre><script>alert('x')</script>\"'&<img src=x onerror=alert(1)>"


def test_every_page_comes_out_of_the_one_environment_that_escapes():
    assert [path.name for path, text in SOURCES.items() if "Environment(" in text] == ["page.py"]
    trusted = {path.name for path, text in SOURCES.items() if re.search(r"\bMarkup\((?!\"\"\))", text)}
    assert trusted == {"svg.py"}
    assert not [
        path.name for path, text in SOURCES.items() if re.search(r"<(html|script|body|table)\b", text)
    ]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_lets_no_value_through_as_it_is(path):
    text = path.read_text()
    for word in ("|safe", "| safe", "autoescape", "|attr", "<script", "javascript:"):
        assert word not in text
    assert not re.search(r"\son\w+=", text)
    # Escaping does not make an address harmless: one that begins with a value may say `javascript:`.
    assert not re.search(r"(?:href|src|action)=[\"']?\{\{", text)
    assert not re.search(r"=\{\{", text)  # an attribute without quotes
    if not path.name.endswith(".html.j2") and path.name != "card.md.j2":
        assert "{{" not in text  # only pages are escaped


@pytest.mark.parametrize("path", [p for p in TEMPLATES if p.name.endswith(".html.j2")], ids=lambda p: p.name)
def test_a_value_in_a_page_is_escaped(path):
    environment = page.environment()
    probe = environment.overlay(loader=DictLoader({path.name: '<p title="{{ x }}">{{ x }}</p>'}))
    shown = probe.get_template(path.name).render(x=HOSTILE)
    assert "<script" not in shown
    assert "<img" not in shown
    assert shown.count('"') == 2
