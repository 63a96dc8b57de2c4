"""Loading, building and counting models, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from niwaki.errors import CheckpointError
from niwaki.ground import model as ground_model
from niwaki.ground.model import build_meta, count_parameters, load_model, load_tokenizer, model_path

WEIGHTS = "model.safetensors"


def config(**changes):
    fields = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    fields |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0} | changes
    return AutoConfig.for_model("llama", **fields)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config()).to(torch.bfloat16).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def rewrite(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def test_load_keeps_the_dtype_of_the_checkpoint_and_evaluates(folder):
    model = load_model(folder)
    assert model.dtype == torch.bfloat16
    assert not model.training
    assert load_model(folder, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(folder, value):
    name = "model.layers.1.mlp.up_proj.weight"
    rewrite(folder, lambda tensors: tensors[name].view(-1)[3:5].fill_(value))
    with pytest.raises(CheckpointError, match=f"'{name}' holds 2 values"):
        load_model(folder)


def test_a_missing_tensor_is_refused_by_name(folder):
    rewrite(folder, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(CheckpointError, match=r"'model\.norm\.weight'"):
        load_model(folder)


def test_a_truncated_file_is_refused(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(folder)


def test_weights_of_another_shape_are_refused(folder):
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"intermediate_size": 40}))
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(folder)


def test_a_model_that_wants_remote_code_is_refused(folder):
    fields = json.loads((folder / "config.json").read_text())
    fields |= {
        "model_type": "of_mine",
        "auto_map": {"AutoModelForCausalLM": "mine.Mine", "AutoConfig": "mine.C"},
    }
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "mine.py").write_text("raise SystemExit('remote code was run')")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_model(folder)


def test_a_folder_without_config_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        model_path(tmp_path)


@pytest.mark.parametrize("name", ["./nowhere", "a/b/c", "~/nowhere-at-all"])
def test_a_folder_that_does_not_exist_is_not_taken_for_a_hub_name(name):
    with pytest.raises(CheckpointError, match="does not exist"):
        model_path(name)


def test_a_hub_name_is_passed_on():
    assert model_path("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"


def test_sapling_is_the_packaged_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(ground_model.resources, "files", lambda package: tmp_path)
    with pytest.raises(CheckpointError, match="bundled model is not in this installation"):
        model_path("sapling")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert model_path("sapling") == str(tmp_path / "model")


def test_a_missing_tokenizer_is_refused(folder):
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_tokenizer(folder)


@pytest.mark.parametrize("tied", [False, True])
def test_tied_weights_count_once_and_meta_models_hold_none(tied):
    model = build_meta(config(tie_word_embeddings=tied))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    real = AutoModelForCausalLM.from_config(config(tie_word_embeddings=tied))
    assert count_parameters(model) == sum(p.numel() for p in real.parameters())
    assert count_parameters(build_meta(config())) - count_parameters(model) == (50 * 32 if tied else 0)
