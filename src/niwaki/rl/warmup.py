"""The supervised warm start: worked solutions in the form that the reward asks for, before any reward.

A base model that never answers in that form earns nothing and so learns nothing (arXiv 2504.13941 starts from
models that do). In: questions whose `meta["solution"]` is a worked solution. Out: `OUT/model`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from niwaki.errors import DataError
from niwaki.ground import processes
from niwaki.ground.generate import prompt_end, prompt_ids
from niwaki.ground.loop import FitResult, Precision, fit
from niwaki.ground.model import load_model, load_tokenizer, local_folder
from niwaki.ground.saved import save_model
from niwaki.ground.stream import Batch
from niwaki.rl.form import OPEN
from niwaki.verify.prompt import completion_of, prompt_of
from niwaki.verify.question import Question

SOLUTION = "solution"


class WorkedRows:
    """Prompt and worked answer, one question a row, in a seeded order without end.

    Args:
        questions: those without a worked solution, or longer than `max_tokens` with it, are left out.

    Raises:
        DataError: none is left.
    """

    def __init__(
        self,
        questions: Sequence[Question],
        tokenizer: PreTrainedTokenizerBase,
        *,
        prompt: str,
        max_tokens: int,
        seed: int | None,
    ) -> None:
        self._seed = seed
        worked = [q for q in questions if isinstance(q.meta.get(SOLUTION), str)]
        opened = prompt_end(tokenizer).rstrip().endswith(OPEN)
        rows = [_row(q, tokenizer, prompt, opened) for q in worked]
        self._rows = [row for row in rows if len(row[0]) + len(row[1]) <= max_tokens + 1]
        if not self._rows:
            raise DataError(
                f"Of {len(questions)} questions {len(worked)} have a worked solution (meta.{SOLUTION}), and "
                f"not one of these fits into {max_tokens} tokens.",
                "Give questions with worked solutions, or do without the warm-up.",
            )
        self.num_rows = len(self._rows)
        self._order: tuple[int, np.ndarray] = (-1, np.arange(self.num_rows))

    def take(self, start: int, count: int) -> Batch:
        """Rows start .. start + count: inputs and targets [B,S] int64; the mask [B,S] marks the answer."""
        rows = [self._rows[self._place(i)] for i in range(start, start + count)]
        width = max(len(prompt) + len(answer) for prompt, answer in rows) - 1
        inputs = torch.zeros(count, width, dtype=torch.int64)
        targets = torch.zeros(count, width, dtype=torch.int64)
        mask = torch.zeros(count, width, dtype=torch.bool)
        for number, (prompt, answer) in enumerate(rows):
            ids = torch.tensor(prompt + answer)
            inputs[number, : len(ids) - 1] = ids[:-1]
            targets[number, : len(ids) - 1] = ids[1:]
            mask[number, len(prompt) - 1 : len(ids) - 1] = True
        return {"inputs": inputs, "targets": targets, "mask": mask}

    def _place(self, index: int) -> int:
        epoch, place = divmod(index, self.num_rows)
        if self._seed is None:
            return place
        if epoch != self._order[0]:
            self._order = (epoch, np.random.default_rng((self._seed, epoch)).permutation(self.num_rows))
        return int(self._order[1][place])


def answer_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the answers' tokens, summed. Padding comes last, so no answer sees it."""
    hidden = model(input_ids=batch["inputs"], use_cache=False).logits
    mask = batch["mask"]
    return nn.functional.cross_entropy(hidden[mask].float(), batch["targets"][mask], reduction="sum"), {}


def warm_up(
    model: str | Path,
    questions: Sequence[Question],
    *,
    out: Path,
    num_steps: int,
    prompt: str,
    batch_rows: int = 32,
    micro_rows: int = 8,
    max_tokens: int = 2048,
    learning_rate: float = 1e-5,
    warmup_steps: int = 0,
    weight_decay: float = 0.0,
    precision: Precision = "auto",
    checkpointing: bool = False,
    seed: int = 0,
    save_every_steps: int = 200,
    held_out: Sequence[Question] = (),
    held_out_rows: int = 128,
    label: str = "warm-up",
) -> FitResult:
    """Fine-tune the model in folder `model` on worked solutions and save it to `OUT/model`.

    Resumes from `out` if it was begun there. The rate falls to a tenth along a cosine.

    Raises:
        DataError: no question has a worked solution that fits.
        TrainingError: as `ground.loop.fit`.
    """
    folder = local_folder(model)
    tokenizer = load_tokenizer(folder)
    rows = WorkedRows(questions, tokenizer, prompt=prompt, max_tokens=max_tokens, seed=seed)
    checked = None
    if any(isinstance(q.meta.get(SOLUTION), str) for q in held_out):
        checked = WorkedRows(held_out, tokenizer, prompt=prompt, max_tokens=max_tokens, seed=None)
    trained = load_model(folder)
    dtype = trained.dtype
    trained.float()
    result = fit(
        trained,
        rows,
        answer_loss,
        out=out,
        num_steps=num_steps,
        batch_rows=batch_rows,
        micro_rows=micro_rows,
        learning_rate=learning_rate,
        min_learning_rate=learning_rate / 10,
        warmup_steps=warmup_steps,
        weight_decay=weight_decay,
        precision=precision,
        checkpointing=checkpointing,
        seed=seed,
        save_every_steps=save_every_steps,
        held_out=checked,
        held_out_rows=0 if checked is None else min(held_out_rows, checked.num_rows),
        evaluate_every_steps=max(1, num_steps // 5),
        label=label,
    )
    processes.by_main(lambda: save_model(trained.to(dtype), folder, out / "model", replace=True))
    return result


def _row(
    question: Question, tokenizer: PreTrainedTokenizerBase, prompt: str, opened: bool
) -> tuple[list[int], list[int]]:
    answer = completion_of(str(question.meta[SOLUTION]), question.gold)
    if opened:
        answer = answer.removeprefix(OPEN)
    ids: list[int] = tokenizer(answer, add_special_tokens=False).input_ids
    return prompt_ids(tokenizer, prompt_of(question, prompt)), [*ids, int(tokenizer.eos_token_id)]
