"""Train the second teacher of these experiments: 12 layers on English novels.

    python experiments/minitron/novels.py --data data/text_novels100/train --out data/novels

In: a folder of plain-text novels. Out: `OUT/model`, a stock Hugging Face folder, and `OUT/metrics.jsonl`.
A killed run goes on with the same command. The weights are not kept in the repository.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from niwaki.distillation.train import next_token_loss
from niwaki.ground.corpus import prepare
from niwaki.ground.loop import fit
from niwaki.ground.stream import Rows
from niwaki.ground.text import read_documents, split_of
from niwaki.sapling.train import train_tokenizer

VOCAB_SIZE = 2048
SEQUENCE_LENGTH_TOKENS = 256
BATCH_ROWS = 16
HELD_OUT = 0.06
SEED = 0


def build_model() -> LlamaForCausalLM:
    """2.5 M parameters of Llama: deep and narrow, so that there are layers to drop."""
    torch.manual_seed(SEED)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=12,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of .txt files")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for checkpoints, metrics and the model"
    )
    parser.add_argument("--steps", type=int, default=1200)
    arguments = parser.parse_args()
    out: Path = arguments.out
    if not (out / "tokenizer").exists():
        documents = read_documents(str(arguments.data))
        texts = (d.text for d in documents if split_of(d, HELD_OUT) == "train")
        train_tokenizer(texts, vocab_size=VOCAB_SIZE).save_pretrained(out / "tokenizer")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "tokenizer")
    corpus = prepare(str(arguments.data), tokenizer, held_out=HELD_OUT)
    model = build_model()
    print(f"{model.num_parameters():,} parameters, {len(corpus.train.ids):,} training tokens", flush=True)
    fit(
        model,
        Rows(corpus.train.ids, sequence_length=SEQUENCE_LENGTH_TOKENS, seed=SEED),
        next_token_loss,
        out=out,
        num_steps=arguments.steps,
        batch_rows=BATCH_ROWS,
        micro_rows=16,
        learning_rate=4e-3,
        min_learning_rate=2e-4,
        warmup_steps=100,
        weight_decay=0.1,
        precision="auto",
        seed=SEED,
        save_every_steps=100,
        held_out=Rows(corpus.held_out.ids, sequence_length=SEQUENCE_LENGTH_TOKENS),
        held_out_rows=128,
        evaluate_every_steps=200,
        label="novels",
    )
    model.to(torch.bfloat16).save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")


if __name__ == "__main__":
    main()
