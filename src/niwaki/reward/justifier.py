"""The Pairwise Justifier: a language model says which of two answers is better, and why.

Source: arXiv 2410.01257.

It reads both answers and writes a justification that ends in a verdict. Scored, the verdicts are compared by
their likelihood after the justification, in both orders of the answers, so that what it gains from a place
cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from niwaki.errors import DataError
from niwaki.ground.chat import Chat, Messages
from niwaki.ground.progress import progress

VERDICTS = ("@Response 1 is better than @Response 2.", "@Response 2 is better than @Response 1.")
_WORDS = {1: "slightly better", 2: "better", 3: "much better"}


@dataclass(frozen=True)
class Justification:
    """One training example: what is read, and what is written."""

    row: str
    prompt: str
    target: str


def question(prompt: str, first: str, second: str) -> str:
    """What the justifier reads."""
    return (
        f"{prompt}\n@Response 1:\n{first}\n@Response 2:\n{second}\n"
        "Between @Response 1 and @Response 2, which is better?"
    )


def statement(strength: float) -> str:
    """The verdict in words for a strength from -3 (the first is much better) to 3."""
    if not strength:
        return "@Response 1 is about the same as @Response 2."
    better, worse = (1, 2) if strength < 0 else (2, 1)
    return f"@Response {better} is {_WORDS[min(3, max(1, round(abs(strength))))]} than @Response {worse}."


def justification(
    row: str, prompt: str, first: str, second: str, *, elaboration: str, strength: float
) -> Justification:
    """A training example: the elaboration, then the verdict."""
    return Justification(
        row, question(prompt, first, second), f"{elaboration.strip()} {statement(strength)}".strip()
    )


class JustificationRows:
    """Examples for `ground.loop.fit`; only the target's tokens count.

    Raises:
        DataError: names an example that is longer than `max_tokens`.
    """

    def __init__(
        self, chat: Chat, examples: Sequence[Justification], *, max_tokens: int, pad_id: int, seed: int
    ) -> None:
        self.rows = []
        for example in examples:
            conversation = chat.conversation(_asked(example.prompt), example.target, row=example.row)
            if len(conversation.ids) > max_tokens:
                raise DataError(
                    f"{example.row}: {len(conversation.ids)} tokens, at most {max_tokens} were allowed.",
                    "Raise max_tokens, or leave the example out.",
                )
            start = len(chat.ids(_asked(example.prompt), to_answer=True))
            self.rows.append((conversation.ids, start))
        self.pad_id, self.seed = pad_id, seed

    def take(self, start: int, count: int) -> dict[str, Tensor]:
        """`inputs` and `targets` [B, S], `mask` [B, S] on the target's tokens."""
        rows = [self.rows[self._place(i)] for i in range(start, start + count)]
        longest = max(len(ids) for ids, _ in rows)
        ids = np.full((count, longest), self.pad_id, dtype=np.int64)
        mask = np.zeros((count, longest), dtype=bool)
        for i, (row, begin) in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, begin : len(row)] = True
        tensor = torch.from_numpy(ids)
        return {"inputs": tensor[:, :-1], "targets": tensor[:, 1:], "mask": torch.from_numpy(mask[:, 1:])}

    def _place(self, index: int) -> int:
        epoch, place = divmod(index, len(self.rows))
        return int(np.random.default_rng((self.seed, epoch)).permutation(len(self.rows))[place])


def justifier_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the targets, for `ground.loop.fit`."""
    logits = model(input_ids=batch["inputs"], use_cache=False).logits
    each = cross_entropy(logits.flatten(0, 1).float(), batch["targets"].flatten(), reduction="none")
    return (each * batch["mask"].flatten()).sum(), {}


@torch.no_grad()
def prefer_first(
    model: nn.Module,
    chat: Chat,
    triples: Sequence[tuple[str, str, str]],
    *,
    num_new_tokens: int = 0,
    label: str = "justifier",
) -> np.ndarray:
    """Log-odds [n] that the first answer of each (prompt, first, second) is the better one.

    Each is asked in both orders, and the two answers averaged: swapping the answers flips the sign exactly.
    `num_new_tokens` of justification are written, greedily, before the verdicts are compared.
    """
    found = np.empty(len(triples))
    with progress(label, total=len(triples)) as bar:
        for i, (prompt, first, second) in enumerate(triples):
            forward = _odds(model, chat, question(prompt, first, second), num_new_tokens)
            backward = _odds(model, chat, question(prompt, second, first), num_new_tokens)
            found[i] = (forward - backward) / 2
            bar.advance()
    return found


def _odds(model: Any, chat: Chat, asked: str, num_new_tokens: int) -> float:
    """Log-likelihood of the first verdict minus that of the second."""
    ids = chat.ids(_asked(asked), to_answer=True)
    if num_new_tokens:
        written = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=num_new_tokens,
            do_sample=False,
        )
        ids = [i for i in written[0].tolist() if i != chat.tokenizer.eos_token_id or i in ids]
    likelihoods = []
    for verdict in VERDICTS:
        tail = chat.tokenizer(verdict, add_special_tokens=False).input_ids
        logits = model(input_ids=torch.tensor([ids + tail]), use_cache=False).logits[0, len(ids) - 1 : -1]
        likelihoods.append(float(logits.float().log_softmax(-1).gather(1, torch.tensor(tail)[:, None]).sum()))
    return likelihoods[0] - likelihoods[1]


def _asked(prompt: str) -> Messages:
    return ({"role": "user", "content": prompt},)
