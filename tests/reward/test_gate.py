"""The gate learns from the prompt, folds exactly, and has none of the published trainer's faults."""

import copy

import numpy as np
import pytest
import torch

from niwaki.errors import TrainingError
from niwaki.reward.gate import Gate, GateData, combine, fixed_weights, train_gate
from niwaki.reward.objectives import Objectives, explain, finish_gate, served_rows

from .conftest import generator


def two_domains(n=400, seed=0, d=6):
    """Prompts of one kind are about the first objective, those of the other about the second."""
    rng = generator(seed)
    kind = rng.integers(0, 2, n)
    prompts = rng.normal(size=(n, d))
    prompts[:, 0] = 4 * kind - 2
    rewards = rng.normal(size=(n, 2, 3))
    matter = rewards[np.arange(n), :, kind]
    swap = matter[:, 0] < matter[:, 1]
    rewards[swap] = rewards[swap][:, ::-1]
    rewards[:, :, 2] = 0
    return GateData(prompts, rewards, np.ones(n), np.ones(n)), kind


LIVE = np.array([True, True, False])


def accuracy(scores):
    return float((scores[:, 0] > scores[:, 1]).mean())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    data, _ = two_domains()
    held, kind = two_domains(seed=1)
    gate, record = train_gate(
        data, held, out=tmp_path_factory.mktemp("gate"), live=LIVE, width=32, num_steps=120, batch_rows=128,
        learning_rate=1e-2, temperature=1.0,
    )  # fmt: skip
    return gate, record, held, kind


def test_the_published_numbers():
    gate = Gate(1, 3, width=2, num_hidden=1, temperature=10.0).eval()
    torch.nn.init.zeros_(gate.layers[1].weight)
    gate.layers[1].bias.data = torch.tensor([0.0, 10, 20])
    assert gate(torch.zeros(1, 1))[0].tolist() == pytest.approx([0.090031, 0.244728, 0.665241], abs=1e-6)
    gate = Gate(4096, 19)
    assert sum(p.numel() for p in gate.parameters()) == 6_314_004


def test_a_gate_beats_fixed_weights_where_prompts_differ(trained):
    gate, record, held, kind = trained
    weights = gate(torch.from_numpy(held.prompts).float()).detach().numpy()
    gated = accuracy((held.rewards * weights[:, None]).sum(-1))
    fixed = accuracy(held.rewards @ fixed_weights(two_domains()[0], LIVE))
    assert gated > 0.93
    assert gated > fixed + 0.1
    assert weights[kind == 0, 0].mean() > weights[kind == 1, 0].mean() + 0.2
    assert record["first_gradient_norm"] > 1e-4
    assert record["step"] > 0


def test_weights_are_over_objectives_and_spend_nothing_on_what_is_gone(trained):
    gate, _, held, _ = trained
    weights = gate(torch.from_numpy(held.prompts).float())
    assert weights.sum(1).detach().numpy() == pytest.approx(float(gate.logit_scale), rel=1e-5)
    assert (weights[:, 2] == 0).all()
    assert weights[:, 0].std() > 0.1


def test_shuffled_prompts_bring_it_back_to_fixed_weights(trained):
    gate, _, held, _ = trained
    mixed = generator(2).permutation(held.prompts)
    weights = gate(torch.from_numpy(mixed).float()).detach().numpy()
    assert accuracy((held.rewards * weights[:, None]).sum(-1)) < 0.85


def test_a_killed_training_ends_with_the_same_gate(tmp_path):
    data, _ = two_domains(128)
    options = {"live": LIVE, "width": 8, "num_steps": 20, "batch_rows": 32}
    whole, _ = train_gate(data, data, out=tmp_path / "a", **options)
    train_gate(data, data, out=tmp_path / "b", **options)
    for step in (12, 14, 16, 18, 20):
        for file in (tmp_path / "b" / "checkpoints" / f"step-{step:07d}").iterdir():
            file.unlink()
        (tmp_path / "b" / "checkpoints" / f"step-{step:07d}").rmdir()
    again, _ = train_gate(data, data, out=tmp_path / "b", **options)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_rewards_that_do_not_differ_are_refused(tmp_path):
    data, _ = two_domains(64)
    flat = GateData(data.prompts, np.zeros_like(data.rewards), data.strength, data.q)
    with pytest.raises(TrainingError, match="gradient"):
        train_gate(flat, flat, out=tmp_path, live=LIVE, width=8, num_steps=2)


@pytest.fixture
def objectives():
    rng = generator(4)
    transform = np.eye(3)
    transform[2] = [-0.1, -0.2, 0]
    transform[:, 2] = 0
    network = Gate(5, 3, width=7, num_hidden=2, temperature=1.0, live=LIVE).eval()
    gate = np.array([0.6, 0.4, 0.0])
    weight = rng.normal(size=(3, 5))
    ensemble = weight + 0.1 * rng.normal(size=(4, 3, 5))
    return Objectives(("a", "b", "v"), ((0, 4), (1, 5), (0, 1)), weight, transform, gate, network, ensemble)


def test_a_fixed_gate_folds_into_one_head_exactly(objectives):
    states = generator().normal(size=(9, 5))
    assert states @ objectives.folded()[0] == pytest.approx(objectives.score(states), abs=1e-12)


def test_parts_sum_to_the_score_and_explain_a_difference(objectives):
    states, prompts = generator(1).normal(size=(2, 6, 5))
    found = explain(objectives, states, prompts)
    assert [e.parts.sum() for e in found] == pytest.approx(objectives.score(states, prompts))
    assert all(e.parts[2] == 0 and e.spread > 0 for e in found)
    assert found[0].rewards == pytest.approx(
        (states[0] @ objectives.weight.T) * [5, 5, 2] + [-0.5, 0.5, -0.5]
    )


def test_permuting_objectives_changes_no_score(objectives):
    order = [1, 0, 2]
    states = generator(1).normal(size=(6, 5))
    other = Objectives(
        tuple(objectives.names[i] for i in order), objectives.scales, objectives.weight[order],
        objectives.transform[np.ix_(order, order)], objectives.gate[order], None,
        objectives.ensemble[:, order],
    )  # fmt: skip
    assert other.score(states) == pytest.approx(objectives.score(states))


def test_a_served_model_called_twice_gives_the_gated_score(objectives):
    states, prompts = generator(1).normal(size=(2, 6, 5))
    rows, labels = served_rows(objectives)
    assert len(labels) == 3 + 7 == len(rows)
    found = finish_gate(objectives, prompts @ rows.T, states @ rows.T)
    assert found == pytest.approx(objectives.score(states, prompts), abs=1e-5)


def test_a_constant_added_to_an_objective_changes_no_preference(objectives):
    states, prompts = generator(1).normal(size=(2, 4, 5))
    rewards, gates = objectives.rewards(states), objectives.gates(np.repeat(prompts[:1], 4, 0))
    before, after = (
        combine(gates, r, objectives.transform) for r in (rewards, rewards + np.array([3, 0, 0]))
    )
    assert np.diff(after) == pytest.approx(np.diff(before))


def test_a_rescaled_gate_scales_every_score(objectives):
    states, prompts = generator(1).normal(size=(2, 6, 5))
    other = objectives.rescaled(2.5)
    assert other.score(states, prompts) == pytest.approx(2.5 * objectives.score(states, prompts), rel=1e-5)
    assert other.score(states) == pytest.approx(2.5 * objectives.score(states))


def test_the_live_mask_follows_the_transform(objectives):
    assert objectives.live.tolist() == LIVE.tolist()
    assert copy.copy(objectives.gates(np.zeros((2, 5))))[:, 2].tolist() == [0, 0]
