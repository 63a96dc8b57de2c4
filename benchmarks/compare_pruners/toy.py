"""The toy of this benchmark: a Llama of 6.85 M parameters on a Markov text, and how models are measured.

Everything is a plain file in one folder: `texts/` and `teacher/`, a Hugging Face folder and a word tokenizer.
Figures compare code on this toy; they promise no quality.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from niwaki.distillation.train import next_token_loss
from niwaki.evaluation.loss import held_out_loss
from niwaki.ground.corpus import Corpus, prepare
from niwaki.ground.loop import fit
from niwaki.ground.stream import Rows

VOCAB = 2048
ROW_TOKENS = 256
CALIBRATION_ROWS, BATCH_ROWS = 128, 8
CALIBRATION_SEED = 7
HELD_OUT_ROWS = 64
CONFIG = {
    "vocab_size": VOCAB,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_NUM_DOCUMENTS, _DOCUMENT_TOKENS = 240, 4096
_TEACHER_STEPS, _TEACHER_ROWS, _TEACHER_ROW_TOKENS = 480, 4, 64


class Toy:
    """The folder of one benchmark run; what is missing is made when first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        os.environ["NIWAKI_CACHE"] = str(folder / "cache")

    @property
    def teacher(self) -> Path:
        """The trained teacher, a Hugging Face folder."""
        return self.folder / "teacher"

    @property
    def texts(self) -> Path:
        """A folder of text files in which a word is a token."""
        return self.folder / "texts"

    def make(self) -> None:
        """Write the texts, train the teacher: a minute or two of one processor core, once."""
        if self.teacher.exists():
            return
        self.texts.mkdir(parents=True, exist_ok=True)
        for number, ids in enumerate(markov_documents()):
            (self.texts / f"{number:03d}.txt").write_text(" ".join(f"w{token}" for token in ids))
        tokenizer = word_tokenizer()
        corpus = prepare(str(self.texts), tokenizer, held_out=0.1)
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**CONFIG))
        rows = Rows(corpus.train.ids, sequence_length=_TEACHER_ROW_TOKENS, seed=0)
        fit(
            model,
            rows,
            next_token_loss,
            out=self.folder / "teacher-training",
            num_steps=_TEACHER_STEPS,
            batch_rows=_TEACHER_ROWS,
            micro_rows=_TEACHER_ROWS,
            learning_rate=1e-3,
            min_learning_rate=1e-4,
            warmup_steps=10,
            label="teacher",
        )
        partial = self.folder / "teacher.partial"
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(self.teacher)

    @property
    def corpus(self) -> Corpus:
        """The text in tokens, split."""
        return prepare(str(self.texts), word_tokenizer(), held_out=0.1)

    @property
    def calibration(self) -> Rows:
        """The rows that every method may look at: the first 128 of these."""
        return Rows(self.corpus.train.ids, sequence_length=ROW_TOKENS, seed=CALIBRATION_SEED)

    def batches(self) -> list[dict[str, torch.Tensor]]:
        """The calibration rows as peers like them: batches of input_ids and attention_mask."""
        rows = self.calibration
        inputs = [rows.take(start, BATCH_ROWS)["inputs"] for start in range(0, CALIBRATION_ROWS, BATCH_ROWS)]
        return [{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in inputs]

    def recipe(self, sizes: dict[str, int], **sections: Any) -> dict[str, Any]:
        """A compress recipe for one shape: what niwaki's rows are made with."""
        shape = {axis: [size] for axis, size in sizes.items()}
        content: dict[str, Any] = {
            "kind": "compress",
            "teacher": str(self.teacher),
            "data": {"source": str(self.texts), "sequence_length_tokens": ROW_TOKENS, "held_out": "10%"},
            "score": {"num_samples": CALIBRATION_ROWS, "batch_rows": BATCH_ROWS},
            "choose": {"to": {"low": 1000, "high": "1B"}, "grid": shape, "rank": "loss"},
            "distill": {"batch_tokens": 2048, "tokens": 4096, "precision": "float32"},
            "evaluate": {"num_tokens": HELD_OUT_ROWS * ROW_TOKENS},
        }
        for name, section in sections.items():
            content[name] = content.get(name, {}) | section
        return content

    def measure(self, model_folder: Path) -> dict[str, float]:
        """Held-out loss and KL(teacher || model), as stock `transformers` loads it."""
        model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
        teacher = AutoModelForCausalLM.from_pretrained(self.teacher, dtype=torch.float32)
        rows = Rows(self.corpus.held_out.ids, sequence_length=ROW_TOKENS)
        found = held_out_loss(model, rows, num_rows=HELD_OUT_ROWS, batch_rows=BATCH_ROWS, teacher=teacher)
        assert found.kl_to_teacher is not None
        return {
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "loss": found.nats_per_token.mean,
            "kl": found.kl_to_teacher.mean,
        }


def markov_documents() -> list[np.ndarray]:
    """The successor depends on classes of the last two tokens: 8 tables of 16 successors, and some noise."""
    generator = np.random.default_rng(0)
    one, two = generator.integers(0, 4, VOCAB), generator.integers(0, 2, VOCAB)
    successors = generator.integers(1, VOCAB, (8, 16))
    weights = 1 / np.arange(1, 17)
    bounds = np.cumsum(weights / weights.sum())
    documents = []
    for _ in range(_NUM_DOCUMENTS):
        draws = np.minimum(np.searchsorted(bounds, generator.random(_DOCUMENT_TOKENS)), 15)
        noise = generator.random(_DOCUMENT_TOKENS) < 0.02
        ids = generator.integers(1, VOCAB, _DOCUMENT_TOKENS)
        for place in range(2, _DOCUMENT_TOKENS):
            if not noise[place]:
                table = 2 * one[ids[place - 1]] + two[ids[place - 2]]
                ids[place] = successors[table, draws[place]]
        documents.append(ids)
    return documents


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Token 0 ends a text; token i is the word w{i}."""
    words = {"<eos>": 0} | {f"w{token}": token for token in range(1, VOCAB)}
    backend = Tokenizer(models.WordLevel(words, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", bos_token="<eos>")


def high_water_bytes() -> int:
    """Peak resident memory of this process."""
    # Not ru_maxrss, which a child inherits from its parent.
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


def cpu_s() -> float:
    """Processor seconds of this process so far."""
    return time.process_time()
