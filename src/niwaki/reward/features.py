"""States of a frozen model, computed once and kept (arXiv 2406.12845, section 3).

A cache is a folder of shards, `features.json` beside them: what they were made with, and the row names. The
state of an answer is the one after its last token; that of a prompt the one after its last token, taken in
the same forward pass. A killed pass goes on at the first shard that is missing.

Shapes: n rows, m pairs, d hidden, K objectives.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from niwaki.errors import CheckpointError, DataError
from niwaki.ground import processes
from niwaki.ground.chat import Chat, Conversation, pad_apart
from niwaki.ground.folder import new_file
from niwaki.ground.model import check_finite, load_tokenizer, model_path
from niwaki.ground.progress import progress
from niwaki.ground.run import input_hash, write_atomically
from niwaki.reward.model import grow_embedding
from niwaki.reward.tokens import PairTokens, RatingTokens, padded

Pooling = Literal["last", "mean"]
META = "features.json"


@dataclass(frozen=True)
class Extractor:
    """A frozen model without a head.

    Attributes:
        pooling: "last", for causal models: the state of the last token, and of the prompt's last. "mean", for
            any: the mean over the answer's tokens, and over the prompt's; richer where the model is small and
            frozen, but no stock classifier reads it, so `niwaki reward` alone scores with it.
        causal: a state sees no later token; an encoder's prompts are run alone.
        identity: what the states depend on, for the cache.
    """

    model: PreTrainedModel
    chat: Chat
    pooling: Pooling
    causal: bool
    identity: Mapping[str, Any]

    @property
    def width(self) -> int:
        """d."""
        return int(self.model.config.get_text_config().hidden_size)


def load_extractor(
    name: str | Path,
    *,
    template: str | None = None,
    pooling: Pooling | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Extractor:
    """Load any causal language model, reward model or encoder as a frozen source of states.

    `pooling` is "last" for causal models and "mean" for encoders by default.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    path = model_path(name)
    chat = Chat(load_tokenizer(path), template)
    try:
        model, info = AutoModel.from_pretrained(
            path, dtype=dtype, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"Model {str(name)!r} cannot be loaded: {str(error).splitlines()[0]}",
            "Give a causal language model, a reward model or an encoder without remote code.",
        ) from error
    missing = [key for key in info["missing_keys"] if "pooler" not in key]
    if missing:
        raise CheckpointError(
            f"Model {str(name)!r} lacks {len(missing)} tensors, among them {min(missing)!r}.",
            "Fetch the checkpoint again; these weights would have been random.",
        )
    check_finite(model)
    grow_embedding(model, pad_apart(chat.tokenizer, model.config.get_text_config().vocab_size) + 1)
    causal = not _sees_ahead(model)
    chosen: Pooling = pooling or ("last" if causal else "mean")
    if chosen == "last" and not causal:
        raise CheckpointError(
            f"Model {str(name)!r} is an encoder, whose last token sees no more than the others.",
            "Use pooling: mean.",
        )
    identity = {
        "model": str(name),
        "weights": _weights_hash(model),
        "template": input_hash({"template": chat.tokenizer.chat_template}),
        "dtype": str(dtype).removeprefix("torch."),
        "pooling": chosen,
    }
    return Extractor(model.to(device).eval(), chat, chosen, causal, identity)


@torch.no_grad()
def states(extractor: Extractor, conversations: Sequence[Conversation]) -> tuple[Tensor, Tensor]:
    """States of whole conversations and of their prompts, both [B, d] in float32."""
    model = extractor.model
    ids, last = padded(conversations, int(extractor.chat.tokenizer.pad_token_id))
    ends = torch.tensor([c.prompt_end for c in conversations])
    if extractor.pooling == "last":
        hidden = model(input_ids=ids.to(model.device), use_cache=False).last_hidden_state
        rows = torch.arange(len(ids))
        return hidden[rows, last].float().cpu(), hidden[rows, ends].float().cpu()
    if extractor.causal:
        hidden = model(input_ids=ids.to(model.device), use_cache=False).last_hidden_state
        return _mean(hidden, ends + 1, last), _mean(hidden, torch.zeros_like(ends), ends)
    prompts = [Conversation(c.ids[: c.prompt_end + 1], c.prompt_end) for c in conversations]
    prompt_ids, prompt_last = padded(prompts, int(extractor.chat.tokenizer.pad_token_id))
    whole, alone = _encoded(model, ids, last), _encoded(model, prompt_ids, prompt_last)
    return _mean(whole, ends + 1, last), _mean(alone, torch.zeros_like(ends), prompt_last)


class Features:
    """A cache on disk: `kind` "ratings" has `states` [n, d] and `labels` [n, K], "pairs" `states` [m, 2, d].

    Both have `prompts`, [n, d] or [m, d], and `lengths`, the answers' tokens.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / META).is_file():
            raise DataError(
                f"{folder}: no feature cache is there.", "Make it with the recipe's feature stage."
            )
        self.meta: dict[str, Any] = json.loads((self.folder / META).read_text())

    @property
    def num_rows(self) -> int:
        """How many rows, or pairs."""
        return len(self.meta["rows"])

    @property
    def objectives(self) -> tuple[str, ...]:
        """The columns of the labels."""
        return tuple(self.meta["objectives"])

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """The tensors of one shard after another."""
        for number in range(self.meta["num_shards"]):
            yield load_file(self.folder / _shard(number))

    def read(self, name: str) -> np.ndarray:
        """One tensor of all shards in memory."""
        return np.concatenate([block[name] for block in self.blocks()])


def cache_ratings(
    extractor: Extractor, tokens: RatingTokens, folder: Path, *, batch_rows: int = 16, shard_rows: int = 4096
) -> Features:
    """Compute and keep the states of rated answers. Raises DataError as `_write`.

    Collective: several processes share out the answers; the main one writes.
    """
    labels = tokens.labels.astype(np.float32)

    def shard(rows: range) -> dict[str, np.ndarray]:
        found, prompts = _dealt_out(extractor, [tokens.conversations[i] for i in rows], batch_rows)
        return {"states": found, "prompts": prompts, "labels": labels[rows.start : rows.stop]}

    meta = {
        "kind": "ratings",
        "objectives": list(tokens.objectives),
        "rows": [r.row for r in tokens.ratings],
        "groups": [r.key for r in tokens.ratings],
        "sources": [r.source for r in tokens.ratings],
        "lengths": tokens.lengths().tolist(),
    }
    return _write(extractor, meta, shard, folder, shard_rows)


def cache_pairs(
    extractor: Extractor, tokens: PairTokens, folder: Path, *, batch_rows: int = 16, shard_rows: int = 2048
) -> Features:
    """Compute and keep the states of preference pairs; each prompt's once. Raises DataError as `_write`.

    Collective, as `cache_ratings`.
    """

    def shard(rows: range) -> dict[str, np.ndarray]:
        both = [side[i] for side in (tokens.chosen, tokens.rejected) for i in rows]
        found, prompts = _dealt_out(extractor, both, batch_rows)
        states = found.reshape(2, len(rows), -1).swapaxes(0, 1)
        return {"states": states, "prompts": prompts[: len(rows)]}

    meta = {
        "kind": "pairs",
        "objectives": [],
        "rows": [p.row for p in tokens.pairs],
        "groups": [p.key for p in tokens.pairs],
        "sources": [p.source for p in tokens.pairs],
        "strengths": [p.strength for p in tokens.pairs],
        "q": [p.q for p in tokens.pairs],
        "lengths": tokens.lengths().tolist(),
    }
    return _write(extractor, meta, shard, folder, shard_rows)


def read_published(path: Path) -> dict[str, np.ndarray]:
    """Features as ArmoRM's own code keeps them: `embeddings`, `labels` or `prompt_embeddings`.

    Raises:
        DataError: the two answers of a pair have different prompt states.
    """
    tensors = load_file(path)
    found = {"states": tensors["embeddings"]}
    if "labels" in tensors:
        found["labels"] = tensors["labels"]
    if "prompt_embeddings" in tensors:
        prompts = tensors["prompt_embeddings"]
        apart = np.abs(prompts[:, 0].astype(np.float64) - prompts[:, 1]).max(axis=1)
        if (apart > 1e-2 * np.abs(prompts).max()).any():
            raise DataError(
                f"{path}: pair {int(np.argmax(apart))} has two different prompt states.",
                "They were taken at different places: make the features again.",
            )
        found["prompts"] = prompts[:, 0]
    return found


def _write(extractor: Extractor, meta: dict[str, Any], shard: Any, folder: Path, shard_rows: int) -> Features:
    """Write the shards that are missing. Raises DataError where the folder has another cache."""
    folder = Path(folder)
    total = len(meta["rows"])
    starts = range(0, total, shard_rows)
    meta = {**meta, "made_with": dict(extractor.identity), "num_shards": len(starts)}
    _begin(folder, input_hash(meta))
    with progress(f"features of {meta['kind']}", total=len(starts)) as bar:
        for number, start in enumerate(starts):
            path = folder / _shard(number)
            if not processes.by_main(path.exists):
                tensors = shard(range(start, min(total, start + shard_rows)))
                _check_finite(tensors, meta["rows"], start)
                _save(tensors, path)
            bar.advance(f"{min(total, start + shard_rows):,} rows")
    processes.by_main(lambda: write_atomically(folder / META, json.dumps(meta)))
    return Features(folder)


@processes.main_only
def _begin(folder: Path, mark: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / "BEGUN.json"
    if begun.exists() and json.loads(begun.read_text()) != mark:
        raise DataError(
            f"{folder}: a feature cache of other rows or another model is there.", "Give another folder."
        )
    write_atomically(begun, json.dumps(mark))


@processes.main_only
def _save(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    with new_file(path) as file:
        save_file({k: np.ascontiguousarray(t) for k, t in tensors.items()}, file)


def _dealt_out(
    extractor: Extractor, conversations: Sequence[Conversation], batch_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `states_in_batches`, each of several processes for part of them."""

    def both(mine: Sequence[Conversation]) -> np.ndarray:
        return np.stack(states_in_batches(extractor, mine, batch_rows), axis=1)

    found = np.stack(processes.deal_out(conversations, both))
    return found[:, 0], found[:, 1]


def states_in_batches(
    extractor: Extractor, conversations: Sequence[Conversation], batch_rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """States [n, d] of conversations and of their prompts, in the order given; batches go by length."""
    order = np.argsort([-len(c.ids) for c in conversations], kind="stable")
    found = np.empty((2, len(conversations), extractor.width), dtype=np.float32)
    for start in range(0, len(order), batch_rows):
        rows = order[start : start + batch_rows]
        answers, prompts = states(extractor, [conversations[i] for i in rows])
        found[0, rows], found[1, rows] = answers.numpy(), prompts.numpy()
    return found[0], found[1]


def _check_finite(tensors: Mapping[str, np.ndarray], rows: Sequence[str], start: int) -> None:
    bad = ~np.isfinite(tensors["states"]).reshape(len(tensors["states"]), -1).all(axis=1)
    if bad.any():
        raise DataError(
            f"{rows[start + int(np.argmax(bad))]}: its state is not finite.",
            "Run the backbone in float32 or bfloat16; float16 overflows.",
        )


def _encoded(model: PreTrainedModel, ids: Tensor, last: Tensor) -> Tensor:
    """Hidden states [B, S, d] of an encoder, which must not see the padding."""
    mask = (torch.arange(ids.shape[1]) <= last[:, None]).long()
    found: Tensor = model(
        input_ids=ids.to(model.device), attention_mask=mask.to(model.device)
    ).last_hidden_state
    return found


def _mean(hidden: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """Mean [B, d] of the states from `first` to `last`, in float32."""
    places = torch.arange(hidden.shape[1])
    weights = ((places >= first[:, None]) & (places <= last[:, None])).to(hidden.device).float()[..., None]
    return ((hidden.float() * weights).sum(1) / weights.sum(1)).cpu()


@torch.no_grad()
def _sees_ahead(model: PreTrainedModel) -> bool:
    """Whether a state depends on later tokens: tried, not told by the name."""
    dtype = next(model.parameters()).dtype
    first = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 10]]) % model.config.get_text_config().vocab_size
    hidden = model.eval()(input_ids=first).last_hidden_state[:, 1].float()
    scale = float(hidden.abs().max())
    return float((hidden[0] - hidden[1]).abs().max()) > (1e-4 if dtype == torch.float32 else 3e-2) * scale


@torch.no_grad()
def _weights_hash(model: PreTrainedModel) -> str:
    """A hash of a few values of every tensor: enough to tell models apart, quick on large ones."""
    sums = {
        n: [float(p.flatten()[0]), float(p.flatten()[-1]), p.numel()] for n, p in model.named_parameters()
    }
    return input_hash(sums)


def _shard(number: int) -> str:
    return f"features-{number:05d}.safetensors"
