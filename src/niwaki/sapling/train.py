"""Train the bundled teacher from nothing: `python -m niwaki.sapling.train --out runs/sapling`.

In: the source of this Python's standard library. Out: `OUT/model`, a stock Hugging Face folder with a
byte-level BPE tokenizer trained on the same text, and `OUT/metrics.jsonl`. A killed run goes on with the
same command.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from niwaki.distillation.train import next_token_loss
from niwaki.ground.corpus import prepare
from niwaki.ground.loop import fit
from niwaki.ground.model import count_parameters
from niwaki.ground.stream import Rows
from niwaki.ground.text import STDLIB_HELD_OUT, stdlib_documents
from niwaki.sapling.card import write_card

END_OF_TEXT = "<|endoftext|>"
VOCAB_SIZE = 4096
SEQUENCE_LENGTH_TOKENS = 512
BATCH_ROWS = 16
EPOCHS = 6
SEED = 0


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of `vocab_size` entries, one of which ends a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def build_model() -> LlamaForCausalLM:
    """5.8 M parameters of Llama: 8 layers, hidden 256, 8 query and 4 key-value heads, tied embeddings."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


def main() -> None:
    """Read the command line, train, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for checkpoints, metrics and the model"
    )
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="passes over the corpus")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    arguments = parser.parse_args()
    out: Path = arguments.out
    tokenizer_folder = out / "tokenizer"
    if not tokenizer_folder.exists():
        texts = (document.text for document in stdlib_documents("train"))
        train_tokenizer(texts, vocab_size=VOCAB_SIZE).save_pretrained(tokenizer_folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder)
    corpus = prepare("stdlib", tokenizer, held_out=STDLIB_HELD_OUT)
    rows = Rows(corpus.train.ids, sequence_length=SEQUENCE_LENGTH_TOKENS, seed=SEED)
    held_out = Rows(corpus.held_out.ids, sequence_length=SEQUENCE_LENGTH_TOKENS)
    num_steps = round(arguments.epochs * rows.num_rows / BATCH_ROWS)
    print(
        json.dumps({"train_tokens": len(corpus.train.ids), "steps": num_steps, "held_out": held_out.num_rows})
    )
    model = build_model()
    fit(
        model,
        rows,
        next_token_loss,
        out=out,
        num_steps=num_steps,
        batch_rows=BATCH_ROWS,
        micro_rows=8,
        learning_rate=3e-3,
        min_learning_rate=1e-4,
        warmup_steps=100,
        weight_decay=0.1,
        precision=arguments.precision,
        seed=SEED,
        save_every_steps=100,
        held_out=held_out,
        held_out_rows=held_out.num_rows,
        evaluate_every_steps=200,
        label="sapling",
    )
    model.to(torch.bfloat16).save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    write_card(
        out,
        num_parameters=count_parameters(model),
        vocab_size=VOCAB_SIZE,
        train_tokens=len(corpus.train.ids),
        held_out_tokens=len(corpus.held_out.ids),
        bytes_per_token=corpus.held_out.bytes_per_token,
    )


if __name__ == "__main__":
    main()
