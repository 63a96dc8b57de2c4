"""One-shot masks against plain references, and layer by layer against the model in memory."""

import pytest
import torch
from tiny import tiny
from torch import nn

from niwaki.errors import DataError, RecipeError
from niwaki.ground.family import FAMILIES, family_of
from niwaki.ground.model import load_model
from niwaki.ground.stream import Rows
from niwaki.ground.streamed import stream_model
from niwaki.ground.walk import walk
from niwaki.masks.apply import apply_in_memory
from niwaki.masks.heard import hear
from niwaki.masks.oneshot import one_shot
from niwaki.masks.patterns import Pattern
from niwaki.masks.sparsegpt import sparsegpt
from niwaki.masks.tensors import maskable

PATTERN = Pattern.parse("2:4")
ROW_TOKENS = 12


def rows(num_rows=8, vocab=90):
    tokens = torch.randint(3, vocab, (num_rows * ROW_TOKENS + 1,), generator=torch.Generator().manual_seed(1))
    return Rows(tokens.numpy(), sequence_length=ROW_TOKENS)


def prune(model, method, pattern=PATTERN, **options):
    settings = {"num_samples": 8, "batch_rows": 4} | options
    return list(one_shot(model, rows(), pattern=pattern, method=method, **settings))


def reference_sparsegpt(weight, gram, kept, group, damping):
    """The method column by column, with the inverse of the remaining Hessian computed anew each time."""
    weight, hessian = weight.double().clone(), gram.double().clone()
    hessian += damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    mask = torch.ones_like(weight, dtype=torch.bool)
    for column in range(weight.shape[1]):
        if column % group == 0:
            # What each column of the group would cost once the columns before it are settled.
            costs = []
            for place in range(column, column + group):
                inverse = torch.linalg.inv(hessian[place:, place:])
                costs.append(weight[:, place] ** 2 / inverse[0, 0])
            drop = torch.stack(costs, 1).argsort(1)[:, : group - kept]
            mask[:, column : column + group].scatter_(1, drop, False)
        inverse = torch.linalg.inv(hessian[column:, column:])
        lost = torch.where(mask[:, column], 0.0, weight[:, column])
        weight[:, column:] -= torch.outer(lost / inverse[0, 0], inverse[0])
        weight[:, column] = torch.where(mask[:, column], weight[:, column], 0.0)
    return mask, weight


@pytest.mark.parametrize("text", ["2:4", "1:4", "4:8"])
@pytest.mark.parametrize("block_columns", [8, 128])
def test_sparsegpt_equals_a_plain_reference(text, block_columns):
    pattern = Pattern.parse(text)
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(10, 32, generator=generator)
    x = torch.randn(200, 32, generator=generator) @ torch.randn(32, 32, generator=generator)
    gram = x.T @ x
    numbers, updated = sparsegpt(weight, gram, pattern, damping=0.05, block_columns=block_columns)
    mask, expected = reference_sparsegpt(weight, gram, pattern.kept, pattern.group, 0.05)
    assert torch.equal(pattern.mask(numbers, weight.shape), mask)
    torch.testing.assert_close(updated, expected.float(), rtol=1e-3, atol=1e-3)


def test_the_update_brings_the_outputs_nearer_than_the_mask_alone():
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(16, 64, generator=generator)
    x = torch.randn(500, 64, generator=generator) @ torch.randn(64, 64, generator=generator)
    numbers, updated = sparsegpt(weight, x.T @ x, PATTERN)
    masked = weight * PATTERN.mask(numbers, weight.shape)
    assert (x @ (updated - weight).T).norm() < 0.8 * (x @ (masked - weight).T).norm()


def test_an_input_that_is_always_zero_loses_its_weights_first():
    gram = torch.diag(torch.tensor([1.0, 0.0, 1.0, 1.0]))
    numbers, _ = sparsegpt(torch.tensor([[0.5, 9.0, 0.6, 0.4]]), gram, PATTERN)
    assert PATTERN.mask(numbers, (1, 4)).tolist() == [[True, False, True, False]]


def test_activations_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="not finite"):
        sparsegpt(torch.ones(1, 4), torch.full((4, 4), torch.nan), PATTERN)


@torch.no_grad()
def test_magnitude_and_wanda_equal_their_definitions():
    _, _, model = tiny("llama")
    weight = model.get_parameter("model.layers.0.self_attn.q_proj.weight").clone()
    found = []
    handle = model.model.layers[0].self_attn.q_proj.register_forward_pre_hook(
        lambda _, args: found.append(args[0].flatten(0, 1))
    )
    model(rows().take(0, 8)["inputs"])
    handle.remove()
    norms = torch.cat(found).norm(dim=0)
    for method, scores in (("magnitude", weight.abs()), ("wanda", weight.abs() * norms)):
        first = prune(model, method)[0]
        keep = scores.reshape(-1, 4).topk(2, dim=1).indices
        expected = torch.zeros(len(keep), 4, dtype=torch.bool).scatter_(1, keep, True).reshape(weight.shape)
        assert first.name.endswith("q_proj.weight")
        assert torch.equal(PATTERN.mask(first.numbers, weight.shape), expected)


@torch.no_grad()
def test_a_layer_hears_what_the_pruned_layers_before_it_make():
    _, _, model = tiny("llama")
    _, _, other = tiny("llama")
    found = {each.name: each.numbers for each in prune(model, "wanda")}
    first = {name: numbers for name, numbers in found.items() if ".layers.0." in name}
    apply_in_memory(other, first, PATTERN)
    again = {each.name: each.numbers for each in prune(other, "wanda", dense=["layer 0"])}
    assert all(torch.equal(again[name], found[name]) for name in again)


def test_q_k_v_share_one_gram_matrix_and_so_do_gate_and_up():
    _, config, model = tiny("llama")
    stop = next(walk(model, [{"input_ids": rows().take(0, 4)["inputs"]}]))
    names = [name for name in maskable(config, PATTERN) if ".layers.0." in name]
    heard = hear(model, stop, names, [torch.ones(4, ROW_TOKENS, dtype=torch.bool)], whole=True)
    groups = [sorted(name.split(".")[-2] for name, _ in inputs.places) for inputs in heard]
    assert groups == [["k_proj", "q_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@torch.no_grad()
def test_every_family_is_masked_and_left_as_it_was(model_type, method):
    _, config, model = tiny(model_type)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = prune(model, method)
    assert [each.name for each in pruned] == list(maskable(config, PATTERN))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for each in pruned:
        shape = before[each.name].shape
        assert (PATTERN.mask(each.numbers, shape).reshape(-1, 4).sum(1) == 2).all()


@torch.no_grad()
def test_with_the_update_the_model_has_the_new_weights_and_their_zeros():
    _, _, model = tiny("llama")
    for each in prune(model, "sparsegpt", update=True):
        weight = model.get_parameter(each.name)
        assert torch.equal(weight, each.updated)
        assert torch.equal(weight != 0, PATTERN.mask(each.numbers, weight.shape))


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe"])
def test_a_streamed_model_gets_the_same_masks(tmp_path, method, model_type):
    _, _, model = tiny(model_type)
    model.save_pretrained(tmp_path / "model")
    streamed = stream_model(tmp_path / "model")
    update = method == "sparsegpt"
    whole = prune(load_model(tmp_path / "model"), method, update=update)
    for one, other in zip(whole, prune(streamed, method, update=update), strict=True):
        assert one.name == other.name
        assert torch.equal(one.numbers, other.numbers)
        if update:
            torch.testing.assert_close(one.updated, other.updated, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_padding_counts_nowhere():
    _, _, model = tiny("llama")

    class Padded:
        def take(self, start, count):
            batch = rows().take(start, count)
            blank = torch.zeros(count, 4, dtype=torch.int64)
            batch["inputs"] = torch.cat([blank, batch["inputs"]], 1)
            batch["mask"] = torch.cat([blank.bool(), batch["mask"]], 1)
            return batch

    plain = prune(model, "wanda")
    padded = list(one_shot(model, Padded(), pattern=PATTERN, method="wanda", num_samples=8, batch_rows=4))
    assert all(torch.equal(one.numbers, other.numbers) for one, other in zip(plain, padded, strict=True))


def test_a_width_that_does_not_divide_names_the_tensors_to_leave_dense():
    _, config, _ = tiny("llama", intermediate_size=54)
    with pytest.raises(
        RecipeError, match=r"down_proj.*\[60, 54\].*dense: \['model.layers.\*.mlp.down_proj.weight'\]"
    ):
        maskable(config, PATTERN)
    names = maskable(config, PATTERN, ["*down_proj*"])
    assert len(names) == 6 * 4


def test_dense_takes_layers_and_refuses_names_that_fit_nothing():
    _, config, _ = tiny("llama")
    left = maskable(config, PATTERN, ["layer 3", "*.o_proj.weight"])
    assert {family_of(config).match(name).layer for name in left} == {0, 1, 2}
    assert not any("o_proj" in name for name in left)
    with pytest.raises(RecipeError, match="'layer 4' fits no tensor"):
        maskable(config, PATTERN, ["layer 4"])


def test_experts_that_hear_nothing_are_masked_by_magnitude():
    _, _, model = tiny("qwen3_moe")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight.zero_()
            layer.mlp.gate.weight[:2] = 5.0
    found = {each.name: each.numbers for each in prune(model, "wanda")}
    name = "model.layers.0.mlp.experts.down_proj"
    weight = model.get_parameter(name)
    assert isinstance(weight, nn.Parameter)
    own = found[name].view(len(weight), -1)
    silent = [e for e in range(len(weight)) if torch.equal(own[e], PATTERN.largest(weight[e].abs()))]
    assert silent
