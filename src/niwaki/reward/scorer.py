"""Scores of answers from a saved reward model, and, where it has objectives, what they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from niwaki.ground.chat import Conversation, Messages
from niwaki.ground.model import local_folder
from niwaki.ground.progress import progress
from niwaki.reward.model import Scorable, last_states, load_reward_model, score_conversations
from niwaki.reward.objectives import HEADS, Explanation, Objectives, explain, load_objectives
from niwaki.reward.tokens import padded


@dataclass(frozen=True)
class Scorer:
    """A reward model ready to use; `objectives` are there if a recipe with that section made it."""

    scorable: Scorable
    objectives: Objectives | None

    def conversation(self, prompt: str | Messages, answer: str) -> Conversation:
        """Render one answer; a prompt may be plain text."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return self.scorable.chat.conversation(messages, answer)

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
        if not prompt_gate or self.objectives is None:
            return score_conversations(self.scorable, conversations, batch_rows=batch_rows)[:, 0]
        states, ends = self.states(conversations, batch_rows=batch_rows)
        return self.objectives.score(states, ends)

    def rank(
        self, prompt: str | Messages, answers: Sequence[str], *, prompt_gate: bool = False
    ) -> list[tuple[int, float]]:
        """Answers to one prompt, best first, as (index, score): best-of-n is the first."""
        scores = self.score([prompt] * len(answers), answers, prompt_gate=prompt_gate)
        return [(int(i), float(scores[i])) for i in np.argsort(-scores, kind="stable")]

    def explain(self, prompts: Sequence[str | Messages], answers: Sequence[str]) -> list[Explanation]:
        """What carried each score. Raises CheckpointError when the model has no objectives."""
        objectives = self.objectives or load_objectives(Path("this model"))
        conversations = [self.conversation(p, a) for p, a in zip(prompts, answers, strict=True)]
        return explain(objectives, *self.states(conversations))

    @torch.no_grad()
    def states(
        self, conversations: Sequence[Conversation], *, batch_rows: int = 16
    ) -> tuple[np.ndarray, np.ndarray]:
        """Final states [n, d] of answers and of their prompts."""
        model = self.scorable.model.eval()
        order = np.argsort([-len(c.ids) for c in conversations], kind="stable")
        width = model.config.get_text_config().hidden_size
        found = np.empty((2, len(conversations), width), dtype=np.float64)
        with progress("states", total=len(order)) as bar:
            for start in range(0, len(order), batch_rows):
                rows = order[start : start + batch_rows]
                chosen = [conversations[i] for i in rows]
                ids, last = padded(chosen, self.scorable.pad_id)
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
    return Scorer(load_reward_model(folder, device=device), objectives)
