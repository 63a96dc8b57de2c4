"""How kappa, tau and the regulariser's weight move over a training of T steps (maskllm 2.5).

Each is a function of the step alone, with T fixed at launch, so a resumed run goes on along the same ramp.
"""

from __future__ import annotations


def linear(start: float, end: float, step: int, num_steps: int) -> float:
    """From `start` at step 0 to `end` at the last step, both reached. Steps count from 0."""
    return start + (end - start) * step / max(1, num_steps - 1)


def fading(weight: float, step: int, num_steps: int) -> float:
    """From `weight` at step 0 towards 0, which `num_steps` would reach: weight * (1 - t / T)."""
    return weight * (1 - step / num_steps)
