"""What a trimmed llama computes, and what `trim` refuses (Minitron, section 2.2; zero-out equivalence)."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from niwaki.errors import CheckpointError, FamilyError
from niwaki.pruning.trim import trim

L, HIDDEN, FFN, KV, GROUP, DIM = 3, 36, 40, 2, 3, 8
IDS = torch.arange(24).reshape(2, 12)


def build(folder, dtype=torch.float32, **changes):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=48, hidden_size=HIDDEN, intermediate_size=FFN, num_hidden_layers=L,
        num_attention_heads=KV * GROUP, num_key_value_heads=KV, head_dim=DIM, bos_token_id=1, eos_token_id=2,
        initializer_range=0.2, **changes,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder, max_shard_size="16KB")
    return folder


@pytest.fixture
def source(tmp_path):
    return build(tmp_path / "source")


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def choose(size, num, *leading):
    torch.manual_seed(1)
    return torch.rand(*leading, size).argsort(-1)[..., :num].sort(-1).values


def test_trimmed_neurons_are_zeroed_neurons(source, tmp_path):
    keep = choose(FFN, 24, L)
    trim(source, tmp_path / "out", keep={"ffn": keep})
    parent = load(source)
    for layer, kept in zip(parent.model.layers, keep, strict=True):
        dead = [i for i in range(FFN) if i not in kept]
        layer.mlp.down_proj.weight.data[:, dead] = 0
    torch.testing.assert_close(logits(load(tmp_path / "out")), logits(parent), rtol=0, atol=1e-5)


def test_trimmed_heads_are_zeroed_heads_in_every_group(source, tmp_path):
    keep = choose(GROUP, 2, L, KV)
    trim(source, tmp_path / "out", keep={"group": keep})
    parent = load(source)
    for layer, kept in zip(parent.model.layers, keep, strict=True):
        heads = layer.self_attn.o_proj.weight.data.view(HIDDEN, KV, GROUP, DIM)
        for kv in range(KV):
            heads[:, kv, [g for g in range(GROUP) if g not in kept[kv]]] = 0
    torch.testing.assert_close(logits(load(tmp_path / "out")), logits(parent), rtol=0, atol=1e-5)


def test_dropped_layers_are_skipped_layers(source, tmp_path):
    trim(source, tmp_path / "out", keep={"layer": torch.tensor([0, 2])})
    parent = load(source)
    parent.model.layers = torch.nn.ModuleList([parent.model.layers[0], parent.model.layers[2]])
    parent.config.num_hidden_layers = 2
    for index, layer in enumerate(parent.model.layers):
        layer.self_attn.layer_idx = index
    assert logits(load(tmp_path / "out")).equal(logits(parent))


def test_indices_are_those_of_the_original_model_when_layers_drop(source, tmp_path):
    """Cutting neurons and layers at once is cutting one after the other."""
    ffn, layer = choose(FFN, 24, L), torch.tensor([1, 2])
    trim(source, tmp_path / "both", keep={"ffn": ffn, "layer": layer})
    trim(source, tmp_path / "first", keep={"layer": layer})
    trim(tmp_path / "first", tmp_path / "second", keep={"ffn": ffn[layer]})
    for path in (tmp_path / "both").glob("model*"):
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_is_kept(tmp_path, dtype):
    trim(build(tmp_path / "source", dtype), tmp_path / "out", keep={"hidden": choose(HIDDEN, 24)})
    assert {
        t.dtype for path in (tmp_path / "out").glob("*.safetensors") for t in load_file(path).values()
    } == {dtype}
    assert load(tmp_path / "out").dtype == dtype


@pytest.mark.parametrize("stored", [False, True])
def test_a_tied_head_is_cut_once(tmp_path, stored):
    source = build(tmp_path / "source", tie_word_embeddings=True)
    if stored:  # as some published checkpoints do
        tensors = {name: t for path in source.glob("*.safetensors") for name, t in load_file(path).items()}
        for path in source.glob("model*"):
            path.unlink()
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    keep = choose(HIDDEN, 24)
    record = trim(source, tmp_path / "out", keep={"hidden": keep})
    model = load(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.equal(load(source).model.embed_tokens.weight[:, keep])
    assert record.num_parameters == model.num_parameters()


def test_side_files_come_along(source, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "LICENSE"):
        (source / name).write_text(f'{{"this is": "{name}"}}')
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")
    trim(source, tmp_path / "out", keep={})
    expected = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    found = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {str(path) for path in found - expected} == {"trim.json"}
    assert expected <= found


def test_the_same_trim_again_is_done_already_and_another_is_refused(source, tmp_path):
    out = tmp_path / "out"
    keep = {"hidden": choose(HIDDEN, 24)}
    record = trim(source, out, keep=keep)
    inode = (out / "trim.json").stat().st_ino
    assert trim(source, out, keep=keep) == record
    assert (out / "trim.json").stat().st_ino == inode
    with pytest.raises(CheckpointError, match="already holds something else"):
        trim(source, out, keep={"hidden": keep["hidden"][:12]})
    text = (out / "trim.json").read_text()
    (out / "trim.json").write_text("{}")
    with pytest.raises(CheckpointError, match="already holds something else"):
        trim(source, out, keep=keep)
    (out / "trim.json").write_text(text)
    next(out.glob("*.safetensors")).write_bytes(b"damaged since")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        trim(source, out, keep=keep)


@pytest.mark.parametrize(
    "keep, message",
    [
        ({"width": torch.arange(3)}, "axis 'width', which this family cannot trim"),
        ({"vocab": torch.arange(3)}, "axis 'vocab', which this family cannot trim"),
        ({"hidden": torch.arange(8).int()}, "dtype torch.int32"),
        ({"hidden": torch.tensor(3)}, "shape"),
        ({"hidden": torch.arange(0)}, "at least 1"),
        ({"hidden": torch.tensor([0, HIDDEN])}, f"expected 0 to {HIDDEN - 1}"),
        ({"hidden": torch.tensor([-1, 2])}, "indices from -1"),
        ({"hidden": torch.tensor([1, 1])}, "repeat or are not ascending"),
        ({"hidden": torch.tensor([2, 1])}, "repeat or are not ascending"),
        ({"ffn": torch.arange(8)}, r"shape \(8,\), expected \[3, 'n'\]"),
        ({"ffn": torch.arange(8).expand(2, 8)}, r"expected \[3, 'n'\]"),
        ({"group": torch.arange(2).expand(L, 2)}, r"expected \[3, 2, 'n'\]"),
        ({"layer": torch.tensor([0, 3])}, "expected 0 to 2"),
    ],
)
def test_indices_that_do_not_fit_are_refused_before_anything_is_written(source, tmp_path, keep, message):
    with pytest.raises(FamilyError, match=message):
        trim(source, tmp_path / "out", keep=keep)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_source_that_does_not_fit_its_config_is_refused(source, tmp_path):
    shutil.copytree(source, tmp_path / "damaged")
    config = tmp_path / "damaged" / "config.json"
    text = config.read_text()
    for old, new, message in [
        ('"num_hidden_layers": 3', '"num_hidden_layers": 4', r"layers\.3\.\S+ is missing"),
        ('"num_hidden_layers": 3', '"num_hidden_layers": 2', r"layers\.2\.\S+ .*one too many"),
        (f'"intermediate_size": {FFN}', '"intermediate_size": 44', "has shape .*40.*expected .*44"),
        ('"vocab_size": 48', '"vocab_size": 48, "quantization_config": {"quant_method": "fp8"}', "quantized"),
    ]:
        config.write_text(text.replace(old, new))
        with pytest.raises(CheckpointError, match=message):
            trim(tmp_path / "damaged", tmp_path / "out", keep={})
        assert not (tmp_path / "out").exists()
