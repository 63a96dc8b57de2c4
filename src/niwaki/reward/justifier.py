"""The Pairwise Justifier: a language model says which of two answers is better, and why.

Source: arXiv 2410.01257.

It reads both answers and writes a justification that ends in a verdict. Scored, the two verdicts are compared
by their likelihood after what it wrote, in both orders of the answers, so that what an answer gains from its
place cancels.

Shapes: B rows, S positions, n questions.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from niwaki.ground.chat import Chat, Messages
from niwaki.ground.generate import sample
from niwaki.ground.progress import progress
from niwaki.reward.forms import Skipped
from niwaki.reward.records import Pair, exchanged
from niwaki.reward.tokens import Order

_WORDS = {1: "slightly better", 2: "better", 3: "much better"}
_OWN_VERDICT = re.compile(
    r"\s*@Response [12] is (?:(?:slightly |much )?better than|about the same as) @Response [12]\.?\s*$"
)


@dataclass(frozen=True)
class Justification:
    """One training example: what is read, and what is written."""

    row: str
    prompt: str
    target: str


@dataclass(frozen=True)
class Question:
    """A prompt and two answers, to be compared."""

    prompt: Messages
    first: str
    second: str

    def turned(self) -> Question:
        """The same with the answers exchanged."""
        return Question(self.prompt, self.second, self.first)

    def text(self) -> str:
        """What the justifier reads."""
        return question(self.prompt, self.first, self.second)


def question(prompt: Messages | str, first: str, second: str) -> str:
    """What the justifier reads; earlier turns of a conversation are written out, with who said them."""
    if not isinstance(prompt, str):
        single = len(prompt) == 1
        turns = [m["content"] if single else f"{m['role'].capitalize()}: {m['content']}" for m in prompt]
        prompt = "\n".join(turns)
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


def justifications(pair: Pair) -> tuple[Justification, Justification]:
    """Two training examples of a pair, one in each order: what people wrote about it, then the verdict."""
    strength = 0.0 if pair.q == 0.5 else pair.strength
    wrote = pair.elaboration.strip()
    return (
        Justification(
            f"{pair.row}, better first",
            question(pair.prompt, pair.chosen, pair.rejected),
            f"{wrote} {statement(-strength)}".strip(),
        ),
        Justification(
            f"{pair.row}, better second",
            question(pair.prompt, pair.rejected, pair.chosen),
            f"{exchanged(wrote)} {statement(strength)}".strip(),
        ),
    )


def encode_justifications(
    chat: Chat, pairs: Sequence[Pair], *, max_tokens: int, label: str = "questions"
) -> tuple[list[tuple[tuple[int, ...], int]], list[Skipped]]:
    """Ids of both examples of each pair, and where the target begins in them; pairs too long are named.

    A pair of which one order is too long is left out in both, so that no place is the better one more often.
    Raises DataError as `Chat.conversation`.
    """
    kept, skipped = [], []
    with progress(f"tokens of {label}", total=len(pairs)) as bar:
        for pair in pairs:
            both = []
            for example in justifications(pair):
                conversation = chat.conversation(_asked(example.prompt), example.target, row=example.row)
                start = len(chat.ids(_asked(example.prompt), to_answer=True))
                both.append((conversation.ids, start))
            if max(len(ids) for ids, _ in both) > max_tokens:
                skipped.append(Skipped(pair.row, f"with both answers longer than {max_tokens} tokens"))
            else:
                kept += both
            bar.advance("")
    return kept, skipped


class JustificationRows:
    """Examples for `ground.loop.fit`; only the target's tokens count.

    Args:
        examples: of `encode_justifications`.
        batch_rows: examples of one optimiser step.
        seed: orders them anew in every epoch.
    """

    def __init__(
        self, examples: Sequence[tuple[Sequence[int], int]], *, batch_rows: int, seed: int | None
    ) -> None:
        self.examples = examples
        self._order = Order(np.array([len(ids) for ids, _ in examples]), batch_rows, seed)

    def __len__(self) -> int:
        return len(self.examples)

    def take(self, start: int, count: int) -> dict[str, Tensor]:
        """`inputs` and `targets` [B, S], `mask` [B, S] on the target's tokens."""
        rows = [self.examples[place] for place in self._order.places(start, count)]
        longest = max(len(ids) for ids, _ in rows)
        ids = np.zeros((count, longest), dtype=np.int64)
        mask = np.zeros((count, longest), dtype=bool)
        for i, (row, begin) in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, begin : len(row)] = True
        tensor = torch.from_numpy(ids)
        return {"inputs": tensor[:, :-1], "targets": tensor[:, 1:], "mask": torch.from_numpy(mask[:, 1:])}


def justifier_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the targets, for `ground.loop.fit`. Padding comes last, so no target sees it."""
    mask = batch["mask"]
    logits = model(input_ids=batch["inputs"], use_cache=False).logits[mask].float()
    targets = batch["targets"][mask]
    right = (logits.argmax(-1) == targets).sum().detach()
    return cross_entropy(logits, targets, reduction="sum"), {"accuracy": right}


@dataclass(frozen=True)
class Judgement:
    """What a justifier says of n questions.

    Attributes:
        odds: [n, 2] log-odds that the first answer is the better one, asked in this order and in the other.
            Their mean is the score: exchanging the answers flips its sign exactly.
        written: what it wrote before the verdict, asked in this order; empty where it was to write nothing.
    """

    odds: np.ndarray
    written: tuple[str, ...]

    @property
    def scores(self) -> np.ndarray:
        """Log-odds [n] that the first answer is the better one; the place has cancelled."""
        found: np.ndarray = self.odds.mean(axis=1)
        return found

    @property
    def agrees(self) -> np.ndarray:
        """Whether both orders name the same answer, [n]."""
        found: np.ndarray = np.sign(self.odds[:, 0]) == np.sign(self.odds[:, 1])
        return found


@torch.no_grad()
def judge_both_orders(
    model: Any,
    chat: Chat,
    questions: Sequence[Question],
    *,
    written_tokens: int = 0,
    batch_rows: int = 16,
    label: str = "justifier",
) -> Judgement:
    """Compare the answers of each question, in both orders.

    Args:
        written_tokens: so many of justification are written, likeliest token by token, before the verdicts
            are compared; a verdict that it wrote itself is taken off first.
        batch_rows: justifications written side by side.
    """
    model.eval()
    both = [q for one in questions for q in (one, one.turned())]
    written = [""] * len(both)
    if written_tokens:
        samples = sample(
            model,
            chat.tokenizer,
            [q.text() for q in both],
            temperature=0,
            max_new_tokens=written_tokens,
            batch_rows=batch_rows,
            label=f"{label}, writing",
        )
        written = [_OWN_VERDICT.sub("", s[0].text).strip() for s in samples]
    odds = np.empty((len(questions), 2))
    with progress(label, total=len(both)) as bar:
        for i, (one, wrote) in enumerate(zip(both, written, strict=True)):
            odds[i // 2, i % 2] = _odds(model, chat, one.text(), wrote) * (1 if i % 2 == 0 else -1)
            bar.advance()
    return Judgement(odds, tuple(written[::2]))


def _odds(model: Any, chat: Chat, asked: str, wrote: str) -> float:
    """Log-likelihood of the verdict for the first answer minus that of the second, after what was written.

    The two share all tokens up to the number, which are run once where the model keeps a cache of them.
    """
    begun = chat.text(_asked(asked), to_answer=True) + (f"{wrote} " if wrote else "")
    first, second = (
        chat.tokenizer(begun + statement(strength), add_special_tokens=False).input_ids
        for strength in (-2, 2)
    )
    shared = next(i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    run = model(input_ids=torch.tensor([first[:shared]], device=model.device), use_cache=True)
    cache, start = getattr(run, "past_key_values", None), run.logits[:, -1]
    found = []
    for ids in (first, second):
        tail = torch.tensor([ids[shared:]], device=model.device)
        if cache is None:
            whole = torch.tensor([ids[:-1]], device=model.device)
            rest = model(input_ids=whole).logits[:, shared:]
        else:
            rest = model(input_ids=tail[:, :-1], past_key_values=copy.deepcopy(cache)).logits
        logits = torch.cat([start[:, None], rest], dim=1).float().log_softmax(-1)
        found.append(float(logits.gather(2, tail[..., None]).sum()))
    return found[0] - found[1]


def _asked(prompt: str) -> Messages:
    return ({"role": "user", "content": prompt},)
