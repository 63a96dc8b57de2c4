"""Every arm of these experiments: name -> settings, by direction (maskllm 3.6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Arms = dict[str, Mapping[str, Any]]

ONE_SHOT: Arms = {
    "dense": {"method": "dense"},
    "magnitude": {"method": "magnitude"},
    "wanda": {"method": "wanda"},
    "sparsegpt, mask only": {"method": "sparsegpt"},
    "sparsegpt, weights updated": {"method": "sparsegpt", "update": True},
}
LEARNED: Arms = {"learned": {}}
DISTILLED: Arms = {"learned, distilled": {"loss": "distill", "learning_rate": 1.5e-3}}
# Three times as long: what the aim of 60 % of the gap is judged on.
LONG: Arms = {
    "learned, 480 steps": {"num_steps": 480, "learning_rate": 1.5e-3},
    "learned, distilled, 480 steps": {"loss": "distill", "num_steps": 480, "learning_rate": 1.5e-3},
}
LONG_DISTILLED: Arms = {name: LONG[name] for name in LONG if "distilled" in name}
OBJECTIVE: Arms = {"learned": {}, **DISTILLED}
# A model that has seen its training text many times is far more certain there than on any other text.
UNSEEN_TEXT: Arms = {
    "learned, distilled, unseen text": {
        "loss": "distill",
        "domain": "unseen",
        "num_steps": 120,
        "learning_rate": 2e-3,
    },
    "wanda, unseen text": {"method": "wanda", "domain": "unseen"},
    "sparsegpt, mask only, unseen text": {"method": "sparsegpt", "domain": "unseen"},
    "sparsegpt, weights updated, unseen text": {"method": "sparsegpt", "update": True, "domain": "unseen"},
}
# Beyond the paper: the weights that the mask is laid over were updated by SparseGPT first.
SHORT_OVER_UPDATED: Arms = {
    "learned over updated weights, distilled, 36 steps": {
        "loss": "distill",
        "over_updated": True,
        "num_steps": 36,
        "learning_rate": 2e-3,
    },
}
BEYOND: Arms = {"learned over updated weights": {"over_updated": True}}

PRIORS: Arms = {
    "learned": {},
    "learned, prior wanda": {"prior": "wanda"},
    "learned, prior sparsegpt": {"prior": "sparsegpt"},
    "learned, no prior": {"prior": None},
}
REGULARISER: Arms = {
    "learned, lambda 0": {"regularization": 0.0},
    "learned": {},
    "learned, lambda 1e-4": {"regularization": 1e-4},
}
SAMPLES: Arms = {
    **{
        f"sparsegpt, weights updated, {rows} rows": {
            "method": "sparsegpt",
            "update": True,
            "num_samples": rows,
        }
        for rows in (16, 256)
    },
    **{f"learned, {steps} steps": {"num_steps": steps} for steps in (10, 20, 40, 160)},
}
KAPPA: Arms = {
    "learned, kappa 1 to 5": {"kappa": (1.0, 5.0)},
    "learned": {},
    "learned, kappa 1e3 to 5e3": {"kappa": (1e3, 5e3)},
    "learned, kappa 1e5 to 5e5": {"kappa": (1e5, 5e5)},
}


def dense_layers(num_layers: int) -> Arms:
    """Which layers stay dense: none, the first, the last, the last two."""
    last = num_layers - 1
    return {
        "learned": {},
        "learned, first layer dense": {"dense": ("layer 0",)},
        "learned, last layer dense": {"dense": (f"layer {last}",)},
        "learned, last two layers dense": {"dense": (f"layer {last - 1}", f"layer {last}")},
    }


def domains(names: list[str]) -> Arms:
    """A general mask on a blend of all texts; for each domain one from it, and one from nothing."""
    arms: Arms = {
        "dense, all domains": {"method": "dense", "measure": names},
        "general": {"domain": "blend", "measure": names},
    }
    for name in names:
        arms[f"{name}, from nothing"] = {"domain": name, "prior": None, "measure": [name]}
        arms[f"{name}, from the general mask"] = {"domain": name, "prior_arm": "general", "measure": [name]}
    return arms
