"""The gate: how much each objective counts, told by the prompt alone (arXiv 2406.12845, section 3.3).

gate = softmax(MLP(prompt state) / temperature) * logit_scale, over objectives; score = gate . (r T). It is
trained on pairs with the debiased rewards, by Bradley-Terry, everything else frozen.

Shapes: m pairs, d features, K objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from niwaki.errors import TrainingError
from niwaki.ground import snapshot
from niwaki.ground.loop import fit
from niwaki.reward.losses import bradley_terry

SMALLEST_FIRST_GRADIENT = 1e-7
NUM_EVALUATIONS = 10


class Gate(nn.Module):
    """An MLP from a prompt's state to the weights of the objectives, which sum to `logit_scale`.

    Parameters are called as in the published code: `layers.{i}.weight`, `layers.{i}.bias`, `logit_scale`.
    """

    def __init__(
        self,
        num_features: int,
        num_objectives: int,
        *,
        width: int = 1024,
        num_hidden: int = 3,
        temperature: float = 10.0,
        dropout: float = 0.2,
        live: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        sizes = [num_features, *[width] * num_hidden]
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(sizes)])
        self.layers.append(nn.Linear(sizes[-1], num_objectives))
        self.logit_scale = nn.Parameter(torch.ones(1))
        self.temperature, self.dropout = temperature, dropout
        mask = torch.ones(num_objectives, dtype=torch.bool) if live is None else torch.from_numpy(live)
        # An objective that debiasing took out carries nothing: no weight is spent on it.
        self.live: Tensor
        self.register_buffer("live", mask, persistent=False)

    def logits(self, prompts: Tensor) -> Tensor:
        """Before the softmax, [m, K]."""
        x = prompts
        for layer in self.layers[:-1]:
            x = nn.functional.dropout(torch.relu(layer(x)), self.dropout, self.training)
        out: Tensor = self.layers[-1](x)
        return out

    def forward(self, prompts: Tensor) -> Tensor:
        """Weights [m, K] of the objectives for prompts [m, d]."""
        logits = (self.logits(prompts) / self.temperature).masked_fill(~self.live, float("-inf"))
        return logits.softmax(dim=-1) * self.logit_scale


@dataclass(frozen=True)
class GateData:
    """Prompt states [m, d], debiased rewards [m, 2, K] (chosen first), strengths and q [m]."""

    prompts: np.ndarray
    rewards: np.ndarray
    strength: np.ndarray
    q: np.ndarray

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: np.ndarray) -> GateData:
        """Some of the pairs."""
        return GateData(self.prompts[rows], self.rewards[rows], self.strength[rows], self.q[rows])


class _Rows:
    """Pairs for `fit`, in an order that is new in every epoch."""

    def __init__(self, data: GateData, seed: int | None) -> None:
        self.data, self.seed = data, seed

    def take(self, start: int, count: int) -> dict[str, Tensor]:
        places = np.array([self._place(i) for i in range(start, start + count)])
        tensors = {
            "prompts": self.data.prompts[places],
            "rewards": self.data.rewards[places],
            "strength": self.data.strength[places],
            "q": self.data.q[places],
        }
        batch = {name: torch.from_numpy(np.asarray(t, dtype=np.float32)) for name, t in tensors.items()}
        return batch | {"mask": torch.ones(count, dtype=torch.bool)}

    def _place(self, index: int) -> int:
        epoch, place = divmod(index, len(self.data))
        if self.seed is None:
            return place
        if getattr(self, "_epoch", None) != epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, epoch)).permutation(len(self.data))
        return int(self._order[place])


def train_gate(
    train: GateData,
    validation: GateData,
    *,
    out: Path,
    live: np.ndarray,
    form: Any = "regular",
    width: int = 1024,
    num_hidden: int = 3,
    temperature: float = 10.0,
    dropout: float = 0.2,
    learning_rate: float = 1e-3,
    num_steps: int = 2000,
    batch_rows: int = 1024,
    seed: int = 0,
) -> tuple[Gate, dict[str, Any]]:
    """Train a gate and keep the step with the lowest validation loss.

    Prompt states are standardised while training; that is folded into the first layer afterwards, so the gate
    that is returned takes plain states.

    Returns:
        The gate, and `curve` (step, validation loss and accuracy), `step`, `first_gradient_norm`.

    Raises:
        TrainingError: no gradient reaches the gate, so it could not learn.
    """
    mean, spread = train.prompts.mean(0), train.prompts.std(0) + 1e-6

    def scaled(data: GateData) -> GateData:
        return GateData((data.prompts - mean) / spread, data.rewards, data.strength, data.q)

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        gate = Gate(
            train.prompts.shape[1],
            train.rewards.shape[2],
            width=width,
            num_hidden=num_hidden,
            temperature=temperature,
            dropout=dropout,
            live=live,
        )
    batch_rows = min(batch_rows, len(train))
    rows, held = _Rows(scaled(train), seed), _Rows(scaled(validation), None).take(0, len(validation))
    loss = _loss(form)
    norm = _first_gradient(gate, loss, rows.take(0, batch_rows))
    every = max(1, num_steps // NUM_EVALUATIONS)
    points = [(0, _state(gate))]
    fit(
        gate,
        rows,
        loss,
        out=out,
        num_steps=num_steps,
        batch_rows=batch_rows,
        micro_rows=batch_rows,
        learning_rate=learning_rate,
        weight_decay=0.0,
        seed=seed,
        save_every_steps=every,
        keep_snapshots=NUM_EVALUATIONS + 2,
        label="gate",
    )
    # Every point is read back from its snapshot, so a killed training ends with the same choice.
    for folder in sorted((out / "checkpoints").glob("step-*")):
        snapshot.restore_weights(folder, nn.ModuleDict({"model": gate}))  # as the loop names it
        points.append((int(folder.name.removeprefix("step-")), _state(gate)))
    curve = []
    for step, weights in points:
        gate.load_state_dict(weights)
        with torch.no_grad():
            total, metrics = loss(gate.eval(), held)
        accuracy = float(metrics["accuracy"]) / len(validation)
        curve.append({"step": step, "loss": float(total) / len(validation), "accuracy": accuracy})
    best = min(range(len(points)), key=lambda i: curve[i]["loss"])
    gate.load_state_dict(points[best][1])
    _fold(gate, mean, spread)
    return gate.eval(), {"curve": curve, "step": points[best][0], "first_gradient_norm": norm}


def combine(gate: np.ndarray, rewards: np.ndarray, transform: np.ndarray) -> np.ndarray:
    """Scores of rewards [..., K] before debiasing: gate . (r T); `gate` is [K] or [..., K]."""
    scores: np.ndarray = ((rewards @ transform) * gate).sum(-1)
    return scores


def fixed_weights(data: GateData, live: np.ndarray, *, form: str = "regular") -> np.ndarray:
    """The best convex combination [K] that is the same for every prompt: what a gate has to beat."""
    gaps = torch.from_numpy(data.rewards[:, 0] - data.rewards[:, 1]).double()
    q, strength = torch.from_numpy(data.q).double(), torch.from_numpy(data.strength).double()
    logits = torch.zeros(gaps.shape[1], dtype=torch.float64, requires_grad=True)
    scale = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    mask = torch.from_numpy(live)
    optimizer = torch.optim.LBFGS([logits, scale], max_iter=200, line_search_fn="strong_wolfe")

    def weights() -> Tensor:
        return logits.masked_fill(~mask, float("-inf")).softmax(0) * scale.exp()

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = bradley_terry(gaps @ weights(), strength, form=form, q=q).mean() + 1e-4 * (logits**2).sum()  # type: ignore[arg-type]
        total.backward()
        return total

    optimizer.step(closure)
    found: np.ndarray = weights().detach().numpy()
    return found


def _loss(form: Any) -> Callable[[nn.Module, Mapping[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]:
    def loss(gate: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        # One gate a prompt, the same for both answers: the softmax runs over objectives, never over answers.
        scores = (gate(batch["prompts"])[:, None, :] * batch["rewards"]).sum(-1)
        d = scores[:, 0] - scores[:, 1]
        each = bradley_terry(d, batch["strength"], form=form, q=batch["q"])
        return each.sum(), {"accuracy": (d > 0).sum().detach()}

    return loss


def _first_gradient(gate: Gate, loss: Any, batch: Mapping[str, Tensor]) -> float:
    gate.eval()
    loss(gate, batch)[0].div(len(batch["mask"])).backward()
    norm = float(sum((p.grad**2).sum() for p in gate.layers.parameters() if p.grad is not None) ** 0.5)
    gate.zero_grad(set_to_none=True)
    if norm < SMALLEST_FIRST_GRADIENT:
        raise TrainingError(
            f"The gradient that reaches the gate is {norm:.1e}.",
            "The rewards of chosen and rejected answers hardly differ: check the heads and their scale.",
        )
    return norm


def _state(gate: Gate) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in gate.state_dict().items()}


@torch.no_grad()
def _fold(gate: Gate, mean: np.ndarray, spread: np.ndarray) -> None:
    """Take plain prompt states instead of standardised ones."""
    first: Any = gate.layers[0]
    first.weight.div_(torch.from_numpy(spread).to(first.weight))
    first.bias.sub_(first.weight @ torch.from_numpy(mean).to(first.weight))
