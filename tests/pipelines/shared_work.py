"""Stages that processes share out, on tiny models: done here by one, or as a script by several.

As a script: `shared_work.py FOLDER`. Process N saves what it gets as `FOLDER/STAGE-N.safetensors`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from niwaki.ground import processes
from niwaki.ground.stream import Rows
from niwaki.pruning.depth import measure_on_rows, measure_score, removals
from niwaki.pruning.depth_record import DepthRecord

NUM_LAYERS, ROW_TOKENS = 4, 8
# Batches of two rows: three for one process, two for the other, and the last is of one row.
NUM_ROWS, BATCH_ROWS = 9, 2


def model(*, hidden_size: int = 32) -> LlamaForCausalLM:
    """A Llama of four layers with random weights."""
    torch.manual_seed(hidden_size)
    sizes = {"vocab_size": 90, "intermediate_size": 48, "num_hidden_layers": NUM_LAYERS, "head_dim": 8}
    config = LlamaConfig(
        hidden_size=hidden_size, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3, **sizes
    )
    return LlamaForCausalLM(config).eval()


def rows() -> Rows:
    """Twelve rows of random tokens."""
    return Rows(np.random.default_rng(0).integers(0, 90, 12 * ROW_TOKENS + 1), sequence_length=ROW_TOKENS)


def depth(folder: Path) -> dict[str, Tensor]:
    """Losses and influences without blocks of layers, and a score that is the same everywhere."""
    found = {}
    blocks = [(), *removals(NUM_LAYERS, 2, "block")]
    for measure in ("loss", "influence"):
        record = _record(folder, measure)
        options = {"num_rows": NUM_ROWS, "batch_rows": BATCH_ROWS, "record": record}
        measure_on_rows(model(), blocks, rows(), measure=measure, **options)
        assert set(_record(folder, measure).values) == set(blocks)  # what any process reads from the disk
        found[measure] = torch.tensor([record.values[block] for block in blocks], dtype=torch.float64)
    record = _record(folder, "layers")
    measure_score(model(), blocks, lambda m: m.config.num_hidden_layers, name="layers", record=record)
    return found | {"layers": torch.tensor([record.values[block] for block in blocks])}


def _record(folder: Path, measure: str) -> DepthRecord:
    path = folder / f"{measure}.json"
    return DepthRecord.open(path, measure=measure, num_samples=NUM_ROWS, higher_is_better=False)


STAGES: Mapping[str, Callable[[Path], dict[str, Tensor]]] = {"depth": depth}


if __name__ == "__main__":
    given = Path(sys.argv[1])
    with processes.together():
        for name, work in STAGES.items():
            save_file(work(given), given / f"{name}-{processes.number()}.safetensors")
