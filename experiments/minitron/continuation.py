"""A task for any text: which of four passages continues this one? Chance is one in four.

Questions come from held-out rows: 96 tokens of context, the 24 tokens that follow, and the 24 tokens at the
same place of three other rows. A model answers with the passage to which it gives the highest probability.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from niwaki.ground.stream import Rows

CONTEXT_TOKENS, PASSAGE_TOKENS, NUM_CHOICES = 96, 24, 4


@torch.no_grad()
def accuracy(model: PreTrainedModel, rows: Rows, *, num_questions: int) -> float:
    """Share of right answers on the first `num_questions` rows."""
    model.eval()
    right = 0
    length = CONTEXT_TOKENS + PASSAGE_TOKENS
    passages = rows.take(0, num_questions)["inputs"][:, :length]
    for number in range(num_questions):
        others = [
            (number + step * num_questions // NUM_CHOICES) % num_questions for step in range(NUM_CHOICES)
        ]
        choices = passages[[number] * NUM_CHOICES].clone()
        choices[:, CONTEXT_TOKENS:] = passages[others, CONTEXT_TOKENS:]
        log_probs = (
            model(input_ids=choices, use_cache=False).logits[:, CONTEXT_TOKENS - 1 : -1].log_softmax(-1)
        )
        chosen = log_probs.gather(-1, choices[:, CONTEXT_TOKENS:, None]).sum((1, 2)).argmax()
        right += int(chosen) == 0  # the right one is put first; the model cannot see that
    return right / num_questions
