"""The throughput benchmark runs in its tiny mode, and its variants compute the same loss."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_tiny_mode_runs_and_the_variants_agree(tmp_path):
    found = {}
    for variant in ("niwaki", "naive"):
        out = tmp_path / f"{variant}.json"
        command = [
            sys.executable,
            str(ROOT / "benchmarks" / "gpu_distill.py"),
            "--tiny",
            "--variant",
            variant,
        ]
        done = subprocess.run(
            [*command, "--steps", "2", "--warmup-steps", "1", "--out", str(out)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        assert "say nothing about a GPU" in done.stdout
        found[variant] = json.loads(out.read_text())[0]
    assert found["niwaki"]["first_loss"] == pytest.approx(found["naive"]["first_loss"], rel=1e-4)
    assert found["niwaki"]["first_loss"] > 0
    assert found["niwaki"]["mfu"] is None
    tokens = found["niwaki"]["setting"]["batch_rows"] * found["niwaki"]["setting"]["row_tokens"]
    assert found["niwaki"]["tokens_per_s"] == pytest.approx(tokens / found["niwaki"]["step_s"])
