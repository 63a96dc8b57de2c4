"""A model read layer by layer is the model: same bits, same scores, same loss, one layer in memory."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import PROMPT, tiny

from niwaki.errors import CheckpointError, FamilyError
from niwaki.evaluation.loss import held_out_loss
from niwaki.ground import streamed
from niwaki.ground.family import FAMILIES
from niwaki.ground.layers import layer_list
from niwaki.ground.model import load_model
from niwaki.ground.stream import Rows
from niwaki.ground.streamed import is_streamed, load_or_stream, rows_at_once, stream_model
from niwaki.ground.walk import decode
from niwaki.pruning.memory_cut import cut_model
from niwaki.pruning.repair import repair
from niwaki.pruning.rotate import second_moment
from niwaki.pruning.score import score

ROW_TOKENS = 8


def rows(num_rows=10):
    tokens = torch.randint(3, 90, (num_rows * ROW_TOKENS + 1,), generator=torch.Generator().manual_seed(1))
    return Rows(tokens.numpy(), sequence_length=ROW_TOKENS)


def saved(folder, model_type, **changes):
    _, _, model = tiny(model_type, **changes)
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return saved(tmp_path / "model", "llama")


@pytest.mark.parametrize(
    ("model_type", "tied"), [*((name, False) for name in sorted(FAMILIES)), ("llama", True), ("gemma", True)]
)
@torch.no_grad()
def test_every_family_gives_the_same_bits_from_disk(model_type, tied, tmp_path):
    folder = saved(tmp_path / "model", model_type, tie_word_embeddings=tied)
    whole, from_disk = (load(folder, dtype=torch.float32) for load in (load_model, stream_model))
    assert torch.equal(whole(PROMPT).logits, from_disk(PROMPT).logits)
    batches = [{"input_ids": PROMPT}, {"input_ids": PROMPT.flip(0)[:1]}]
    for expected, found in zip(decode(whole, batches), decode(from_disk, batches), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "mixtral"])
def test_the_basis_of_a_rotation_needs_no_teacher_in_memory(model_type, tmp_path):
    folder = saved(tmp_path / "model", model_type)
    expected, found = (
        second_moment(load(folder, dtype=torch.float32), rows(), num_samples=10, batch_rows=3)
        for load in (load_model, stream_model)
    )
    # The same vectors are summed layer by layer instead of batch by batch.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt_neox", "mixtral"])
def test_a_repair_needs_no_teacher_in_memory(model_type, tmp_path):
    """The last layer but one is dropped too, so that one is gone through that is not refitted."""
    folder = saved(tmp_path / "model", model_type)
    whole, from_disk = (load(folder, dtype=torch.float32) for load in (load_model, stream_model))
    num_layers = whole.config.num_hidden_layers
    keep = {"layer": torch.tensor([*range(num_layers - 2), num_layers - 1])}
    students = [cut_model(whole, keep) for _ in range(2)]
    options = {"keep": keep, "num_samples": 6, "batch_rows": 2}
    expected, found = (
        repair(student, teacher, rows(), **options)
        for student, teacher in zip(students, (whole, from_disk), strict=True)
    )
    assert found == expected
    assert all(part.is_meta for part in layer_list(from_disk)[0].parameters())
    for one, other in zip(students[0].parameters(), students[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_it_generates_what_the_model_in_memory_does(folder):
    expected, found = (
        load(folder).generate(PROMPT, max_new_tokens=3, do_sample=False)
        for load in (load_model, stream_model)
    )
    assert torch.equal(expected, found)


def test_scores_and_loss_are_those_of_the_model_in_memory(folder):
    whole, from_disk = load_model(folder), stream_model(folder)
    arguments = {"num_samples": 10, "batch_rows": 3, "sequence": ("mean", "l2")}
    expected, found = score(whole, rows(), **arguments), score(from_disk, rows(), **arguments)
    assert expected.provenance == found.provenance
    assert (expected.num_samples, expected.num_tokens) == (found.num_samples, found.num_tokens)
    assert expected.sums.keys() == found.sums.keys()
    for key, value in expected.sums.items():
        assert torch.equal(value, found.sums[key]), key
    losses = [held_out_loss(m, rows(), num_rows=10, batch_rows=3).row_nats for m in (whole, from_disk)]
    assert losses[0] == losses[1]


def test_padded_rows_are_scored_alike(folder):
    class Padded:
        def take(self, start, count):
            mask = torch.ones(count, ROW_TOKENS, dtype=torch.bool)
            mask[:, : start % 3] = False
            return {"inputs": PROMPT[:1, :ROW_TOKENS].expand(count, -1), "mask": mask}

    expected, found = (
        score(m, Padded(), num_samples=4, batch_rows=2) for m in (load_model(folder), stream_model(folder))
    )
    assert all(torch.equal(value, found.sums[key]) for key, value in expected.sums.items())


def test_a_layer_is_read_once_for_all_rows_that_memory_holds(folder, monkeypatch):
    model, read = stream_model(folder), []
    reader = type(model.niwaki_stream.reader)
    monkeypatch.setattr(reader, "layer", lambda self, n, layer=reader.layer: read.append(n) or layer(self, n))
    score(model, rows(), num_samples=10, batch_rows=2)
    assert read == [0, 1, 2, 3]
    model.niwaki_stream.hidden_bytes = 5 * ROW_TOKENS * model.config.hidden_size * model.dtype.itemsize
    assert rows_at_once(model, batch_rows=2, row_tokens=ROW_TOKENS) == 4
    assert rows_at_once(model, batch_rows=8, row_tokens=ROW_TOKENS) == 8
    score(model, rows(), num_samples=10, batch_rows=2)
    assert read == [0, 1, 2, 3] * 4  # 10 rows, 4 at a time


def test_weights_are_there_only_while_their_layer_runs(folder):
    model = stream_model(folder)
    seen = []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(
            lambda *_: seen.append([next(each.parameters()).is_meta for each in model.model.layers])
        )
    with torch.no_grad():
        model(PROMPT)
    assert seen == [[n != number for n in range(4)] for number in range(4)]
    assert all(parameter.is_meta for parameter in model.model.layers.parameters())


def test_it_is_chosen_when_the_weights_do_not_fit_and_says_so(folder, monkeypatch, capsys):
    assert not is_streamed(load_or_stream(folder))
    assert "layer by layer" not in capsys.readouterr().err
    monkeypatch.setattr(streamed, "memory_limit_bytes", lambda: 180_000)
    model = load_or_stream(folder)
    assert is_streamed(model)
    assert "layer by layer" in capsys.readouterr().err
    monkeypatch.setattr(streamed, "memory_limit_bytes", lambda: 2**10)
    with pytest.raises(CheckpointError, match="one layer need"):
        load_or_stream(folder)


def test_a_damaged_weight_is_refused_by_name_when_its_layer_is_read(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model = stream_model(folder)
    with pytest.raises(CheckpointError, match=r"layers\.2\.mlp\.up_proj"):
        held_out_loss(model, rows(), num_rows=4, batch_rows=2)
    assert all(parameter.is_meta for parameter in model.model.layers.parameters())


def test_a_missing_weight_is_refused_by_name(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="up_proj"), torch.no_grad():
        stream_model(folder)(PROMPT)


def test_a_family_without_a_table_cannot_be_streamed(folder, monkeypatch):
    monkeypatch.setattr("niwaki.ground.family.FAMILIES", {})
    with pytest.raises(FamilyError, match="llama"):
        stream_model(folder)
