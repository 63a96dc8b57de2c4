"""What a model folder must be before anything is read from it, and what a written one is."""

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from niwaki.errors import CheckpointError
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.checkpoint_writer import Writer
from niwaki.ground.folder import new_folder
from niwaki.ground.index import INDEX
from niwaki.ground.saved import save_model, verify_saved
from niwaki.ground.shard import Spec

CONFIG = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def tiny_llama(dtype=torch.float32, **changes):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(LlamaConfig(**CONFIG | changes), dtype=dtype).eval()


@pytest.fixture
def folder(tmp_path):
    """A llama in several shards, with the side files of a real folder."""
    path = tmp_path / "model"
    tiny_llama().save_pretrained(path, max_shard_size="16KB")
    (path / "tokenizer.json").write_text("{}")
    (path / "chat_template.jinja").write_text("{{ messages }}")
    (path / "LICENSE").write_text("free")
    (path / "README.md").write_text("about the parent")
    return path


def shards(folder):
    return sorted(folder.glob("*.safetensors"))


def test_reads_what_safetensors_reads(folder):
    checkpoint = Checkpoint(folder)
    expected = {name: tensor for shard in shards(folder) for name, tensor in load_file(shard).items()}
    assert len(checkpoint.shards) > 1
    assert set(checkpoint.names()) == set(expected)
    for name, tensor in expected.items():
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert checkpoint.dtype(name) == tensor.dtype
        torch.testing.assert_close(checkpoint.read(name), tensor, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_every_dtype_survives_writing_and_reading(tmp_path, dtype):
    tensor = (torch.arange(21).reshape(3, 7) % 5).to(dtype)
    write_all(tmp_path, {"a": tensor, "empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5)})
    (tmp_path / "config.json").write_text("{}")
    assert load_file(tmp_path / "model.safetensors")["a"].equal(tensor)
    assert Checkpoint(tmp_path).read("a").equal(tensor)
    assert Checkpoint(tmp_path).read("scalar").equal(torch.tensor(2.5))


def write_all(folder, tensors):
    writer = Writer(folder, [{name: Spec(t.dtype, tuple(t.shape)) for name, t in tensors.items()}])
    for name, tensor in tensors.items():
        writer.add(name, tensor)
    writer.close()


def test_writer_gives_the_bytes_of_transformers_in_any_order_of_adding(folder, tmp_path):
    checkpoint = Checkpoint(folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    writer = Writer(copy, [shard.tensors for shard in checkpoint.shards], checkpoint.shards[0].metadata)
    for name in reversed(checkpoint.names()):
        writer.add(name, checkpoint.read(name))
    writer.close()
    for path in [*shards(folder), folder / INDEX]:
        assert (copy / path.name).read_bytes() == path.read_bytes(), path.name


def test_writer_refuses_what_the_layout_does_not_hold(tmp_path):
    writer = Writer(tmp_path, [{"a": Spec(torch.float32, (2,)), "b": Spec(torch.float32, (2,))}])
    with pytest.raises(CheckpointError, match="c: not expected"):
        writer.add("c", torch.zeros(2))
    with pytest.raises(CheckpointError, match="a: got"):
        writer.add("a", torch.zeros(3))
    with pytest.raises(CheckpointError, match="a: got"):
        writer.add("a", torch.zeros(2, dtype=torch.bfloat16))
    writer.add("a", torch.zeros(2))
    with pytest.raises(CheckpointError, match="a: not expected, or written already"):
        writer.add("a", torch.zeros(2))
    with pytest.raises(CheckpointError, match="b: was never written"):
        writer.close()


def test_blocks_are_the_rows_in_order(folder, monkeypatch):
    monkeypatch.setattr("niwaki.ground.checkpoint._BLOCK_BYTES", 1000)
    checkpoint = Checkpoint(folder)
    for name in checkpoint.names():
        tensor = checkpoint.read(name)
        blocks = list(checkpoint.blocks(name))
        assert max(block.nbytes for _, block in blocks) <= 1000
        assert [first for first, _ in blocks] == list(range(0, len(tensor), len(blocks[0][1])))
        assert torch.cat([block for _, block in blocks]).equal(tensor)


@pytest.mark.parametrize(
    "blocks",
    [
        [torch.zeros(2, 3)],  # a row too few
        [torch.zeros(2, 3), torch.zeros(2, 3)],  # and one too many
        [torch.zeros(3, 2)],
        [torch.zeros(3, 3, dtype=torch.float64)],
    ],
)
def test_writer_refuses_rows_that_do_not_make_the_tensor(tmp_path, blocks):
    writer = Writer(tmp_path, [{"a": Spec(torch.float32, (3, 3)), "b": Spec(torch.float32, (1,))}])
    writer.add("b", torch.ones(1))
    with pytest.raises(CheckpointError, match="a: got"):
        writer.add_blocks("a", blocks)
    assert (tmp_path / "model.safetensors").read_bytes().endswith(b"\x00\x00\x80\x3f")  # b is untouched


def test_side_files_are_those_of_the_model_and_not_its_card_or_code(folder):
    (folder / "tokenizer_evil.py").write_text("")
    expected = {"tokenizer.json", "chat_template.jinja", "LICENSE", "generation_config.json"}
    assert {str(path) for path in Checkpoint(folder).files()} == expected


def test_fingerprint_knows_the_model_and_not_its_shards(folder, tmp_path):
    single = tmp_path / "single"
    tiny_llama().save_pretrained(single)
    assert Checkpoint(folder).fingerprint() == Checkpoint(single).fingerprint()
    model = tiny_llama()
    model.lm_head.weight.data[3, 5] += 1e-3
    model.save_pretrained(single)
    assert Checkpoint(folder).fingerprint() != Checkpoint(single).fingerprint()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def grow(path):
    path.write_bytes(path.read_bytes() + b"\0")


def garbage(path):
    path.write_bytes((20).to_bytes(8, "little") + b"x" * 200)


def html(path):
    path.write_text("<html>404 not found</html>")


def empty(path):
    path.write_bytes(b"")


def overlap(path):
    """A header whose ranges do not follow one another."""
    raw = path.read_bytes()
    num = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + num])
    name = next(name for name in header if name != "__metadata__")
    header[name]["data_offsets"] = [4, header[name]["data_offsets"][1] + 4]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + num :])


@pytest.mark.parametrize("damage", [Path.unlink, truncate, grow, garbage, html, empty, overlap])
def test_a_damaged_shard_is_refused_by_name(folder, damage):
    damage(shards(folder)[1])
    with pytest.raises(CheckpointError, match=r"model-00002-of-\d{5}.safetensors: .*(Download|Copy)"):
        Checkpoint(folder)


def test_index_and_shards_must_agree(folder):
    index = json.loads((folder / INDEX).read_text())
    name = next(iter(index["weight_map"]))
    changed = {**index, "weight_map": {k: v for k, v in index["weight_map"].items() if k != name}}
    (folder / INDEX).write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match=f"{name} of .* which the index does not list"):
        Checkpoint(folder)
    changed = {**index, "weight_map": {**index["weight_map"], "more": shards(folder)[0].name}}
    (folder / INDEX).write_text(json.dumps(changed))
    with pytest.raises(CheckpointError, match=r"more of .* which is not in that shard"):
        Checkpoint(folder)
    (folder / INDEX).write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        Checkpoint(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path, dtype, value):
    tensor = torch.zeros(100, 37, dtype=dtype)
    tensor[61, 17] = value
    save_file({"fine": torch.zeros(3), "bad": tensor}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    checkpoint = Checkpoint(tmp_path)
    checkpoint.read("fine")
    with pytest.raises(CheckpointError, match="bad holds values that are not finite"):
        checkpoint.read("bad")


def test_folders_that_are_no_safetensors_checkpoint_are_refused(folder, tmp_path):
    with pytest.raises(CheckpointError, match="no such folder"):
        Checkpoint(tmp_path / "absent")
    for path in [*shards(folder), folder / INDEX]:
        path.unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        Checkpoint(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match=r"pickled weights \(pytorch_model.bin\).*Convert"):
        Checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config.json: the file is missing"):
        Checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(folder, name):
    content = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
    (folder / name).write_text(json.dumps(content | {"auto_map": {"AutoConfig": "evil.Config"}}))
    with pytest.raises(CheckpointError, match=f"{name}: asks for code.*auto_map"):
        Checkpoint(folder)


def test_an_unknown_model_type_is_refused(folder):
    (folder / "config.json").write_text('{"model_type": "martian"}')
    with pytest.raises(CheckpointError, match=r"config.json: transformers cannot read it.*martian"):
        _ = Checkpoint(folder).config


def test_quantized_dtypes_are_refused(tmp_path):
    save_file({"w": torch.zeros(4).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"w has dtype 'F8_E4M3'.*Quantized"):
        Checkpoint(tmp_path)


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "out"

    def fail_midway():
        with new_folder(out, needed_bytes=0) as folder:
            (folder / "half").write_text("half")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fail_midway()
    assert list(tmp_path.iterdir()) == []
    with new_folder(out, needed_bytes=0) as folder:
        (folder / "whole").write_text("whole")
        assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_that_holds_something_is_refused_and_kept(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with new_folder(out, needed_bytes=0) as folder:  # empty is fine
        (folder / "mine").write_text("mine")
    with pytest.raises(CheckpointError, match=r"already holds something else \(mine\)"):
        new_folder(out, needed_bytes=0).__enter__()
    with pytest.raises(CheckpointError, match="is a file"):
        new_folder(out / "mine", needed_bytes=0).__enter__()
    assert (out / "mine").read_text() == "mine"


def test_too_little_room_is_known_before_the_work(tmp_path):
    with pytest.raises(CheckpointError, match=r"disk is full: 1,000,000,000,000,000,000 bytes are needed"):
        new_folder(tmp_path / "out", needed_bytes=10**18).__enter__()


def test_replacing_keeps_the_old_folder_until_the_new_one_is_complete(tmp_path):
    out = tmp_path / "out"
    with new_folder(out, needed_bytes=0) as folder:
        (folder / "old").write_text("old")
    with pytest.raises(CheckpointError, match="disk is full"), new_folder(out, needed_bytes=0, replace=True):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (out / "old").read_text() == "old"
    with new_folder(out, needed_bytes=0, replace=True) as folder:
        (folder / "new").write_text("new")
    assert [path.name for path in out.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_kill_between_the_two_renames_of_a_replacement_loses_nothing(tmp_path):
    out = tmp_path / "out"
    previous = tmp_path / ".out.previous"
    previous.mkdir()
    (previous / "old").write_text("old")
    with pytest.raises(CheckpointError, match="something else"):
        new_folder(out, needed_bytes=0).__enter__()
    assert (out / "old").read_text() == "old"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_model_makes_a_stock_folder(folder, tmp_path, dtype):
    model = tiny_llama(dtype, tie_word_embeddings=True)
    out = tmp_path / "out"
    check = save_model(model, folder, out)
    assert check.loaded == "weights"
    assert check.max_logit_difference == 0
    assert {path.name for path in out.iterdir()} == {
        "config.json", "model.safetensors", "generation_config.json", "tokenizer.json", "chat_template.jinja",
        "LICENSE",
    }  # fmt: skip
    assert AutoModelForCausalLM.from_pretrained(out, dtype="auto").dtype == dtype


def test_save_model_leaves_the_training_state_alone(folder, tmp_path):
    model = tiny_llama().train()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    save_model(model, folder, tmp_path / "out")
    assert model.training
    assert torch.rand(3).equal(expected)


def test_a_save_that_differs_from_the_model_in_memory_is_refused(folder, tmp_path):
    model = tiny_llama()
    model.model.norm.register_forward_hook(lambda module, inputs, output: output * 1.5)
    with pytest.raises(CheckpointError, match="differ by up to"):
        save_model(model, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


def edit_weights(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    "fault, message",
    [
        (lambda f: edit_weights(f, lambda t: t.pop("model.norm.weight")), "missing keys.*model.norm.weight"),
        (lambda f: edit_weights(f, lambda t: t.update(more=torch.zeros(2))), "unexpected keys.*more"),
        (lambda f: edit_config(f, intermediate_size=24), "mismatched keys.*down_proj"),
        (lambda f: edit_config(f, num_hidden_layers=3), "missing keys.*layers.2"),
        (lambda f: edit_weights(f, lambda t: t["model.norm.weight"].fill_(3e38)), "not finite"),
        (
            lambda f: (f / "generation_config.json").write_text('{"num_beams": 0}'),
            r"generate\(\)|cannot load",
        ),
    ],
)
@pytest.mark.parametrize("fits", [True, False])
def test_a_folder_that_stock_transformers_would_mend_in_silence_is_refused(
    tmp_path, monkeypatch, fault, message, fits
):
    tiny_llama().save_pretrained(tmp_path)
    fault(tmp_path)
    if not fits:
        monkeypatch.setattr("niwaki.ground.saved.memory_limit_bytes", lambda: 1000)
        if "keys" not in message:
            assert verify_saved(tmp_path).loaded == "shapes"  # it says that nothing was run
            return
    with pytest.raises(CheckpointError, match=message):
        verify_saved(tmp_path)


def test_disk_full_inside_the_safetensors_library_is_named(folder, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(self, path, **options):
        (Path(path) / "model.safetensors").write_bytes(b"half")
        raise SafetensorError(
            f"Error while serializing: I/O error: No space left on device (os error {errno.ENOSPC})"
        )

    out = tmp_path / "out"
    save_model(tiny_llama(), folder, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(CheckpointError, match=r"disk is full: .* bytes are needed, .* are free"):
        save_model(tiny_llama(), folder, out, replace=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def test_config_reads_as_transformers_reads_it(folder):
    assert Checkpoint(folder).config.to_dict() == AutoConfig.from_pretrained(folder).to_dict()
