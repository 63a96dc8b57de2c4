"""lm-eval's Hugging Face model, reading a context that several choices share only once.

lm-eval runs a question with four choices as four full sequences. On a CPU, where time is arithmetic, the
context is most of that arithmetic; here it goes through the model once and its key-value cache is repeated
for the choices. The log-likelihoods are the same up to rounding.

Several processes share out the questions here and not in lm-eval, for which each of them is alone: so all get
all answers, in order. lm-eval's own way gives results to one process only, in another order, and takes the
number of a process on its machine for its number among all.

Needs lm-eval: import this module lazily.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]
from transformers import DynamicCache

from niwaki.ground import processes
from niwaki.ground.parts import is_in_parts

T = TypeVar("T")
Request = tuple[tuple[str, str], list[int], list[int]]
Answer = tuple[float, bool]


class SharedPrefixLM(HFLM):
    """`HFLM` whose log-likelihood requests on a CPU share the forward pass over a common context.

    Collective: each of several processes answers part of the questions, and all get all answers. A model in
    parts has to run equally often in all, so there each answers all.
    """

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """Log-likelihood of each continuation, and whether greedy decoding would give it."""
        answer = super().loglikelihood
        return self._shared_out(requests, lambda mine: answer(mine, disable_tqdm))

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each text."""
        answer = super().loglikelihood_rolling
        return self._shared_out(requests, lambda mine: answer(mine, disable_tqdm))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """A completion of each prompt."""
        answer = super().generate_until
        return self._shared_out(requests, lambda mine: answer(mine, disable_tqdm))

    def _shared_out(self, requests: list[Instance], answer: Callable[[list[Instance]], list[T]]) -> list[T]:
        return answer(requests) if is_in_parts(self.model) else _shared_out(requests, answer)

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[Answer]:
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, (_, context, _) in enumerate(requests):
            groups[tuple(context)].append(index)
        shared = [members for members in groups.values() if self._gains(requests, members)]
        answers: dict[int, Answer] = {}
        for members in tqdm(shared, desc="Questions", disable=disable_tqdm):
            context = requests[members[0]][1]
            answers |= zip(members, self._score(context, [requests[i][2] for i in members]), strict=True)
        rest = [index for index in range(len(requests)) if index not in answers]
        if rest:
            rest_answers = super()._loglikelihood_tokens(
                [requests[i] for i in rest], disable_tqdm, override_bs
            )
            answers |= zip(rest, rest_answers, strict=True)
        return [answers[index] for index in range(len(requests))]

    def _gains(self, requests: list[Request], members: list[int]) -> bool:
        """Whether to share: several choices, all inside the context window, some longer than one token.

        lm-eval already reads the context once for one-token choices; on an accelerator its large batches
        are faster than sharing.
        """
        lengths = [len(requests[index][2]) for index in members]
        return (
            self.device.type == "cpu"
            and len(members) > 1
            and max(lengths) > 1
            and len(requests[members[0]][1]) + max(lengths) <= self.max_length
        )

    @torch.inference_mode()
    def _score(self, context: list[int], choices: list[list[int]]) -> list[Answer]:
        """Log-likelihood of each choice after `context`, and whether greedy decoding would give it."""
        prefix = self.model(
            torch.tensor([context]), past_key_values=DynamicCache(config=self.config), logits_to_keep=1
        )
        prefix.past_key_values.batch_repeat_interleave(len(choices))
        # [choices, longest]; padding on the right comes after every scored position, so it needs no mask
        targets = torch.nn.utils.rnn.pad_sequence([torch.tensor(c) for c in choices], batch_first=True)
        rest = self.model(targets[:, :-1], past_key_values=prefix.past_key_values).logits
        logits: Tensor = torch.cat([prefix.logits.expand(len(choices), -1, -1), rest], dim=1)
        scores = logits.float().log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
        greedy = logits.argmax(-1) == targets
        return [
            (scores[row, : len(choice)].sum().item(), bool(greedy[row, : len(choice)].all()))
            for row, choice in enumerate(choices)
        ]


def _shared_out(requests: Sequence[Instance], answer: Callable[[list[Instance]], list[T]]) -> list[T]:
    """The answers to all requests, in order; questions are dealt out to the processes.

    What belongs to one question stays together, because its requests have a context in common.
    """
    questions: dict[tuple[str | None, int | None], list[int]] = defaultdict(list)
    for index, request in enumerate(requests):
        questions[request.task_name, request.doc_id].append(index)

    def answers(mine: Sequence[list[int]]) -> Iterator[dict[int, T]]:
        found = iter(answer([requests[index] for question in mine for index in question]))
        return ({index: next(found) for index in question} for question in mine)

    dealt = processes.deal_out(list(questions.values()), answers)
    found = {index: value for question in dealt for index, value in question.items()}
    return [found[index] for index in range(len(requests))]
