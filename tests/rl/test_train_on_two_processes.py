"""GRPO under `torchrun` with two processes: the rollouts of both are counted, and one process resumes it."""

import json
import os
import subprocess
import sys

import pytest

from niwaki.ground.model import load_model

pytest.importorskip("trl")

SCRIPT = """
import sys
from pathlib import Path
from niwaki.rl.form import Form
from niwaki.rl.rewards import Grade
from niwaki.rl.train import train_rl
from niwaki.verify.question import Question

def dense(completions):
    return [Grade(len(set(c.text)) / 20, False, Form.NO_BOX, "different") for c in completions]

questions = [Question(f"s{n}", f"{n}+1=?", str(n + 1), domain="math") for n in range(8)]
train_rl(sys.argv[1], questions, out=Path(sys.argv[2]), num_steps=int(sys.argv[3]), prompts_per_step=4,
    num_generations=4, micro_rollouts=4, prompt="bare-1", max_prompt_tokens=40, max_completion_tokens=8,
    learning_rate=1e-3, precision="float32", grade=dense)
"""


def run(script, *arguments, processes):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*(launch if processes > 1 else [sys.executable]), str(script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
def test_rollouts_of_all_processes_are_counted_once_and_one_process_goes_on(start, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run(script, start, tmp_path / "out", 2, processes=2)
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").open()]
    assert [(r["step"], r["rollouts"], r["groups"]) for r in records] == [(1, 16, 4), (2, 16, 4)]
    load_model(tmp_path / "out" / "model")
    run(script, start, tmp_path / "out", 3, processes=1)
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").open()]
    assert [r["step"] for r in records] == [1, 2, 3]
