"""llm-compressor's one-shot 2:4 in its own environment: peer.py TEACHER ROWS.json WAY OUT."""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from transformers import AutoModelForCausalLM

teacher, rows_file, way, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32)
rows = [row for batch in json.loads(Path(rows_file).read_text()) for row in batch]
data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
kind = SparseGPTModifier if way == "sparsegpt_update" else WandaPruningModifier
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
began = time.process_time()
oneshot(
    model=model,
    dataset=data,
    recipe=[kind(sparsity=0.5, mask_structure="2:4", targets=["Linear"], ignore=["re:.*lm_head"])],
    num_calibration_samples=len(rows),
    max_seq_length=len(rows[0]),
    batch_size=8,
)
spent = time.process_time() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
model.save_pretrained(out)
print(json.dumps({"cpu_s": spent, "peak_bytes": peak, "before_bytes": before}))
