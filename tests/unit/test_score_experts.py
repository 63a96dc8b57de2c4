"""Experts and their neurons are scored by what the tokens routed to them show, and nothing else changes."""

import pytest
import torch
from scoring import TINY, Rows, tokens
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from niwaki.ground.family import family_of
from niwaki.pruning.probe import Probe
from niwaki.pruning.score import score
from niwaki.pruning.scores import Scores, merge

NUM_EXPERTS, NUM_NEURONS = 5, 12
ROUTED = TINY | {"num_hidden_layers": 2, "num_experts_per_tok": 2}
CASES = {
    "mixtral": {"num_local_experts": NUM_EXPERTS, "intermediate_size": NUM_NEURONS},
    "qwen3_moe": {"num_experts": NUM_EXPERTS, "moe_intermediate_size": NUM_NEURONS, "norm_topk_prob": False},
}
PAIRS = [(batch, sequence) for batch in ("mean", "l2", "var") for sequence in ("mean", "l2", "var")]


def build(model_type="mixtral", **options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **ROUTED | CASES[model_type])
    model = AutoModelForCausalLM.from_config(config, **options).eval()
    for layer in model.model.layers:  # a router that sends tokens everywhere, but not evenly
        torch.nn.init.normal_(layer.mlp.gate.weight, std=0.5)
        torch.nn.init.normal_(layer.mlp.experts.gate_up_proj, std=0.3)
        torch.nn.init.normal_(layer.mlp.experts.down_proj, std=0.3)
    return model


@torch.no_grad()
def heard(model, inputs, layer):
    """One layer's tokens as (sample, expert, router weight, |neurons|, norm of the output), one by one."""
    module, calls = model.model.layers[layer].mlp.experts, []
    handle = module.register_forward_pre_hook(lambda m, args: calls.append(args))
    for row in inputs:
        model(row[None])
    handle.remove()
    for sample, (x_Nd, index_NK, weight_NK) in enumerate(calls):
        for x, experts, weights in zip(x_Nd, index_NK.tolist(), weight_NK, strict=True):
            for expert, weight in zip(experts, weights, strict=True):
                gate, up = (module.gate_up_proj[expert] @ x).split(NUM_NEURONS)
                neurons = F.silu(gate) * up
                yield (
                    sample,
                    expert,
                    weight,
                    neurons.abs().double(),
                    (module.down_proj[expert] @ neurons).norm(),
                )


def over_samples(values, batch):
    aggregate = {"mean": lambda v: v.mean(0), "l2": lambda v: v.square().sum(0).sqrt()}
    return aggregate.get(batch, lambda v: v.var(0, correction=0))(values)


def over_tokens(values, sequence):
    aggregate = {"mean": lambda v: v.mean(0), "l2": lambda v: v.square().sum(0).sqrt()}
    return aggregate.get(sequence, lambda v: v.var(0, correction=0))(torch.stack(values))


@pytest.mark.parametrize("model_type", CASES)
def test_scores_equal_the_definitions_computed_token_by_token(model_type):
    model, inputs = build(model_type), tokens(4)
    scores = score(model, Rows(inputs), num_samples=4, batch_rows=3, sequence=("mean", "l2", "var"))
    for layer in range(2):
        found = list(heard(model, inputs, layer))
        for expert in range(NUM_EXPERTS):
            weighted = [w * norm for _, e, w, _, norm in found if e == expert]
            expected = (
                torch.stack(weighted).mean().double() if weighted else torch.zeros((), dtype=torch.float64)
            )
            torch.testing.assert_close(
                scores.importance("expert")[layer, expert], expected, rtol=1e-5, atol=0
            )
        for batch, sequence in PAIRS:
            importance = scores.importance("effn", batch=batch, sequence=sequence)[layer]
            for expert in range(NUM_EXPERTS):
                of_samples = [[x for s, e, _, x, _ in found if (s, e) == (n, expert)] for n in range(4)]
                none = torch.zeros(NUM_NEURONS, dtype=torch.float64)
                values = [over_tokens(x, sequence) if x else none for x in of_samples]
                expected = over_samples(torch.stack(values), batch)
                torch.testing.assert_close(importance[expert], expected, rtol=1e-4, atol=1e-9)


def test_an_expert_that_no_token_reaches_scores_nothing():
    model = build()
    for layer in model.model.layers:
        u, v = torch.randn(2, 32)
        # Two of these four are positive for every token, so zero is never among the best two.
        layer.mlp.gate.weight.data = torch.stack([u, -u, v, torch.zeros(32), -v])
    scores = score(model, Rows(tokens(4)), num_samples=4)
    reached = torch.tensor([True, True, True, False, True])
    for axis in ("expert", "effn"):
        assert scores.importance(axis).isfinite().all()
        assert ((scores.importance(axis)[0].reshape(5, -1).sum(1) > 0) == reached).all()
    assert scores.sums["layers.0.expert.num_tokens"].sum() == 2 * scores.num_tokens


@pytest.mark.parametrize("model_type", CASES)
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm"])
def test_listening_changes_no_output_of_the_model(model_type, implementation):
    model, inputs = build(model_type, experts_implementation=implementation), tokens(4)
    batch = Rows(inputs).take(0, 4)
    with torch.no_grad():
        plain = model.model(inputs).last_hidden_state
    family, outputs = family_of(model.config), []
    scores = Scores(sizes=family.axis_sizes(model.config), provenance={})
    probe = Probe(model, family=family, axes=("expert", "effn"), sequence=("mean",))
    handle = model.model.norm.register_forward_hook(lambda m, a, out: outputs.append(out))
    with probe.listening():
        probe.run([batch], scores)
    handle.remove()
    if implementation == "eager":
        assert torch.equal(outputs[0], plain)
    torch.testing.assert_close(outputs[0], plain)
    assert model.config._experts_implementation == implementation
    with torch.no_grad():
        assert torch.equal(model.model(inputs).last_hidden_state, plain)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_batch_size_do_not_matter(side):
    model, inputs = build(), tokens(4, 8)
    padding = torch.full((4, 5), 7)
    padded = torch.cat([padding, inputs] if side == "left" else [inputs, padding], 1)
    mask = torch.zeros_like(padded, dtype=torch.bool)
    mask[:, slice(5, None) if side == "left" else slice(8)] = True
    plain = score(model, Rows(inputs), num_samples=4, batch_rows=1)
    masked = score(model, Rows(padded, mask), num_samples=4, batch_rows=4)
    for axis in ("expert", "effn"):
        torch.testing.assert_close(masked.importance(axis), plain.importance(axis), rtol=1e-4, atol=1e-7)


def test_parts_merge_and_a_saved_file_reads_back(tmp_path):
    model, rows = build(), Rows(tokens(4))
    whole = score(model, rows, num_samples=4)
    merged = merge([score(model, rows, num_samples=2, first_row=start) for start in (0, 2)])
    merged.save(tmp_path / "scores")
    loaded = Scores.load(tmp_path / "scores")
    for axis in ("expert", "effn"):
        torch.testing.assert_close(loaded.importance(axis), whole.importance(axis), rtol=1e-5, atol=1e-9)
