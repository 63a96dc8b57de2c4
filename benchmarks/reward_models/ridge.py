"""Ridge of many objectives from streamed normal equations, beside scikit-learn.

    python benchmarks/reward_models/ridge.py                          # equality and time on 8,000 x 256
    python benchmarks/reward_models/ridge.py --large                  # 500,000 x 1,024 from disk

Both choose the penalty of every objective among nine by five-fold cross-validation over the same prompts,
and fit the heads on all rows. Prints seconds of processor time, so that a busy machine changes little, and
the peak of memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, PredefinedSplit

from niwaki.reward import ridge

NUM_OBJECTIVES, SHARD_ROWS = 20, 10_000


def write(folder: Path, num_rows: int, width: int) -> list[str]:
    """Shards of states and labels with a truth to find; the groups of the rows."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(width, NUM_OBJECTIVES)).astype(np.float32) / width**0.5
    for number, start in enumerate(range(0, num_rows, SHARD_ROWS)):
        x = rng.standard_normal((min(SHARD_ROWS, num_rows - start), width), dtype=np.float32)
        y = x @ truth + rng.standard_normal((len(x), NUM_OBJECTIVES), dtype=np.float32)
        save_file({"states": x, "labels": y}, folder / f"{number:04d}.safetensors")
    return [f"{(i // 2) * 2654435761 % 2**52:013x}" for i in range(num_rows)]


def blocks(folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        yield tensors["states"], tensors["labels"].astype(np.float64)


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def streamed(folder: Path, groups: list[str]) -> tuple[ridge.Ridge, dict[str, float]]:
    began = time.process_time()
    normal = ridge.gather(blocks(folder), groups, [str(k) for k in range(NUM_OBJECTIVES)])
    summed = time.process_time()
    fitted = ridge.fit(normal)
    cost = {"sums_cpu_s": summed - began, "solves_cpu_s": time.process_time() - summed}
    return fitted, cost | {"peak_bytes": peak_bytes()}


def sklearn(folder: Path, groups: list[str]) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """One grid search per objective, as there is no other way to a penalty for each."""
    parts = list(blocks(folder))
    x, y = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    fold = ridge.bucket_of(groups, 20) % 5
    began = time.process_time()
    weights, alphas = [], []
    for k in range(NUM_OBJECTIVES):
        search = GridSearchCV(
            Ridge(fit_intercept=False, solver="cholesky"), {"alpha": list(ridge.ALPHAS)},
            scoring="neg_mean_squared_error", cv=PredefinedSplit(fold),
        )  # fmt: skip
        search.fit(x.astype(np.float64), y[:, k])
        weights.append(search.best_estimator_.coef_)
        alphas.append(search.best_params_["alpha"])
    return (
        np.stack(weights),
        np.array(alphas),
        {"cpu_s": time.process_time() - began, "peak_bytes": peak_bytes()},
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--rows", type=int, default=8_000)
    parser.add_argument("--width", type=int, default=256)
    arguments = parser.parse_args()
    rows, width = (500_000, 1_024) if arguments.large else (arguments.rows, arguments.width)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        groups = write(folder, rows, width)
        fitted, cost = streamed(folder, groups)
        result = {"rows": rows, "width": width, "objectives": NUM_OBJECTIVES, "streamed": cost}
        if not arguments.large:
            weights, alphas, theirs = sklearn(folder, groups)
            ours = cost["sums_cpu_s"] + cost["solves_cpu_s"]
            result |= {
                "sklearn": theirs,
                "same_alphas": bool((alphas == fitted.alphas).all()),
                "largest_relative_difference": float(
                    np.abs(weights - fitted.weight).max() / np.abs(weights).max()
                ),
                "times_faster": theirs["cpu_s"] / ours,
            }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
