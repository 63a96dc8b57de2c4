"""Taylor, magnitude and random: what they compute, and that they leave the model alone."""

import pytest
import torch
from scoring import Rows, build, tokens
from torch.nn import functional as F

from niwaki.errors import CheckpointError, DataError, EvaluationError, RecipeError
from niwaki.ground.family import family_of
from niwaki.pruning.importance import load_importance, save_importance, unit_shape
from niwaki.pruning.measures import MEASURES, magnitude, random, taylor
from niwaki.pruning.score import score


def text():
    """Six rows, and the tokens that follow."""
    ids = tokens(6, 11)
    return Rows(ids[:, :-1], targets=ids[:, 1:])


@pytest.fixture(scope="module")
def model():
    return build()


def assert_equal(found, expected, rtol=1e-4):
    for axis, values in expected.items():
        torch.testing.assert_close(found[axis], values.double(), rtol=rtol, atol=1e-9)


def gathered(of):
    """Sums over the weights of each unit of a Llama, written out; `of` maps a parameter's name to values."""
    hidden, group, kv, ffn, layer = 0, [], [], [], []
    for i in range(3):
        p = f"model.layers.{i}."
        q = of(p + "self_attn.q_proj.weight").view(2, 2, 8, 32)
        k, v = (of(p + f"self_attn.{name}_proj.weight").view(2, 8, 32) for name in "kv")
        o = of(p + "self_attn.o_proj.weight").view(32, 2, 2, 8)
        gate, up = (of(p + f"mlp.{name}_proj.weight") for name in ("gate", "up"))
        down = of(p + "mlp.down_proj.weight")
        norms = of(p + "input_layernorm.weight") + of(p + "post_attention_layernorm.weight")
        group.append(q.sum((2, 3)) + o.sum((0, 3)))
        kv.append(group[-1].sum(-1) + k.sum((1, 2)) + v.sum((1, 2)))
        ffn.append(gate.sum(1) + up.sum(1) + down.sum(0))
        hidden = hidden + q.sum((0, 1, 2)) + k.sum((0, 1)) + v.sum((0, 1)) + o.sum((1, 2, 3))
        hidden = hidden + gate.sum(0) + up.sum(0) + down.sum(1) + norms
        layer.append(sum(x.sum() for x in (q, k, v, o, gate, up, down, norms)))
    hidden = hidden + of("model.embed_tokens.weight").sum(0) + of("model.norm.weight")
    hidden = hidden + of("lm_head.weight").sum(0)
    stacks = {"group": group, "kv": kv, "ffn": ffn, "layer": layer}
    return {"hidden": hidden} | {axis: torch.stack(values) for axis, values in stacks.items()}


def test_magnitude_is_the_norm_of_all_weights_of_a_unit(model):
    weights = dict(model.named_parameters())
    expected = gathered(lambda name: weights[name].detach().double().square())
    assert_equal(magnitude(model), {axis: sums.sqrt() for axis, sums in expected.items()})


def test_taylor_is_weight_times_gradient_of_the_mean_loss_of_the_whole_set():
    model, rows = build(), text()
    found = taylor(model, rows, num_samples=6, batch_rows=4)
    logits = model(rows.inputs).logits
    F.cross_entropy(logits.flatten(0, 1), rows.targets.flatten()).backward()
    weights = dict(model.named_parameters())
    assert_equal(found, gathered(lambda name: (weights[name] * weights[name].grad).detach().abs()))


def test_taylor_does_not_depend_on_batches_chunks_or_padding(model, monkeypatch):
    rows = text()
    whole = taylor(model, rows, num_samples=6, batch_rows=6)
    monkeypatch.setattr("niwaki.pruning.measures._CHUNK_TOKENS", 7)
    assert_equal(taylor(model, rows, num_samples=6, batch_rows=1), whole)
    inputs, targets = (F.pad(x, (5, 0), value=7) for x in (rows.inputs, rows.targets))
    padded = Rows(inputs, F.pad(rows.mask, (5, 0)), targets)
    assert_equal(taylor(model, padded, num_samples=6, batch_rows=4), whole)


def test_a_weight_of_zero_or_without_influence_counts_nothing_for_taylor():
    model = build()
    model.model.layers[1].mlp.down_proj.weight.data[:, 5] = 0
    found = taylor(model, text(), num_samples=2)
    assert found["ffn"][1, 5] == 0
    assert found["ffn"][1, 4] > 0


def test_tied_weights_count_once_with_the_gradient_of_both_uses():
    model, rows = build(tie_word_embeddings=True), text()
    found = taylor(model, rows, num_samples=6)
    F.cross_entropy(model(rows.inputs).logits.flatten(0, 1), rows.targets.flatten()).backward()
    weights = dict(model.named_parameters())
    assert "lm_head.weight" not in weights

    def of(name):
        if name == "lm_head.weight":
            return torch.zeros(64, 32)
        return (weights[name] * weights[name].grad).detach().abs()

    assert_equal(found, gathered(of))


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_covers_every_axis_and_leaves_the_model_as_it_was(measure):
    model = build("mixtral", num_local_experts=4, num_experts_per_tok=2).train()
    model.model.norm.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = MEASURES[measure](model, text(), num_samples=4, batch_rows=3, seed=0)
    sizes = family_of(model.config).axis_sizes(model.config)
    assert found.keys() == set(family_of(model.config).axes)
    for axis, values in found.items():
        assert values.shape == unit_shape(axis, sizes)
        assert values.dtype == torch.float64
        assert (values >= 0).all()
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["model.norm.weight"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    hooked = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooked
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_the_measure_called_activation_is_score(model):
    found = MEASURES["activation"](model, text(), num_samples=6, batch_rows=4, seed=0)
    assert_equal(found, score(model, text(), num_samples=6, batch_rows=4).importances())


def test_random_repeats_with_its_seed_and_differs_between_axes_and_seeds(model):
    first, again, other = random(model, seed=1), random(model, seed=1), random(model, seed=2)
    assert all(torch.equal(first[axis], again[axis]) for axis in first)
    assert not any(torch.equal(first[axis], other[axis]) for axis in first)
    assert not torch.equal(first["ffn"][0], first["ffn"][1])


def test_what_taylor_cannot_use_is_refused(model):
    with pytest.raises(RecipeError, match="num_samples is 0"):
        taylor(model, text(), num_samples=0)
    with pytest.raises(DataError, match="6 rows found, 7 needed"):
        taylor(model, text(), num_samples=7)
    broken = build()
    broken.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises((CheckpointError, EvaluationError)):
        taylor(broken, text(), num_samples=2)
    huge = build()
    huge.model.layers[0].mlp.up_proj.weight.data.fill_(1e30)
    huge.model.layers[0].mlp.gate_proj.weight.data.fill_(1e30)
    with pytest.raises((CheckpointError, EvaluationError)):
        taylor(huge, text(), num_samples=2)


def test_a_saved_file_reads_back_and_equal_importances_give_equal_bytes(tmp_path, model):
    importance = magnitude(model)
    for name in ("a", "b"):
        save_importance(tmp_path / name, importance, provenance={"measure": "magnitude", "model": "m"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded, provenance = load_importance(tmp_path / "a")
    assert provenance == {"measure": "magnitude", "model": "m"}
    assert loaded.keys() == importance.keys()
    assert all(torch.equal(loaded[axis], importance[axis]) for axis in loaded)


@pytest.mark.parametrize("content", [None, b"not a safetensors file"])
def test_an_importance_file_that_is_missing_or_damaged_is_refused(tmp_path, content):
    path = tmp_path / "importance.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"importance\.safetensors"):
        load_importance(path)


def test_a_score_file_is_no_importance_file(tmp_path, model):
    score(model, text(), num_samples=2).save(tmp_path / "scores.safetensors")
    with pytest.raises(CheckpointError, match="is no importance file"):
        load_importance(tmp_path / "scores.safetensors")
