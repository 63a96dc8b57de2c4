"""Bradley-Terry training beside TRL's RewardTrainer: the same pairs, model, batch and steps in one run.

    python benchmarks/reward_models/bradley_terry.py                      # made pairs, of like lengths
    python benchmarks/reward_models/bradley_terry.py --pairs FILE         # pairs of yours, of any form

Both are given tokenised pairs, so that only training is timed; both train all weights in float32 with AdamW.
They take turns, and the ratio is of processor time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel
from trl import RewardConfig, RewardTrainer

from niwaki.reward.data import Source, collect_pairs
from niwaki.reward.model import Scorable, load_backbone
from niwaki.reward.tokens import PairRows, PairTokens, encode_pairs
from niwaki.reward.train import preference_loss, train
from niwaki.sapling import answers

BATCH, MICRO, RATE = 16, 4, 1e-4


def ours(scorable: Scorable, tokens: PairTokens, steps: int) -> float:
    rows = PairRows(tokens, pad_id=scorable.pad_id, batch_rows=BATCH, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        train(
            scorable.model, rows, preference_loss("regular"), out=Path(folder), num_steps=steps,
            batch_rows=BATCH, micro_rows=MICRO, learning_rate=RATE, warmup_steps=0, save_every_steps=10**6,
        )  # fmt: skip
        return time.process_time() - began


def theirs(scorable: Scorable, tokens: PairTokens, steps: int) -> float:
    rows = Dataset.from_dict(
        {
            "chosen_ids": [list(c.ids) for c in tokens.chosen],
            "rejected_ids": [list(c.ids) for c in tokens.rejected],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        config = RewardConfig(
            folder, per_device_train_batch_size=MICRO, gradient_accumulation_steps=BATCH // MICRO,
            max_steps=steps, learning_rate=RATE, report_to=[], save_strategy="no", logging_steps=1,
            use_cpu=True, bf16=False,
            gradient_checkpointing=False, disable_tqdm=True, lr_scheduler_type="constant", max_length=None,
        )  # fmt: skip
        trainer = RewardTrainer(
            model=scorable.model, args=config, train_dataset=rows, processing_class=scorable.chat.tokenizer
        )
        began = time.process_time()
        trainer.train()
        return time.process_time() - began


def fresh() -> Scorable:
    torch.manual_seed(0)
    scorable = load_backbone("sapling")
    model: PreTrainedModel = scorable.model
    torch.nn.init.normal_(model.score.weight, std=0.02)
    return scorable


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--pairs", help="a file or folder that recipes read")
    arguments = parser.parse_args()
    scorable = fresh()
    wanted = BATCH * arguments.steps
    if arguments.pairs is None:
        pairs = answers.annotate(answers.draw(4 * wanted, split="train", seed=0), seed=0).pairs
    else:
        pairs = collect_pairs([Source(arguments.pairs)]).records
    tokens, _ = encode_pairs(scorable.chat, pairs[: 8 * wanted], max_tokens=512)
    tokens = PairTokens(tokens.pairs[:wanted], tokens.chosen[:wanted], tokens.rejected[:wanted])
    assert len(tokens) == wanted
    num_tokens = sum(len(c.ids) for c in (*tokens.chosen, *tokens.rejected))
    times: dict[str, list[float]] = {"niwaki": [], "trl": []}
    for turn in range(arguments.turns):
        for name, run in (("niwaki", ours), ("trl", theirs))[:: 1 if turn % 2 else -1]:
            times[name].append(run(fresh(), tokens, arguments.steps))
            print(name, round(times[name][-1], 2), flush=True)
    middle = {name: float(np.median(values)) for name, values in times.items()}
    print(
        json.dumps(
            {
                "pairs": len(tokens), "tokens": num_tokens, "cpu_s": times,
                "tokens_per_cpu_s": {name: num_tokens / value for name, value in middle.items()},
                "times_faster": middle["trl"] / middle["niwaki"],
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
