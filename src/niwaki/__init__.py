"""niwaki shapes big open language models into small, fast, well-aligned ones.

The functions named in `__all__` are loaded when they are first used, so that `import niwaki` stays quick.
Their types are in `__init__.pyi`.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "apply_mask": "niwaki.masks.apply",
    "candidates": "niwaki.pruning.architecture",
    "choose": "niwaki.pruning.choose",
    "cut_model": "niwaki.pruning.memory_cut",
    "distill": "niwaki.distillation.train",
    "held_out_loss": "niwaki.evaluation.loss",
    "learn_masks": "niwaki.masks.learn",
    "load_model": "niwaki.ground.model",
    "measure_speed": "niwaki.evaluation.speed",
    "one_shot": "niwaki.masks.oneshot",
    "run_tasks": "niwaki.evaluation.harness",
    "score": "niwaki.pruning.score",
    "select": "niwaki.pruning.select",
    "train_rl": "niwaki.rl.train",
    "trim": "niwaki.pruning.trim",
    "warm_up": "niwaki.rl.warmup",
    "write_report": "niwaki.reporting.compress_page",
}

__all__ = [
    "apply_mask",
    "candidates",
    "choose",
    "cut_model",
    "distill",
    "held_out_loss",
    "learn_masks",
    "load_model",
    "measure_speed",
    "one_shot",
    "run_tasks",
    "score",
    "select",
    "train_rl",
    "trim",
    "warm_up",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'niwaki' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
