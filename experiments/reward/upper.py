"""The upper layers of a model on kept states of the lower ones, so that training them costs a fraction.

The lower layers are frozen, so what they make of a token at its place is computed once. Every (row, position) gets
an id of its own, and a table from id to state takes the place of the embedding: everything else, from the loss to
the loop, is the library's own code on an ordinary model of fewer layers.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from niwaki.ground.chat import Conversation
from niwaki.ground.progress import progress
from niwaki.reward.model import Scorable
from niwaki.reward.tokens import PairTokens, RatingTokens, padded

Tokens = TypeVar("Tokens", PairTokens, RatingTokens)


class Table(nn.Module):
    """Id -> state; not saved with the model."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.register_buffer("states", states, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.states)


class Lower:
    """The lower `num_layers` of a model, and the states that they made."""

    def __init__(self, scorable: Scorable, num_layers: int) -> None:
        self.scorable, self.num_layers = scorable, num_layers
        self.parts: list[Tensor] = [torch.zeros(1, scorable.model.config.hidden_size)]  # id 0 is padding
        self.num_ids = 1
        self.known: dict[tuple[int, ...], Conversation] = {}

    @torch.no_grad()
    def learn(self, conversations: list[Conversation], batch_rows: int = 16) -> None:
        """Run the lower layers on conversations that are not known yet."""
        model = copy.deepcopy(self.scorable.model.model)
        model.layers = model.layers[: self.num_layers]
        model.norm = nn.Identity()
        new = sorted({c.ids: c for c in conversations if c.ids not in self.known}.values(), key=lambda c: -len(c.ids))
        with progress("lower layers", total=len(new)) as bar:
            for start in range(0, len(new), batch_rows):
                rows = new[start : start + batch_rows]
                ids, _ = padded(rows, self.scorable.pad_id)
                hidden = model(input_ids=ids, use_cache=False).last_hidden_state
                for row, states in zip(rows, hidden, strict=True):
                    length = len(row.ids)
                    self.parts.append(states[:length].clone())
                    named = tuple(range(self.num_ids, self.num_ids + length))
                    self.known[row.ids] = Conversation(named, row.prompt_end)
                    self.num_ids += length
                    bar.advance()

    def named(self, tokens: Tokens) -> Tokens:
        """The same rows with the ids of the table."""
        if isinstance(tokens, PairTokens):
            return replace(
                tokens,
                chosen=tuple(self.known[c.ids] for c in tokens.chosen),
                rejected=tuple(self.known[c.ids] for c in tokens.rejected),
            )
        return replace(tokens, conversations=tuple(self.known[c.ids] for c in tokens.conversations))

    def upper(self, scorable: Scorable) -> nn.Module:
        """What is trained: the other layers, the norm and the head of `scorable`, on the table."""
        if not hasattr(self, "table"):
            self.table = Table(torch.cat(self.parts))
        model = copy.deepcopy(scorable.model)
        model.model.layers = model.model.layers[self.num_layers :]
        for layer_index, layer in enumerate(model.model.layers):
            layer.self_attn.layer_idx = layer_index
        model.model.embed_tokens = self.table
        model.config = copy.deepcopy(model.config)
        model.config.num_hidden_layers = len(model.model.layers)
        model.model.config = model.config
        return model
