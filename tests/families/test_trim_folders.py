"""Trimming a folder of every family: the identity, and trimming commutes with saving and loading."""

import json

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.family import FAMILIES
from niwaki.ground.index import INDEX
from niwaki.pruning.memory_cut import cut_model
from niwaki.pruning.trim import RECORD, TrimRecord, trim

TIED = ["llama", "gemma2", "qwen2"]
CASES = [(name, False) for name in FAMILIES] + [(name, True) for name in TIED]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Every tensor comes in several blocks of rows, the last of them shorter."""
    monkeypatch.setattr("niwaki.ground.checkpoint._BLOCK_BYTES", 1000)


def save(model, path):
    model.save_pretrained(path, max_shard_size="30KB")
    return path


def smaller_keep(family, sizes):
    generator = torch.Generator().manual_seed(3)
    new = tiny.smaller(family, sizes)
    return {axis: tiny.subset(axis, size, sizes, generator) for axis, size in new.items()}


@pytest.mark.parametrize("model_type, tied", CASES)
def test_keeping_everything_gives_the_same_files(tmp_path, model_type, tied):
    family, config, model = tiny.tiny(model_type, tie_word_embeddings=tied)
    source = save(model, tmp_path / "source")
    sizes = family.axis_sizes(config)
    lead = {axis: tiny.axis_shape(axis, sizes) for axis in family.axes}
    keep = {axis: torch.arange(sizes[axis]).expand([*lead[axis], -1]) for axis in family.axes}
    out = tmp_path / "out"
    record = trim(source, out, keep=keep)
    assert record.num_parameters == record.num_parent_parameters == sum(p.numel() for p in model.parameters())
    assert (source / INDEX).is_file()
    for path in [*source.glob("*.safetensors"), source / INDEX]:
        assert (out / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("model_type, tied", CASES)
def test_trimming_a_folder_is_trimming_the_model_in_memory(tmp_path, model_type, tied):
    family, config, model = tiny.tiny(model_type, tie_word_embeddings=tied)
    source = save(model, tmp_path / "source")
    keep = smaller_keep(family, family.axis_sizes(config))
    expected = tiny.trimmed(family, config, model.state_dict(), keep)
    in_memory = cut_model(model, keep)
    assert torch.equal(tiny.logits(in_memory), tiny.logits(expected))
    assert [p.shape for p in in_memory.parameters()] == [p.shape for p in expected.parameters()]
    out = tmp_path / "out"
    record = trim(source, out, keep=keep)
    reloaded, info = AutoModelForCausalLM.from_pretrained(
        out, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(tiny.logits(reloaded.eval()), tiny.logits(expected), rtol=0, atol=1e-6)
    assert record.num_parameters == reloaded.num_parameters() == expected.num_parameters()
    written = json.loads((out / "config.json").read_text())
    assert family.hidden_is_heads or written["head_dim"] == tiny.BASE["head_dim"]
    assert TrimRecord.load(out / RECORD) == record
    assert record.keep == {axis: indices.tolist() for axis, indices in keep.items()}
    if tied:
        assert f"{family.head}.weight" not in Checkpoint(out).names()
