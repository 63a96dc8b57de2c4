"""`niwaki push`: what goes to the Hub, what never does, and that it arrived; against a Hub on 127.0.0.1."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_hub
import fake_run
import pytest
import yaml
from huggingface_hub import constants
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

from niwaki.cli import EXIT_USER_ERROR, app
from niwaki.errors import HubError
from niwaki.pipelines.publish import prepare, push
from niwaki.recipe import compress, family
from niwaki.recipe.write import dump

NAME = "gardener/small-tree"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_hub.FakeHub]:
    with fake_hub.serving() as serving:
        for name, value in {
            "ENDPOINT": serving.url,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
        yield serving


@pytest.fixture
def make_run(tmp_path: Path, tiny_model: LlamaForCausalLM) -> Callable[..., Path]:
    """A finished run whose teacher's card says `licence`, with a real model of two layers."""

    def make(licence: str | None = "apache-2.0") -> Path:
        run = fake_run.write_fake_run(tmp_path / "run")
        teacher = tmp_path / "secret place" / "teacher"
        tiny_model.save_pretrained(teacher)
        if licence is not None:
            (teacher / "README.md").write_text(f"---\nlicense: {licence}\n---\n# Teacher\n")
        (teacher / "NOTICE").write_text("Built by the teacher's authors.")
        recipe = compress.starter().model_copy(update={"teacher": str(teacher)})
        (run / "recipe.yaml").write_text(dump(recipe))
        manifest = json.loads((run / "manifest.json").read_text())
        (run / "manifest.json").write_text(json.dumps(manifest | {"teacher": {"path": str(teacher)}}))
        tiny_model.save_pretrained(run / "4-distill" / "model")
        (run / "4-distill" / "DONE").write_text("{}")
        return run

    return make


def call(*arguments: object):
    return CliRunner().invoke(app, ["push", *map(str, arguments)])


def test_what_was_made_arrives_whole_and_private(hub, make_run):
    run = make_run()
    result = call(run, NAME)
    assert result.exit_code == 0, result.stderr
    model = run / "4-distill" / "model"
    stored = hub.repositories[NAME]
    assert stored["private"] is True
    assert stored["files"] == {path.name: path.read_bytes() for path in model.iterdir()}
    assert {"model.safetensors", "config.json", "README.md", "NOTICE"} <= set(stored["files"])
    assert f"{hub.url}/{NAME}" in result.stdout


def test_the_card_has_recipe_numbers_licence_and_limits_and_no_path_of_this_machine(hub, make_run, tmp_path):
    run = make_run()
    assert call(run, NAME, "--public").exit_code == 0
    assert hub.repositories[NAME]["private"] is False
    card = hub.repositories[NAME]["files"]["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "transformers"
    assert "base_model" not in front  # a folder is no model of the Hub
    assert "1.313" in card  # the student's loss
    assert "learning_rate:" in card
    assert "no safety evaluation" in card
    assert str(tmp_path) not in card
    assert "secret place" not in card
    assert '\nteacher: ".../teacher"' in card


def test_without_a_licence_nothing_is_sent_unless_it_is_stated(hub, make_run):
    run = make_run(licence=None)
    refused = call(run, NAME)
    assert refused.exit_code == EXIT_USER_ERROR
    assert "--license" in refused.stderr
    assert hub.requests == []
    assert call(run, NAME, "--license", "MIT !").exit_code == EXIT_USER_ERROR
    assert call(run, NAME, "--license", "mit").exit_code == 0
    card = hub.repositories[NAME]["files"]["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["license"] == "mit"
    assert "whoever published this model states it" in card


def test_the_teachers_licence_cannot_be_changed(hub, make_run):
    refused = call(make_run("llama3.1"), NAME, "--license", "mit")
    assert refused.exit_code == EXIT_USER_ERROR
    assert "llama3.1" in refused.stderr
    assert hub.requests == []


def test_a_dry_run_shows_the_files_and_touches_no_network(hub, make_run):
    run = make_run()
    shown = call(run, NAME, "--dry-run")
    assert shown.exit_code == 0
    assert hub.requests == []
    for path in (run / "4-distill" / "model").iterdir():
        assert path.name in shown.stdout
    found = json.loads(call(run, NAME, "--dry-run", "--json").stdout)
    assert (found["address"], found["license"], found["private"]) == (None, "apache-2.0", True)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling_evil.py", "sub/optimizer.pt", "noise"])
def test_files_that_may_hold_code_are_refused(hub, make_run, name):
    run = make_run()
    path = run / "4-distill" / "model" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    refused = call(run, NAME)
    assert refused.exit_code == EXIT_USER_ERROR
    assert name in refused.stderr
    assert hub.requests == []


def test_a_link_out_of_the_folder_is_refused(hub, make_run, tmp_path):
    run = make_run()
    (tmp_path / "private.json").write_text("{}")
    (run / "4-distill" / "model" / "extra.json").symlink_to(tmp_path / "private.json")
    assert "is a link" in call(run, NAME).stderr
    assert hub.requests == []


def test_damaged_weights_are_refused(hub, make_run):
    run = make_run()
    weights = run / "4-distill" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert call(run, NAME).exit_code == EXIT_USER_ERROR
    assert hub.requests == []


def test_what_lies_on_the_hub_is_left_alone_unless_asked(hub, make_run):
    run = make_run()
    hub.repositories[NAME] = {"private": True, "files": {"model.safetensors": b"another model", "x.md": b""}}
    refused = call(run, NAME)
    assert refused.exit_code == EXIT_USER_ERROR
    assert "--update" in refused.stderr
    assert hub.repositories[NAME]["files"]["model.safetensors"] == b"another model"
    assert call(run, NAME, "--update").exit_code == 0
    assert hub.repositories[NAME]["files"]["model.safetensors"] != b"another model"
    assert "x.md" in hub.repositories[NAME]["files"]
    # The same again is no change of somebody else's work, but what an interrupted upload needs.
    del hub.repositories[NAME]["files"]["x.md"], hub.repositories[NAME]["files"]["config.json"]
    assert call(run, NAME).exit_code == 0
    assert "config.json" in hub.repositories[NAME]["files"]


@pytest.mark.parametrize("spoiled", ["model.safetensors", "config.json"])
def test_what_arrived_is_compared_with_what_was_sent(hub, make_run, spoiled):
    hub.spoil = spoiled
    refused = call(make_run(), NAME)
    assert refused.exit_code == EXIT_USER_ERROR
    assert "not what was sent" in refused.stderr


def test_a_wrong_token_and_a_hub_that_is_away_are_said_in_words(hub, make_run, monkeypatch):
    run = make_run()
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "hf auth login" in call(run, NAME).stderr
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        push(prepare(run, NAME, licence=None, is_private=True))


@pytest.mark.parametrize("name", ["small-tree", "a/b/c", "../escape", "a b/c", "user/-x-"])
def test_names_that_the_hub_does_not_take(make_run, name):
    with pytest.raises(HubError, match="user/name"):
        prepare(make_run(), name, licence=None, is_private=True)


def test_only_finished_runs_of_one_model(hub, make_run, tmp_path):
    run = make_run()
    (run / "4-distill" / "DONE").unlink()
    assert "has not finished" in call(run, NAME).stderr
    (run / "recipe.yaml").write_text(dump(family.starter()))
    assert "one of the members" in call(run, NAME).stderr
    assert "not a run directory" in call(tmp_path, NAME).stderr
    assert hub.requests == []
