"""Heads, debiasing and gate as one thing: what turns states into a score that can be taken apart.

Saved as `objectives/heads.safetensors` below a reward model's folder (engines load every safetensors file at
the top), described in its `reward.json`.

Shapes: n answers, d features, K objectives, H heads of the ensemble.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from niwaki.errors import CheckpointError
from niwaki.reward.gate import Gate, combine

HEADS = "objectives/heads.safetensors"
CARD = "reward.json"
Scale = tuple[float, float]


@dataclass(frozen=True)
class Objectives:
    """Everything that is learned on frozen states.

    Attributes:
        weight: [K, d], predicting labels scaled to 0..1 (`scaled`).
        transform: T [K, K].
        gate: the weights that do not depend on the prompt, [K]: the mean gate over a reference set.
        network: the gate that does; None for a fixed one.
        ensemble: [H, K, d] bootstrap heads; H may be 0.
    """

    names: tuple[str, ...]
    scales: tuple[Scale, ...]
    weight: np.ndarray
    transform: np.ndarray
    gate: np.ndarray
    network: Gate | None
    ensemble: np.ndarray

    @property
    def live(self) -> np.ndarray:
        """Which objectives are left after debiasing, [K]."""
        alive: np.ndarray = np.diag(self.transform) != 0
        return alive

    def rewards(self, states: np.ndarray) -> np.ndarray:
        """Predicted labels [..., K], scaled, before debiasing."""
        return states @ self.weight.T

    def gates(self, prompts: np.ndarray) -> np.ndarray:
        """Weights [n, K] for prompt states [n, d]."""
        if self.network is None:
            return np.broadcast_to(self.gate, (len(prompts), len(self.gate)))
        with torch.no_grad():
            found: np.ndarray = self.network(torch.from_numpy(np.asarray(prompts, np.float32))).numpy()
        return found

    def score(self, states: np.ndarray, prompts: np.ndarray | None = None) -> np.ndarray:
        """Scores [n] of answers [n, d]; with the fixed gate where no prompts are given."""
        gate = self.gate if prompts is None else self.gates(prompts)
        return combine(gate, self.rewards(states), self.transform)

    def spread(self, states: np.ndarray, prompts: np.ndarray | None = None) -> np.ndarray:
        """Standard deviation [n] of the score over the ensemble of heads."""
        gate = self.gate if prompts is None else self.gates(prompts)
        scores = [combine(gate, states @ head.T, self.transform) for head in self.ensemble]
        return np.std(scores, axis=0, ddof=1) if len(scores) > 1 else np.full(len(states), np.nan)

    def folded(self, gate: np.ndarray | None = None) -> np.ndarray:
        """One head [1, d] with exactly the scores of a fixed gate: (T g)' W."""
        return ((self.transform @ (self.gate if gate is None else gate)) @ self.weight)[None]

    def rescaled(self, factor: float) -> Objectives:
        """The same with every score times `factor`."""
        network = copy.deepcopy(self.network)
        if network is not None:
            with torch.no_grad():
                network.logit_scale.mul_(factor)
        return replace(self, gate=self.gate * factor, network=network)

    def tensors(self) -> dict[str, Tensor]:
        """What is saved."""
        arrays = {
            "weight": self.weight,
            "transform": self.transform,
            "gate": self.gate,
            "ensemble": self.ensemble,
        }
        found = {name: torch.from_numpy(np.ascontiguousarray(a, np.float32)) for name, a in arrays.items()}
        if self.network is not None:
            found |= {
                f"network.{name}": tensor.detach() for name, tensor in self.network.state_dict().items()
            }
        return found

    def card(self) -> dict[str, Any]:
        """What `reward.json` says."""
        network = self.network
        return {
            "objectives": list(self.names),
            "scales": [list(scale) for scale in self.scales],
            "gate": self.gate.tolist(),
            "transform": self.transform.tolist(),
            "network": None
            if network is None
            else {
                "width": network.layers[0].out_features,
                "num_hidden": len(network.layers) - 1,
                "temperature": network.temperature,
            },
            "num_heads": len(self.ensemble),
        }


def load_objectives(folder: Path) -> Objectives:
    """Read what `tensors` and `card` wrote.

    Raises:
        CheckpointError: the folder has no objectives.
    """
    path = Path(folder) / HEADS
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: has no {HEADS}, so its score cannot be taken apart.",
            "Give a model that a reward recipe with `objectives` made.",
        )
    tensors = load_file(path)
    card = json.loads((Path(folder) / CARD).read_text())["objectives"]
    arrays = {name: tensors[name].double().numpy() for name in ("weight", "transform", "gate", "ensemble")}
    network = None
    if card["network"] is not None:
        live = np.diag(arrays["transform"]) != 0
        network = Gate(arrays["weight"].shape[1], len(arrays["gate"]), live=live, **card["network"])
        state = {n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")}
        network.load_state_dict(state)
        network.eval()
    scales = tuple((float(low), float(high)) for low, high in card["scales"])
    return Objectives(tuple(card["objectives"]), scales, network=network, **arrays)


def scaled(labels: np.ndarray, scales: Sequence[Scale]) -> np.ndarray:
    """Ratings -> 0..1, as (r - low + 0.5) / (high - low + 1): 0..4 becomes 0.1..0.9."""
    low, high = np.array(scales).T
    found: np.ndarray = (labels - low + 0.5) / (high - low + 1)
    return found


def unscaled(values: np.ndarray, scales: Sequence[Scale]) -> np.ndarray:
    """Back to the raters' own scale."""
    low, high = np.array(scales).T
    found: np.ndarray = values * (high - low + 1) + low - 0.5
    return found


@dataclass(frozen=True)
class Explanation:
    """Why an answer has its score. `parts` [K] sum to `score`; `rewards` are in the raters' scale."""

    names: tuple[str, ...]
    rewards: np.ndarray
    gate: np.ndarray
    parts: np.ndarray
    score: float
    spread: float

    def as_dict(self) -> Mapping[str, Any]:
        """JSON-able."""
        rows = zip(self.names, self.rewards, self.gate, self.parts, strict=True)
        return {
            "score": self.score,
            "spread": self.spread,
            "objectives": [
                {"name": n, "reward": float(r), "gate": float(g), "part": float(p)} for n, r, g, p in rows
            ],
        }


def explain(objectives: Objectives, states: np.ndarray, prompts: np.ndarray) -> list[Explanation]:
    """Take the scores of answers [n, d] to prompts [n, d] apart: part i is gate_i r'_i."""
    rewards, gates = objectives.rewards(states), objectives.gates(prompts)
    parts = (rewards @ objectives.transform) * gates
    spread = objectives.spread(states, prompts)
    raw = unscaled(rewards, objectives.scales)
    return [
        Explanation(objectives.names, raw[i], gates[i], parts[i], float(parts[i].sum()), float(spread[i]))
        for i in range(len(states))
    ]


def finish_gate(objectives: Objectives, prompt_logits: np.ndarray, answer_logits: np.ndarray) -> np.ndarray:
    """Scores [n] from a served model with K + M labels, called twice: the client's part of the gate.

    Args:
        prompt_logits: [n, K + M] of the prompts alone, which end at the same token; the last M are the first
            gate layer without its bias.
        answer_logits: [n, K + M] of the whole conversations; the first K are the rewards.
    """
    network, k = objectives.network, len(objectives.names)
    if network is None:
        raise CheckpointError("The gate is fixed.", "Its score is one label: no second call is needed.")
    with torch.no_grad():
        first: Any = network.layers[0]
        x = torch.relu(torch.from_numpy(np.asarray(prompt_logits[:, k:], np.float32)) + first.bias)
        for layer in network.layers[1:-1]:
            x = torch.relu(layer(x))
        logits = (network.layers[-1](x) / network.temperature).masked_fill(~network.live, float("-inf"))
        gates = (logits.softmax(-1) * network.logit_scale).numpy()
    return combine(gates, answer_logits[:, :k], objectives.transform)


def served_rows(objectives: Objectives) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rows [K + M, d] of a `score` that serves the prompt-conditioned gate, and their labels."""
    network = objectives.network
    if network is None:
        raise CheckpointError("The gate is fixed.", "Export the folded head instead.")
    layer: Any = network.layers[0]
    first = layer.weight.detach().double().numpy()
    labels = (*objectives.names, *(f"gate.{i}" for i in range(len(first))))
    return np.concatenate([objectives.weight, first]), labels
