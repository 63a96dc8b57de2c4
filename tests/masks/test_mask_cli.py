"""`niwaki mask`: apply, import, export, info, diff, and what they refuse."""

import json

import pytest
import torch
from typer.testing import CliRunner

from niwaki.cli import EXIT_USER_ERROR, app
from niwaki.ground.checkpoint import Checkpoint
from niwaki.masks.file import Origin, save
from niwaki.masks.oneshot import one_shot
from niwaki.masks.patterns import Pattern
from niwaki.masks.tensors import maskable

PATTERN = Pattern.parse("2:4")


@pytest.fixture
def here(tmp_path, tiny_model, tokenizer, monkeypatch):
    """A folder with a `dense` model, its magnitude mask `a.mask`, and `b.mask` with other choices."""
    monkeypatch.chdir(tmp_path)
    tiny_model.save_pretrained("dense")
    tokenizer.save_pretrained("dense")
    checkpoint = Checkpoint(tmp_path / "dense")
    shapes = maskable(checkpoint.config, PATTERN)
    masks = {e.name: e.numbers for e in one_shot(tiny_model, None, pattern=PATTERN, method="magnitude")}
    origin = Origin("dense", checkpoint.fingerprint(), {"method": "magnitude"})
    save(tmp_path / "a.mask", masks, shapes, PATTERN, origin)
    save(tmp_path / "b.mask", {n: (m + 1) % 6 for n, m in masks.items()}, shapes, PATTERN, origin)
    return tmp_path


def call(*arguments):
    return CliRunner().invoke(app, ["mask", *arguments])


def test_masks_are_described_compared_and_applied(here):
    told = call("info", "a.mask")
    assert told.exit_code == 0
    assert "2:4 on 14 tensors" in told.output
    assert "method magnitude" in told.output
    assert json.loads(call("info", "a.mask", "--json").output)["pattern"] == "2:4"
    assert "0.00% of the groups" in call("diff", "a.mask", "a.mask").output
    assert json.loads(call("diff", "a.mask", "b.mask", "--json").output)["all"]["groups"] == 1.0
    assert call("apply", "dense", "--mask", "a.mask", "--out", "sparse").exit_code == 0
    weight = Checkpoint(here / "sparse").read("model.layers.0.mlp.up_proj.weight")
    assert torch.equal((weight != 0).reshape(-1, 4).sum(1), torch.full((weight.numel() // 4,), 2))


def test_export_and_import_give_the_same_mask(here):
    assert call("export", "a.mask", "--out", "mask_compressed.npz").exit_code == 0
    assert call("import", "dense", "mask_compressed.npz", "--out", "c.mask").exit_code == 0
    one, other = (json.loads(call("info", f, "--json").output)["sha256"] for f in ("a.mask", "c.mask"))
    assert one == other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "none.mask"), "the file is missing"),
        (("apply", "dense", "--mask", "a.mask", "--out", "dense"), "already holds"),
        (("export", "a.mask", "--out", "b.mask"), "already there"),
        (("import", "dense", "a.mask", "--out", "c.mask"), "no readable npz"),
        (("import", "dense", "x.npz", "--out", "c.mask", "--pattern", "2-4"), "is not N:M"),
    ],
)
def test_mistakes_are_a_message_a_remedy_and_exit_code_2(here, arguments, message):
    result = call(*arguments)
    assert result.exit_code == EXIT_USER_ERROR
    assert message in result.output


def test_a_mask_of_another_model_is_refused(here):
    result = call("apply", "sapling", "--mask", "a.mask", "--out", "sparse")
    assert result.exit_code == EXIT_USER_ERROR
    assert "made for the model 'dense'" in result.output
    assert not (here / "sparse").exists()
