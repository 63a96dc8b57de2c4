"""Every family either keeps its logits under a rotation of the hidden stream, or is refused with a reason."""

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from niwaki.errors import FamilyError
from niwaki.ground.axes import parse
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.families.lines import LAYER_NORM
from niwaki.ground.family import FAMILIES
from niwaki.pruning.rescale import rescale_norms
from niwaki.pruning.rotate import principal_basis, rotate, rotation, second_moment
from niwaki.pruning.trim import trim

ROTATABLE = [name for name, family in FAMILIES.items() if not family.no_rotation]
# Where hidden is bound to the heads, it cannot be cut alone.
RMS_NORM = [n for n, f in FAMILIES.items() if f.no_rotation != LAYER_NORM and not f.hidden_is_heads]
BIASES = dict.fromkeys(tiny.OPTIONAL_BIASES, tiny.WITH_BIASES)
CASES = [(name, False) for name in ROTATABLE] + [(name, True) for name in ("llama", "gemma", "granite")]


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def any_basis(size):
    generator = torch.Generator().manual_seed(5)
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator)).Q


@pytest.mark.parametrize("model_type, tied", CASES)
def test_a_rotated_model_is_a_stock_model_with_the_same_logits(tmp_path, model_type, tied):
    family, config, model = tiny.tiny(model_type, tie_word_embeddings=tied, **BIASES.get(model_type, {}))
    model.save_pretrained(tmp_path / "source", max_shard_size="30KB")
    basis = any_basis(config.hidden_size)
    record = rotate(tmp_path / "source", tmp_path / "out", basis=basis)
    rotated = load(tmp_path / "out")
    assert type(rotated) is type(model)
    assert not rotated.config.tie_word_embeddings
    assert record.num_parameters == rotated.num_parameters() == family.count(record.sizes, tied=False)
    torch.testing.assert_close(tiny.logits(rotated), tiny.logits(model), rtol=1e-4, atol=1e-4)
    embedding = model.get_input_embeddings().weight
    expected = (embedding.double() @ basis).float()
    torch.testing.assert_close(rotated.get_input_embeddings().weight, expected)
    gains = {n: p for n, p in rotated.named_parameters() if family.match(n).expr == "hidden" and "norm" in n}
    assert all((gain + family.norm_offset == 1).all() for gain in gains.values())
    assert len(gains) == 2 * record.sizes["layer"] + 1


@pytest.mark.parametrize("model_type", [name for name in FAMILIES if name not in ROTATABLE])
def test_what_cannot_be_rotated_is_refused_by_name_before_anything_is_written(tmp_path, model_type):
    family, config, model = tiny.tiny(model_type)
    model.save_pretrained(tmp_path / "source")
    with pytest.raises(FamilyError, match=f"{model_type}: .*cannot be rotated: {family.no_rotation}"):
        rotate(tmp_path / "source", tmp_path / "out", basis=torch.eye(config.hidden_size))
    with pytest.raises(FamilyError, match="cannot be rotated"):
        second_moment(model, tiny.PromptRows(), num_samples=2, batch_rows=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model_type", ["gemma2", "olmo2", "nemotron"])
def test_refused_families_would_not_keep_their_logits(tmp_path, monkeypatch, model_type):
    """The reason in the table is true."""
    monkeypatch.setitem(vars(FAMILIES[model_type]), "no_rotation", "")
    _, config, model = tiny.tiny(model_type)
    model.save_pretrained(tmp_path / "source")
    rotate(tmp_path / "source", tmp_path / "out", basis=any_basis(config.hidden_size))
    assert (tiny.logits(load(tmp_path / "out")) - tiny.logits(model)).abs().max() > 0.1


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_stream_that_lies_in_a_plane_survives_a_cut_to_that_plane(tmp_path, tied):
    """Silent directions, not silent channels: no choice of channels would do."""
    width = 24
    _, config, model = tiny.tiny("llama", tie_word_embeddings=tied, rms_norm_eps=1e-12)
    plane = any_basis(config.hidden_size)[:, :width].float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("embed_tokens.weight"):
                parameter.copy_(parameter @ plane @ plane.T)
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.copy_(plane @ plane.T @ parameter)
    expected = tiny.logits(model)
    model.save_pretrained(tmp_path / "source")
    basis = principal_basis(second_moment(model, tiny.PromptRows(), num_samples=2, batch_rows=1))
    keep = {"hidden": torch.arange(width)}
    record = trim(
        tmp_path / "source", tmp_path / "out", keep=keep, edits=[rotation(tmp_path / "source", basis)]
    )
    found = load(tmp_path / "out")
    rescale_norms(found, (config.hidden_size / width) ** 0.5)
    assert record.sizes["hidden"] == width
    torch.testing.assert_close(tiny.logits(found), expected, rtol=1e-3, atol=1e-3)
    assert "lm_head.weight" in Checkpoint(tmp_path / "out").names()


@pytest.mark.parametrize("model_type", RMS_NORM)
def test_larger_norm_weights_undo_a_cut_of_silent_channels(tmp_path, model_type):
    family, config, model = tiny.tiny(model_type, rms_norm_eps=1e-12, **BIASES.get(model_type, {}))
    sizes = family.axis_sizes(config)
    width = 36  # a multiple of the number of heads, which some configs want
    kept = tiny.subset("hidden", width, sizes, torch.Generator().manual_seed(3))
    silent = torch.ones(sizes["hidden"]).index_fill(0, kept, 0).bool()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            dims = parse(family.match(name).expr)
            if name == f"{family.embedding}.weight":
                parameter[:, silent] = 0
            elif dims[0] == (("hidden",),):
                parameter[silent] = 0
            elif len(dims) > 1 and dims[-2] == (("hidden",),):
                parameter[..., silent, :] = 0
    expected = tiny.logits(model)
    cut = tiny.trimmed(family, config, model.state_dict(), {"hidden": kept})
    assert (tiny.logits(cut) - expected).abs().max() > 1e-2
    rescale_norms(cut, (sizes["hidden"] / width) ** 0.5)
    torch.testing.assert_close(tiny.logits(cut), expected, rtol=1e-3, atol=1e-3)
