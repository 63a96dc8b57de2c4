"""What scoring adds to a bare forward pass of the decoder: CPU seconds and peak memory, in one run.

Both sides see the same model and rows and alternate, so that a busy machine slows both. See README.md here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedModel

from niwaki.pruning.score import score


class RandomRows:
    """Uniform random tokens, nothing padded."""

    def __init__(self, num_rows: int, row_tokens: int, vocab_size: int) -> None:
        self.inputs = torch.randint(vocab_size, (num_rows, row_tokens))

    def take(self, start: int, count: int) -> dict[str, torch.Tensor]:
        """Rows as `score` reads them."""
        inputs = self.inputs[start : start + count]
        return {"inputs": inputs, "mask": torch.ones_like(inputs, dtype=torch.bool)}


def build(hidden: int, dtype: str, experts: int) -> PreTrainedModel:
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": hidden * 11 // 4,
        "num_hidden_layers": 8,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 256,
        "head_dim": 64,
        "vocab_size": 8192,
    }
    if experts:
        model = MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=experts, num_experts_per_tok=2))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    return model.to(getattr(torch, dtype)).eval()


def bare(model: PreTrainedModel, rows: RandomRows, batch_rows: int) -> None:
    with torch.no_grad():
        for start in range(0, len(rows.inputs), batch_rows):
            model.get_decoder()(input_ids=rows.take(start, batch_rows)["inputs"], use_cache=False)


def measure(side: str, model: PreTrainedModel, rows: RandomRows, batch_rows: int) -> float:
    start = time.process_time()
    if side == "bare":
        bare(model, rows, batch_rows)
    else:
        score(model, rows, num_samples=len(rows.inputs), batch_rows=batch_rows)
    return time.process_time() - start


def peak_bytes(side: str, arguments: argparse.Namespace) -> int:
    """Peak resident memory of a fresh process that runs one side only."""
    command = [sys.executable, __file__, "--only", side]
    for name in ("hidden", "rows", "batch", "tokens", "dtype", "experts"):
        command += [f"--{name}", str(getattr(arguments, name))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--experts", type=int, default=0, help="a Mixtral with so many; 0: a Llama")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=("bare", "score"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build(arguments.hidden, arguments.dtype, arguments.experts)
    rows = RandomRows(arguments.rows, arguments.tokens, model.config.vocab_size)
    if arguments.only:
        measure(arguments.only, model, rows, arguments.batch)
        # Not ru_maxrss, which a child inherits from its parent.
        status = Path("/proc/self/status").read_text()
        print(int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024)
        return
    measure("bare", model, rows, arguments.batch)
    pairs = []
    for _ in range(arguments.repeats):
        pairs.append([measure(side, model, rows, arguments.batch) for side in ("bare", "score")])
    peaks = {side: peak_bytes(side, arguments) for side in ("bare", "score")}
    result = {
        "arguments": {k: v for k, v in vars(arguments).items() if k != "only"},
        "bare_cpu_s": statistics.median(bare for bare, _ in pairs),
        "score_cpu_s": statistics.median(scored for _, scored in pairs),
        "ratio": statistics.median(scored / bare for bare, scored in pairs),
        "ratio_of_fastest": min(scored for _, scored in pairs) / min(bare for bare, _ in pairs),
        "ratio_range": [min(s / b for b, s in pairs), max(s / b for b, s in pairs)],
        "peak_ratio": peaks["score"] / peaks["bare"],
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
