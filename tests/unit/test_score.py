"""One pass scores every axis, the same however the rows are batched, padded, split or interrupted."""

import pytest
import torch
from scoring import Rows, build, tokens

from niwaki.errors import (
    CheckpointError,
    DataError,
    EvaluationError,
    FamilyError,
    RecipeError,
    RunError,
)
from niwaki.pruning import score as score_module
from niwaki.pruning.score import score
from niwaki.pruning.scores import Scores, merge

AXES = ("hidden", "ffn", "group", "layer")


def assert_alike(a, b, rtol=1e-5):
    assert a.num_samples == b.num_samples
    assert a.num_tokens == b.num_tokens
    for axis in AXES:
        torch.testing.assert_close(a.importance(axis), b.importance(axis), rtol=rtol, atol=1e-7)


@pytest.fixture(scope="module")
def model():
    return build()


def naive(model, inputs):
    """The paper's formulas, one sample and one unit at a time, in float64."""
    heard = {}

    def hear(name, x):
        heard.setdefault(name, []).append(x.detach().double())

    handles = []
    for i, layer in enumerate(model.model.layers):
        for n, norm in enumerate((layer.input_layernorm, layer.post_attention_layernorm)):
            handles.append(norm.register_forward_hook(lambda m, a, o, k=(i, "norm", n): hear(k, o)))
        handles.append(layer.mlp.down_proj.register_forward_hook(lambda m, a, o, k=(i, "ffn"): hear(k, a[0])))
        handles.append(
            layer.self_attn.o_proj.register_forward_hook(lambda m, a, o, k=(i, "att"): hear(k, a[0]))
        )
    handles.append(model.model.norm.register_forward_hook(lambda m, a, o: hear("last", a[0])))
    streams = [model(row[None], output_hidden_states=True).hidden_states for row in inputs]
    for handle in handles:
        handle.remove()

    def l2_of_means(key):
        return torch.stack([x[0].abs().mean(0) for x in heard[key]]).square().sum(0).sqrt()

    num_layers = len(model.model.layers)
    influence = []
    for i in range(num_layers):
        similar = []
        for sample, stream in enumerate(streams):
            after = stream[i + 1] if i + 1 < num_layers else heard["last"][sample]
            similar.append(torch.cosine_similarity(stream[i].double(), after.double(), dim=-1))
        influence.append(1 - torch.cat(similar).mean())
    group = []
    for i in range(num_layers):
        heads = [x[0].view(-1, 4, 8).norm(dim=-1).mean(0) for x in heard[i, "att"]]
        group.append(torch.stack(heads).square().sum(0).sqrt().view(2, 2))
    return {
        "hidden": sum(l2_of_means((i, "norm", n)) for i in range(num_layers) for n in range(2)),
        "ffn": torch.stack([l2_of_means((i, "ffn")) for i in range(num_layers)]),
        "group": torch.stack(group),
        "kv": torch.stack(group).sum(-1),
        "layer": torch.stack(influence),
    }


def test_scores_equal_the_formulas_computed_slowly(model):
    inputs = tokens()
    scores = score(model, Rows(inputs), num_samples=6, batch_rows=4)
    for axis, expected in naive(model, inputs).items():
        torch.testing.assert_close(scores.importance(axis), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("batch_rows", [1, 4])
def test_batch_size_does_not_matter(model, batch_rows):
    rows = Rows(tokens())
    whole = score(model, rows, num_samples=6, batch_rows=6)
    assert_alike(score(model, rows, num_samples=6, batch_rows=batch_rows), whole)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("model_type", ["llama", "gpt_neox"])
def test_padding_does_not_matter(side, model_type):
    model = build(model_type)
    inputs = tokens(num_rows=4, row_tokens=8)
    padding = torch.full((4, 5), 7)
    padded = torch.cat([padding, inputs] if side == "left" else [inputs, padding], 1)
    mask = torch.zeros_like(padded, dtype=torch.bool)
    mask[:, 5:] = side == "left"
    mask[:, :8] |= side == "right"
    sequence = ("mean", "l2", "var")
    plain = score(model, Rows(inputs), num_samples=4, batch_rows=2, sequence=sequence)
    masked = score(model, Rows(padded, mask), num_samples=4, batch_rows=2, sequence=sequence)
    assert_alike(masked, plain, rtol=1e-4)
    for name in sequence:
        torch.testing.assert_close(
            masked.importance("ffn", sequence=name),
            plain.importance("ffn", sequence=name),
            rtol=1e-4,
            atol=1e-8,
        )


def test_chunking_large_activations_does_not_matter(model, monkeypatch):
    rows = Rows(tokens())
    whole = score(model, rows, num_samples=6, batch_rows=6)
    monkeypatch.setattr("niwaki.pruning.aggregate._CPU_CHUNK_ELEMENTS", 1)
    assert_alike(score(model, rows, num_samples=6, batch_rows=6), whole)


def test_bfloat16_activations_are_summed_in_float32():
    model = build().bfloat16()
    rows = Rows(torch.full((1, 512), 5))
    norm = model.model.layers[0].input_layernorm
    norm_output = []
    handle = norm.register_forward_hook(lambda m, a, o: norm_output.append(o))
    scores = score(model, rows, num_samples=1)
    handle.remove()
    expected = norm_output[0][0, 0].abs().double()  # every token gives the same norm output
    torch.testing.assert_close(scores.sums["layers.0.hidden.0.mean.sum"], expected, rtol=1e-6, atol=0)


def test_a_saved_file_reads_back_equal_and_equal_scores_give_equal_bytes(model, tmp_path):
    first, second = (score(model, Rows(tokens()), num_samples=6, model_id="m", data_id="d") for _ in range(2))
    first.save(tmp_path / "a")
    second.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    loaded = Scores.load(tmp_path / "a")
    assert loaded.provenance == first.provenance
    assert loaded.provenance["model"] == "m"
    assert loaded.sizes == first.sizes
    assert loaded.sums.keys() == first.sums.keys()
    assert all(torch.equal(loaded.sums[key], first.sums[key]) for key in first.sums)


def test_parts_of_the_calibration_set_merge_to_the_whole(model):
    rows = Rows(tokens())
    whole = score(model, rows, num_samples=6)
    parts = [score(model, rows, num_samples=3, first_row=start) for start in (3, 0)]
    assert_alike(merge(parts), whole)
    with pytest.raises(RunError, match="differ in data"):
        merge([parts[0], score(model, rows, num_samples=3, data_id="other")])


class Interrupted(Rows):
    def take(self, start, count):
        if start >= 4:
            raise KeyboardInterrupt
        return super().take(start, count)


def test_an_interrupted_pass_continues_to_the_same_bits(model, tmp_path, monkeypatch):
    monkeypatch.setattr(score_module, "_CHECKPOINT_INTERVAL_S", 0)
    checkpoint = tmp_path / "partial"
    arguments = {"num_samples": 6, "batch_rows": 2, "checkpoint": checkpoint}
    with pytest.raises(KeyboardInterrupt):
        score(model, Interrupted(tokens()), **arguments)
    assert Scores.load(checkpoint).num_samples == 4
    continued = score(model, Rows(tokens()), **arguments)
    assert not checkpoint.exists()
    straight = score(model, Rows(tokens()), num_samples=6, batch_rows=2)
    continued.save(tmp_path / "a")
    straight.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("changed", "named"), [({"data_id": "other"}, "data"), ({"num_samples": 2}, "num_samples")]
)
def test_a_checkpoint_of_another_run_is_refused(model, tmp_path, monkeypatch, changed, named):
    monkeypatch.setattr(score_module, "_CHECKPOINT_INTERVAL_S", 0)
    arguments = {"num_samples": 6, "batch_rows": 2, "checkpoint": tmp_path / "partial"}
    with pytest.raises(KeyboardInterrupt):
        score(model, Interrupted(tokens()), **arguments)
    with pytest.raises(RunError, match=named):
        score(model, Rows(tokens()), **arguments | changed)


def test_the_model_is_left_as_it_was():
    model = build().train()
    score(model, Rows(tokens()), num_samples=2)
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_sequence_aggregations_that_were_not_kept_are_refused_by_name(model):
    scores = score(model, Rows(tokens()), num_samples=2, sequence=("l2",))
    assert scores.importance("ffn", sequence="l2").shape == (3, 48)
    with pytest.raises(RecipeError, match=r"'mean' was not scored; this file holds l2"):
        scores.importance("ffn")
    with pytest.raises(RecipeError, match="'median'"):
        score(model, Rows(tokens()), num_samples=2, sequence=("median",))


def test_axes_that_the_family_does_not_have_are_refused_by_name():
    model = build("mixtral", num_local_experts=4, num_experts_per_tok=2)
    with pytest.raises(FamilyError, match=r"mixtral: axes ffn cannot be scored.*layer, expert, effn"):
        score(model, Rows(tokens()), num_samples=2, axes=("hidden", "ffn"))
    scores = score(model, Rows(tokens()), num_samples=2, axes=("hidden", "expert"))
    assert scores.axes == ("hidden", "expert")
    with pytest.raises(FamilyError, match="'effn' has no scores; this file holds hidden, expert"):
        scores.importance("effn")


def test_only_the_axes_asked_for_are_scored(model):
    assert score(model, Rows(tokens()), num_samples=2, axes=["layer", "kv"]).axes == ("group", "layer")


def test_nan_weights_are_named():
    model = build()
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(
        CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight.*layers\.1\.mlp\.down"
    ):
        score(model, Rows(tokens()), num_samples=2)


def test_activations_that_overflow_are_named():
    model = build().bfloat16()
    for parameter in model.model.layers[2].mlp.parameters():
        parameter.data.fill_(1e30)
    with pytest.raises(EvaluationError, match=r"model\.layers\.2\.mlp\.down_proj"):
        score(model, Rows(tokens()), num_samples=2)


def test_rows_without_tokens_and_missing_rows_are_refused(model):
    mask = torch.ones(6, 10, dtype=torch.bool)
    mask[3] = False
    with pytest.raises(DataError, match="row 3 has no valid token"):
        score(model, Rows(tokens(), mask), num_samples=6)
    with pytest.raises(DataError, match="6 rows found, 7 needed"):
        score(model, Rows(tokens()), num_samples=7)
    with pytest.raises(RecipeError, match="num_samples is 0"):
        score(model, Rows(tokens()), num_samples=0)


@pytest.mark.parametrize("content", [None, b"not a safetensors file"])
def test_a_score_file_that_is_missing_or_damaged_is_refused(tmp_path, content):
    path = tmp_path / "scores.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"scores\.safetensors"):
        Scores.load(path)
