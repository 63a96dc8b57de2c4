"""What a row of the benchmark does in its process, and what is measured of it."""

from __future__ import annotations

import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from methods import NIWAKI, PEERS, niwaki
from toy import BATCH_ROWS, CALIBRATION_ROWS, ROW_TOKENS, Toy, cpu_s, high_water_bytes
from transformers import AutoModelForCausalLM

from niwaki.distillation.train import distill, next_token_loss
from niwaki.ground.loop import fit
from niwaki.ground.stream import Rows
from niwaki.pruning.score import score

_LEARNING_RATE = 1e-3


def prune(toy: Toy, name: str, sizes: dict[str, int], out: Path) -> dict[str, Any]:
    """Cut the teacher to `sizes`; CPU seconds and memory include scoring, saving and the checks there are."""
    method = partial(niwaki, **NIWAKI[name]) if name in NIWAKI else PEERS[name]
    before_bytes, began = high_water_bytes(), cpu_s()
    other_s = method(toy, sizes, out)
    spent = {
        "cpu_s": cpu_s() - began - other_s,
        "peak_bytes": high_water_bytes(),
        "before_bytes": before_bytes,
    }
    return toy.measure(out) | spent


def train(toy: Toy, model_folder: Path, way: str, out: Path, *, num_steps: int) -> dict[str, Any]:
    """Train a cut model: towards the teacher's logits ("distil"), or on the text alone ("fine-tune")."""
    student = _load(model_folder)
    rows = Rows(toy.corpus.train.ids, sequence_length=ROW_TOKENS, seed=1)
    settings: dict[str, Any] = {
        "out": out,
        "num_steps": num_steps,
        "batch_rows": BATCH_ROWS,
        "micro_rows": BATCH_ROWS,
        "learning_rate": _LEARNING_RATE,
        "min_learning_rate": _LEARNING_RATE / 10,
        "warmup_steps": num_steps // 20,
        "save_every_steps": num_steps,
    }
    began = cpu_s()
    if way == "distil":
        distill(student, _load(toy.teacher), rows, **settings)
    else:
        fit(student, rows, next_token_loss, **settings)
    spent = {"cpu_s": cpu_s() - began, "peak_bytes": high_water_bytes()}
    student.save_pretrained(out / "model")
    return toy.measure(out / "model") | spent


def distillation_step(toy: Toy) -> dict[str, Any]:
    """8 steps of 8 x 256 tokens, student of the teacher's own shape: time and memory alone."""
    student, teacher = _load(toy.teacher), _load(toy.teacher)
    rows = Rows(toy.corpus.train.ids, sequence_length=ROW_TOKENS, seed=1)
    before_bytes, began = high_water_bytes(), cpu_s()
    distill(
        student,
        teacher,
        rows,
        out=toy.folder / "step",
        num_steps=8,
        batch_rows=8,
        micro_rows=8,
        learning_rate=1e-5,
        save_every_steps=100,
    )
    return {"cpu_s": cpu_s() - began, "peak_bytes": high_water_bytes(), "before_bytes": before_bytes}


def scoring(toy: Toy, *, rounds: int = 3) -> dict[str, Any]:
    """Scoring of all axes beside the bare forward pass, in turns; memory from processes of one each."""
    model, rows = _load(toy.teacher), toy.calibration
    sides = {"bare": lambda: _bare(model, toy), "scored": lambda: _score(model, rows)}
    _bare(model, toy)
    spent: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, work in sides.items():
            began = cpu_s()
            work()
            spent[side].append(cpu_s() - began)
    pairs = zip(spent["scored"], spent["bare"], strict=True)
    return {
        **{f"{side}_cpu_s": statistics.median(times) for side, times in spent.items()},
        **{f"{side}_peak_bytes": _peak_bytes(toy, side) for side in sides},
        "ratio": statistics.median(scored / bare for scored, bare in pairs),
    }


def _bare(model: torch.nn.Module, toy: Toy) -> None:
    with torch.no_grad():
        for batch in toy.batches():
            model(**batch, use_cache=False, logits_to_keep=1)


def _score(model: Any, rows: Rows) -> None:
    score(model, rows, num_samples=CALIBRATION_ROWS, batch_rows=BATCH_ROWS)


def _peak_bytes(toy: Toy, side: str) -> int:
    command = [sys.executable, __file__, str(toy.folder), side]
    return int(subprocess.check_output(command, text=True).splitlines()[-1])


def _load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


if __name__ == "__main__":
    torch.set_num_threads(1)
    _toy = Toy(Path(sys.argv[1]))
    if sys.argv[2] == "bare":
        _bare(_load(_toy.teacher), _toy)
    else:
        _score(_load(_toy.teacher), _toy.calibration)
    print(high_water_bytes())
