"""Scores of answers from a saved reward model, and, where it has objectives, what they are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from niwaki.ground.chat import Chat, Conversation, Messages
from niwaki.ground.model import local_folder
from niwaki.ground.progress import progress
from niwaki.reward.export import save_encoder, save_reward_model
from niwaki.reward.features import Extractor, load_extractor, states_in_batches
from niwaki.reward.model import Scorable, head_of, last_states, load_reward_model, score_conversations
from niwaki.reward.objectives import CARD, HEADS, Explanation, Objectives, explain, load_objectives
from niwaki.reward.tokens import padded


@dataclass(frozen=True)
class Scorer:
    """A reward model ready to use.

    Attributes:
        model: a sequence classifier, or an encoder, whose objectives alone make a score.
        objectives: they are there if a recipe with that section made it.
    """

    model: Scorable | Extractor
    objectives: Objectives | None

    @property
    def chat(self) -> Chat:
        """What renders conversations for it."""
        return self.model.chat

    def conversation(self, prompt: str | Messages, answer: str) -> Conversation:
        """Render one answer; a prompt may be plain text."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return self.chat.conversation(messages, answer)

    def score(
        self,
        prompts: Sequence[str | Messages],
        answers: Sequence[str],
        *,
        batch_rows: int = 16,
        prompt_gate: bool = False,
    ) -> np.ndarray:
        """Scores [n]: of the saved head, or with `prompt_gate` of the gate that depends on the prompt."""
        conversations = [self.conversation(p, a) for p, a in zip(prompts, answers, strict=True)]
        return self.score_rendered(conversations, batch_rows=batch_rows, prompt_gate=prompt_gate)

    def score_rendered(
        self, conversations: Sequence[Conversation], *, batch_rows: int = 16, prompt_gate: bool = False
    ) -> np.ndarray:
        """Scores [n] of rendered conversations."""
        gated = prompt_gate and self.objectives is not None
        if isinstance(self.model, Scorable) and not gated:
            return score_conversations(self.model, conversations, batch_rows=batch_rows)[:, 0]
        objectives = self._objectives()
        states, ends = self.states(conversations, batch_rows=batch_rows)
        return objectives.score(states, ends if gated else None)

    def rank(
        self, prompt: str | Messages, answers: Sequence[str], *, prompt_gate: bool = False
    ) -> list[tuple[int, float]]:
        """Answers to one prompt, best first, as (index, score): best-of-n is the first."""
        scores = self.score([prompt] * len(answers), answers, prompt_gate=prompt_gate)
        return [(int(i), float(scores[i])) for i in np.argsort(-scores, kind="stable")]

    def explain(self, prompts: Sequence[str | Messages], answers: Sequence[str]) -> list[Explanation]:
        """What carried each score. Raises CheckpointError when the model has no objectives."""
        objectives = self._objectives()
        conversations = [self.conversation(p, a) for p, a in zip(prompts, answers, strict=True)]
        return explain(objectives, *self.states(conversations))

    def rescaled(self, factor: float) -> Scorer:
        """The same with every score times `factor`, in the head (in place) and in the objectives."""
        if isinstance(self.model, Scorable):
            with torch.no_grad():
                head_of(self.model.model).weight.mul_(factor)
        return replace(self, objectives=self.objectives and self.objectives.rescaled(factor))

    def _objectives(self) -> Objectives:
        return self.objectives or load_objectives(Path("this model"))

    @torch.no_grad()
    def states(
        self, conversations: Sequence[Conversation], *, batch_rows: int = 16
    ) -> tuple[np.ndarray, np.ndarray]:
        """Final states [n, d] of answers and of their prompts."""
        if isinstance(self.model, Extractor):
            answers, prompts = states_in_batches(self.model, conversations, batch_rows)
            return answers.astype(np.float64), prompts.astype(np.float64)
        model = self.model.model.eval()
        order = np.argsort([-len(c.ids) for c in conversations], kind="stable")
        width = model.config.get_text_config().hidden_size
        found = np.empty((2, len(conversations), width), dtype=np.float64)
        with progress("states", total=len(order)) as bar:
            for start in range(0, len(order), batch_rows):
                rows = order[start : start + batch_rows]
                chosen = [conversations[i] for i in rows]
                ids, last = padded(chosen, self.model.pad_id)
                ends = torch.tensor([c.prompt_end for c in chosen])
                both = torch.stack([last, ends], dim=1).to(model.device)
                states = last_states(model, ids.to(model.device), both)
                found[:, rows] = states.float().cpu().numpy().transpose(1, 0, 2)
                for _ in rows:
                    bar.advance()
        return found[0], found[1]


def load_scorer(name: str | Path, *, device: str | torch.device = "cpu") -> Scorer:
    """Load a reward model, with its objectives if any. Raises CheckpointError when it cannot score."""
    folder = local_folder(name)
    objectives = load_objectives(folder) if (folder / HEADS).is_file() else None
    if objectives is not None and "pooling" in json.loads((folder / CARD).read_text()):
        return Scorer(load_extractor(folder, pooling="mean", device=device), objectives)
    return Scorer(load_reward_model(folder, device=device), objectives)


def save_scorer(scorer: Scorer, out: Path, *, card: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Save a scorer in the form that it was loaded from. Raises CheckpointError."""
    model, objectives = scorer.model, scorer.objectives
    if isinstance(model, Extractor):
        save_encoder(model, scorer._objectives(), out, card=card, dtype=dtype, replace=True)
        return
    beside: dict[str, Mapping[str, Tensor]] = {}
    if objectives is not None:
        beside, card = {HEADS: objectives.tensors()}, {**card, "objectives": objectives.card()}
    save_reward_model(model, out, card=card, dtype=dtype, replace=True, beside=beside)
