"""Gates: golden values of the paper page, fresh noise, gradients, and evaluation with the argmax mask."""

import pytest
import torch
from torch import nn

from niwaki.masks.gumbel import Gate, Temperature, install, opened, remove, squared_norms
from niwaki.masks.patterns import Pattern
from niwaki.masks.schedule import fading, linear

PATTERN = Pattern.parse("2:4")


def gate_of(shape, pattern=PATTERN, kappa=100.0, tau=4.0, **options):
    return Gate(
        shape, pattern, Temperature(kappa, tau), generator=torch.Generator().manual_seed(0), **options
    )


def set_prior(gate, prior, std, strength=3.0):
    """Logits of zero plus a prior, as if freshly drawn logits had this deviation."""
    with torch.no_grad():
        gate.logits.zero_()
        signs = torch.ones_like(gate.logits)
        signs[:, ::2] = -1
        gate.logits += signs * std
        deviation = gate.logits.std()
        gate.lean_to(
            torch.full((gate.logits.shape[1],), prior, dtype=torch.uint8), strength * std / deviation
        )
        gate.logits -= signs * std


@pytest.fixture
def without_noise(monkeypatch):
    """Uniform draws of exp(-1), for which the Gumbel noise is zero."""
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *a: self.fill_(torch.tensor(-1.0).exp()))


def test_the_prior_adds_std_times_similarity_times_strength():
    gate = gate_of((1, 4000))
    set_prior(gate, 0, 0.01)
    expected = torch.tensor([0.03, 0, 0, 0, 0, -0.03])
    torch.testing.assert_close(gate.logits[:, 7], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("text", ["1:4", "4:8", "2:4"])
def test_a_prior_sums_to_zero_over_the_candidates_for_every_pattern(text):
    pattern = Pattern.parse(text)
    gate = gate_of((2, 4 * pattern.group), pattern)
    before = gate.logits.detach().clone()
    gate.lean_to(torch.full((8,), pattern.num_candidates - 1, dtype=torch.uint8), 3.0)
    added = gate.logits.detach() - before
    assert float(added.sum(0).abs().max()) < 1e-5
    assert (added.argmax(0) == pattern.num_candidates - 1).all()


@pytest.mark.parametrize(
    ("kappa", "tau", "soft"),
    [
        (100.0, 4.0, [0.624795, 0.624795, 0.375205, 0.375205]),
        (100.0, 1.0, [0.915070, 0.915070, 0.084930, 0.084930]),
        (500.0, 0.05, [1.0, 1.0, 0.0, 0.0]),
    ],
)
def test_soft_masks_without_noise_are_those_of_the_paper_page(without_noise, kappa, tau, soft):
    gate = gate_of((1, 4), kappa=kappa, tau=tau)
    with torch.no_grad():
        gate.logits.copy_(torch.tensor([[0.03], [0], [0], [0], [0], [-0.03]]))
    found = gate(torch.ones(1, 4)).detach()[0]
    torch.testing.assert_close(found, torch.tensor(soft), atol=1e-5, rtol=0)


def test_the_simulation_of_the_paper_page():
    gate = gate_of((300_000, 4))
    prior = torch.zeros(300_000, dtype=torch.uint8)
    assert float(gate.logits.detach().std()) == pytest.approx(0.0100, abs=2e-4)
    gate.lean_to(prior, 3.0)
    assert float(gate.logits.detach().std()) == pytest.approx(0.0200, abs=2e-4)
    assert float((gate.numbers() == prior).float().mean()) == pytest.approx(0.946, abs=0.005)
    torch.manual_seed(1)
    gate.hard = True
    sampled = PATTERN.numbers(gate(torch.ones(300_000, 4)).detach().round().bool())
    assert float((sampled == prior).float().mean()) == pytest.approx(0.733, abs=0.005)


@pytest.mark.parametrize("text", ["2:4", "1:4", "4:8"])
@pytest.mark.parametrize("hard", [False, True])
def test_every_group_of_a_sampled_mask_sums_to_n(text, hard):
    pattern = Pattern.parse(text)
    gate = gate_of((6, 3 * pattern.group), pattern, hard=hard)
    sums = gate(torch.ones(6, 3 * pattern.group)).reshape(-1, pattern.group).sum(1)
    torch.testing.assert_close(sums, torch.full_like(sums, pattern.kept))


def test_noise_is_fresh_in_every_forward_pass_and_a_function_of_the_seed():
    gate, weight = gate_of((4, 8)), torch.ones(4, 8)
    torch.manual_seed(3)
    first, second = gate(weight), gate(weight)
    torch.manual_seed(3)
    assert not torch.equal(first, second)
    assert torch.equal(first, gate(weight))


def test_the_temperature_of_the_constructor_is_used_and_can_be_moved():
    gate, weight = gate_of((4, 8), tau=4.0), torch.ones(4, 8)

    def softness():
        torch.manual_seed(0)
        mask = gate(weight).detach()
        return float((mask - mask.round()).abs().mean())

    soft = softness()
    gate.temperature.tau = 0.05
    assert softness() < soft / 4


def test_evaluation_has_no_noise_and_exactly_n_of_m():
    gate, weight = gate_of((4, 8)).eval(), torch.randn(4, 8)
    assert torch.equal(gate(weight), gate(weight))
    expected = PATTERN.candidates_CM[gate.logits.argmax(0)].reshape(4, 8)
    assert torch.equal(gate(weight), weight * expected)


def test_gradients_are_those_of_the_plain_formula():
    gate, weight = gate_of((3, 8), kappa=30.0, tau=2.0), torch.randn(3, 8)
    pull = torch.randn(3, 8)
    torch.manual_seed(5)
    with squared_norms({"w": gate}) as norms:
        masked = gate(weight)
    ((masked * pull).sum() - 0.3 * norms[0]).backward()
    found = gate.logits.grad.clone()
    torch.manual_seed(5)
    logits = gate.logits.detach().clone().requires_grad_()
    noise = -torch.log(-torch.log(torch.empty_like(logits).uniform_()))
    y = torch.softmax((30.0 * logits + noise) / 2.0, 0)
    plain = weight * (y.T @ PATTERN.candidates_CM.float()).reshape(3, 8)
    ((plain * pull).sum() - 0.3 * plain.square().sum()).backward()
    torch.testing.assert_close(masked, plain)
    torch.testing.assert_close(found, logits.grad, rtol=1e-4, atol=1e-6)


def test_uniform_logits_make_half_masks_and_a_quarter_of_the_squared_norm(without_noise):
    gate, weight = gate_of((2, 8)), torch.randn(2, 8)
    with torch.no_grad():
        gate.logits.zero_()
    with squared_norms({"w": gate}) as norms:
        masked = gate(weight)
    torch.testing.assert_close(masked, weight / 2)
    assert float(norms[0]) == pytest.approx(0.25 * float(weight.square().sum()), rel=1e-5)


def test_a_uniform_draw_of_zero_makes_no_nan(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *a: self.zero_())
    assert gate_of((2, 8))(torch.ones(2, 8)).isfinite().all()
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *a: self.fill_(1.0))
    assert gate_of((2, 8))(torch.ones(2, 8)).isfinite().all()


def test_installed_gates_freeze_the_weights_open_and_come_off_again():
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 3))
    before = {name: p.tolist() for name, p in model.named_parameters()}
    gates = {"0.weight": gate_of((6, 8))}
    x = torch.randn(5, 8)
    dense = model(x)
    install(model, gates)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "0.parametrizations.weight.0.logits"
    ]
    model.train()
    assert not torch.equal(model(x), model(x))
    with opened(gates):
        assert torch.equal(model(x), dense)
    remove(model, gates)
    assert torch.equal(model(x), dense)
    assert {name: p.tolist() for name, p in model.named_parameters()} == before


def test_schedules_reach_both_ends():
    assert [linear(100, 500, step, 5) for step in range(5)] == [100, 200, 300, 400, 500]
    assert linear(4.0, 0.05, 1, 3) == pytest.approx(2.025)
    assert [fading(1e-5, step, 2) for step in (0, 1, 2)] == [1e-5, 0.5e-5, 0.0]
