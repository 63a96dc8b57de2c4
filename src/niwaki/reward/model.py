"""The model that is trained: a stock sequence classifier whose score is read at the last token, in float32.

Shapes: B rows, S positions, d hidden, K labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from niwaki.errors import CheckpointError
from niwaki.ground.chat import Chat, Conversation, pad_apart
from niwaki.ground.model import check_finite, load_tokenizer, model_path
from niwaki.ground.progress import progress
from niwaki.ground.saved import no_progress_bars
from niwaki.reward.tokens import padded

HEAD = "score"


@dataclass(frozen=True)
class Scorable:
    """A sequence classifier with the chat that renders for it."""

    model: PreTrainedModel
    chat: Chat

    @property
    def pad_id(self) -> int:
        """Id of the padding token."""
        return int(self.chat.tokenizer.pad_token_id)


def load_backbone(
    name: str | Path,
    *,
    labels: Sequence[str] = ("reward",),
    template: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Scorable:
    """Load a model to train: a causal one gets a head of zeros, a reward model keeps its own.

    The head has no bias. A padding token apart from the end-of-text token is made where there is none. Of a
    reward model with other labels, the rows of the same names are kept; a single label gets the first row
    (helpfulness, of HelpSteer2's five) where no name is the same.

    Raises:
        CheckpointError: it cannot be loaded, or has no stock sequence classifier that reads the last token.
    """
    path = model_path(name)
    tokenizer = load_tokenizer(path)
    chat = Chat(tokenizer, template)
    own = _own_labels(path)
    model, info = _load(path, name, dtype, labels if own in (None, tuple(labels)) else None)
    head = head_of(model, name)
    missing = [key for key in info["missing_keys"] if key != f"{HEAD}.weight"]
    if missing:
        raise CheckpointError(
            f"Model {str(name)!r} lacks {len(missing)} tensors, among them {min(missing)!r}.",
            "Fetch the checkpoint again; these weights would have been random.",
        )
    if head.bias is not None:
        raise CheckpointError(
            f"Model {str(name)!r} has a head with a bias, which serving engines leave out.",
            "Give a model whose `score` has none.",
        )
    if f"{HEAD}.weight" in info["missing_keys"]:
        nn.init.zeros_(head.weight)
    elif own != tuple(labels):
        _choose_rows(model, head, own or (), labels)
    _pad(model, chat)
    check_finite(model)
    return Scorable(model.to(device).eval(), chat)


def load_reward_model(
    name: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Scorable:
    """Load a reward model to score with.

    Raises:
        CheckpointError: it is no sequence classifier, or its head is missing, so that scores were random.
    """
    path = model_path(name)
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    architectures = config.architectures or []
    model, info = _load(path, name, dtype, None)
    if info["missing_keys"]:
        raise CheckpointError(
            f"{name}: holds no {min(info['missing_keys'])!r} (architecture {', '.join(architectures)}), so "
            "its scores would be random.",
            "Give a trained reward model; `niwaki lint` says what else is wrong with this one.",
        )
    tokenizer = load_tokenizer(path)
    scorable = Scorable(model.to(device).eval(), Chat(tokenizer))
    _pad(scorable.model, scorable.chat)
    check_finite(model)
    return scorable


def reads_last_token(name: str | Path) -> bool:
    """Whether `transformers` has a sequence classifier of this model with a linear head on its last token.

    Causal language models have one, encoders have not. No weights are read.
    """
    config = AutoConfig.from_pretrained(model_path(name), trust_remote_code=False)
    try:
        with torch.device("meta"):
            stock = AutoModelForSequenceClassification.from_config(config)
    except (ValueError, KeyError):
        return False
    return isinstance(getattr(stock, HEAD, None), nn.Linear)


def head_of(model: nn.Module, name: object = "the model") -> nn.Linear:
    """The linear head. Raises CheckpointError where there is none that reads one state (encoders)."""
    head = getattr(model, HEAD, None)
    if not isinstance(head, nn.Linear) or not hasattr(model, getattr(model, "base_model_prefix", "")):
        raise CheckpointError(
            f"Model {name!s} ({type(model).__name__}) has no linear head {HEAD!r} on its last state.",
            "Give a causal language model, or a reward model made from one; a recipe can use an encoder's "
            "frozen states: leave out regression and preference, and keep objectives.",
        )
    return head


def last_states(model: nn.Module, ids: Tensor, last: Tensor) -> Tensor:
    """Final hidden states [B, d] at index `last` [B] of each row, or [B, n, d] at n indices [B, n].

    Rows are padded on the right. Attention is causal, so no state up to `last` sees the padding, and no mask
    is needed.
    """
    base = getattr(model, str(model.base_model_prefix))
    hidden = base(input_ids=ids, use_cache=False).last_hidden_state
    rows = torch.arange(len(ids), device=ids.device)
    states: Tensor = hidden[rows.view(-1, *[1] * (last.ndim - 1)), last]
    return states


def score_rows(model: nn.Module, ids: Tensor, last: Tensor) -> Tensor:
    """Scores [B, K] in float32, whatever precision the model runs in."""
    states = last_states(stock_of(model), ids, last)
    with torch.autocast(states.device.type, enabled=False):
        scores: Tensor = stock_of(model).score(states.float())
    return scores


@torch.no_grad()
def score_conversations(
    scorable: Scorable, conversations: Sequence[Conversation], *, batch_rows: int = 16, label: str = "scoring"
) -> np.ndarray:
    """Scores [B, K] in the order given; batches go by length, longest first."""
    model = scorable.model.eval()
    order = sorted(range(len(conversations)), key=lambda i: -len(conversations[i].ids))
    scores = np.empty((len(conversations), model.config.num_labels))
    with progress(label, total=len(conversations)) as bar:
        for start in range(0, len(order), batch_rows):
            rows = order[start : start + batch_rows]
            ids, last = padded([conversations[i] for i in rows], scorable.pad_id)
            scores[rows] = score_rows(model, ids.to(model.device), last.to(model.device)).cpu().numpy()
            for _ in rows:
                bar.advance("")
    return scores


def _own_labels(path: str) -> tuple[str, ...] | None:
    """The labels of a sequence classifier's folder; None where it is another kind of model."""
    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if not any(a.endswith("ForSequenceClassification") for a in config.architectures or []):
        return None
    return tuple(config.id2label[i] for i in range(config.num_labels))


def _choose_rows(model: PreTrainedModel, head: nn.Linear, own: Sequence[str], labels: Sequence[str]) -> None:
    """Replace the head by one with the rows of `labels`."""
    wider = nn.Linear(head.in_features, len(labels), bias=False).to(head.weight)
    with torch.no_grad():
        for i, label in enumerate(labels):
            known = label in own or len(labels) == 1
            wider.weight[i] = head.weight[own.index(label) if label in own else 0] if known else 0.0
    setattr(model, HEAD, wider)
    model.num_labels = len(labels)
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: i for i, label in enumerate(labels)}
    model.config.problem_type = "regression"


def _load(
    path: str, name: object, dtype: torch.dtype, labels: Sequence[str] | None
) -> tuple[PreTrainedModel, dict[str, Any]]:
    options: dict[str, Any] = {}
    if labels is not None:
        options = {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: i for i, label in enumerate(labels)},
            "problem_type": "regression",
        }
    try:
        with _quiet():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                path, dtype=dtype, trust_remote_code=False, output_loading_info=True, **options
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"Model {str(name)!r} cannot be loaded as a sequence classifier: {str(error).splitlines()[0]}",
            "Check the name, that every shard is complete, and that the model needs no remote code.",
        ) from error
    return model, info


@contextmanager
def _quiet() -> Iterator[None]:
    """A new head and a language-model head that is left over are expected; what is not is checked here."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with no_progress_bars():
            yield
    finally:
        transformers_logging.set_verbosity(level)


def _pad(model: PreTrainedModel, chat: Chat) -> None:
    """Make padding a token of its own, in the tokenizer, the embedding and the config."""
    config = model.config.get_text_config()
    pad_id = pad_apart(chat.tokenizer, config.vocab_size)
    grow_embedding(model, pad_id + 1)
    config.pad_token_id = pad_id
    model.config.pad_token_id = pad_id


@torch.no_grad()
def grow_embedding(model: PreTrainedModel, num_tokens: int) -> None:
    """Make room for a token; its row is zeros, where `transformers` would draw one at random."""
    known = model.config.get_text_config().vocab_size
    if num_tokens > known:
        model.resize_token_embeddings(num_tokens, mean_resizing=False)
        model.get_input_embeddings().weight[known:] = 0.0


def stock_of(model: nn.Module) -> Any:
    """The stock model inside a LoRA wrapper."""
    wrapped: Any = model
    return wrapped.get_base_model() if hasattr(wrapped, "get_base_model") else wrapped
