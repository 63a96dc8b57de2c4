"""Write the teacher's predictions for a text, in the form that `cache` describes and reads.

In: a teacher and rows of text in their order. Out: a folder that appears when it is whole. Files are
finished one after another, so a killed build goes on at the first that is missing. The draws of a row depend
on the seed and its place alone, so kills and batches change nothing but rounding.

Shapes: C tokens whose logits exist at a time, S positions, K most likely tokens, M drawn, V vocabulary, D
hidden size.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import save_file
from torch import Tensor
from transformers import PreTrainedModel

import niwaki
from niwaki.distillation.cache import (
    META,
    bytes_per_token,
    check_belongs,
    check_top_k,
    file_name,
    id_type,
    partial_of,
)
from niwaki.distillation.sampled import sample, sampled_kl
from niwaki.errors import CheckpointError
from niwaki.ground.folder import flush, new_file
from niwaki.ground.head import Head, check_head, split_head
from niwaki.ground.progress import progress
from niwaki.ground.run import write_atomically
from niwaki.ground.stream import Rows

_FILE_BYTES = 2**25
_CHUNK_TOKENS = 256
_MEASURED_TOKENS = 4096
_MEASURED_PART = 2**31
# Of the hidden states' size: a student about as far from its teacher as one that has just been trimmed.
_PERTURBATION = 0.5


def build(
    teacher: PreTrainedModel,
    parts: Mapping[str, Rows],
    out: Path,
    *,
    belongs_to: Mapping[str, str],
    top_k: int,
    num_samples: int,
    seed: int,
    batch_rows: int,
) -> None:
    """Write the folder `out`; it appears when it is whole. A killed build goes on with the same call.

    Args:
        teacher: computes in its own dtype, on its own device.
        parts: name -> rows in the order of the text, all of which are written.
        belongs_to: fingerprints of the "teacher", the "tokenizer" and the "text".
        top_k, num_samples: K and M; see `sampled.sample`.
        seed: of the draws. A build that goes on keeps the seed it was begun with.
        batch_rows: rows of one forward pass.

    Raises:
        CheckpointError: `out` belongs to something else, K leaves no tail, the disk is full, or the teacher's
            head is not as `ground.head` describes it.
    """
    teacher.eval()
    check_head(teacher)
    vocab_size = len(split_head(teacher)[1].weight)
    check_top_k(vocab_size, top_k=top_k)
    (sequence_length,) = {rows.sequence_length for rows in parts.values()}
    row_bytes = sequence_length * bytes_per_token(vocab_size, top_k=top_k, num_samples=num_samples)
    meta: dict[str, Any] = {
        "belongs_to": dict(belongs_to)
        | {"sequence_length_tokens": sequence_length, "top_k": top_k, "samples": num_samples},
        "seed": seed,
        "vocab_size": vocab_size,
        "num_rows": {name: rows.num_rows for name, rows in parts.items()},
        "file_rows": max(1, _FILE_BYTES // row_bytes),
        "bytes_per_token": row_bytes // sequence_length,
        "dtypes": {"ids": id_type(vocab_size).name, "log_probs": "float16", "teacher": str(teacher.dtype)},
        "versions": {"niwaki": niwaki.__version__, "torch": torch.__version__},
    }
    check_belongs(out, meta["belongs_to"])
    if (out / META).exists():
        return
    partial = partial_of(out)
    if (partial / META).exists():
        meta = json.loads((partial / META).read_text())
    try:
        partial.mkdir(parents=True, exist_ok=True)
        write_atomically(partial / META, json.dumps(meta, indent=1))
        _write_files(teacher, parts, partial, meta, row_bytes=row_bytes, batch_rows=batch_rows)
        meta["error"] = measure_error(
            teacher, next(iter(parts.values())), top_k=top_k, num_samples=num_samples, seed=meta["seed"]
        )
        write_atomically(partial / META, json.dumps(meta, indent=1))
        flush(partial)
        partial.rename(out)
        flush(out.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{partial}: cannot be written ({error}). What is there is whole.",
            "Free some space and run the same command again: it goes on from there.",
        ) from error


def measure_error(
    teacher: PreTrainedModel, rows: Rows, *, top_k: int, num_samples: int, seed: int
) -> dict[str, float]:
    """How far the kept numbers are off for a student near the teacher: one with noise on its hidden states.

    Returns:
        `kl`, that student's mean divergence over the whole vocabulary, in nats per token; and of the estimate
        from what is kept `bias`, its mean difference, with `bias_standard_error`, and `token_standard_error`,
        the difference's spread from token to token.
    """
    count = min(rows.num_rows, math.ceil(_MEASURED_TOKENS / rows.sequence_length))
    generator = torch.Generator().manual_seed(seed)
    full, kept = [], []
    for place in range(count):
        hidden, head = _hidden(teacher, rows, place, 1)
        noise = torch.randn(hidden.shape, generator=generator).to(hidden)
        moved = hidden + _PERTURBATION * hidden.float().square().mean().sqrt().to(hidden) * noise
        offsets = _offsets(seed, _MEASURED_PART, [place], rows.sequence_length).flatten().to(hidden.device)
        for log_p, log_q, part in zip(
            _log_probs(hidden, head), _log_probs(moved, head), _chunks(len(hidden)), strict=True
        ):
            full.append((log_p.exp() * (log_p - log_q)).sum(dim=-1).double().cpu())
            found = sample(log_p, offsets[part], top_k=top_k, num_samples=num_samples)
            kept.append(sampled_kl(log_q, found).double().cpu())
    expected, found_kl = torch.cat(full), torch.cat(kept)
    off = found_kl - expected
    return {
        "num_tokens": len(off),
        "kl": float(expected.mean()),
        "bias": float(off.mean()),
        "bias_standard_error": float(off.std()) / math.sqrt(len(off)),
        "token_standard_error": float(off.std()),
    }


def _write_files(
    teacher: PreTrainedModel,
    parts: Mapping[str, Rows],
    folder: Path,
    meta: Mapping[str, Any],
    *,
    row_bytes: int,
    batch_rows: int,
) -> None:
    file_rows: int = meta["file_rows"]
    files = [
        (folder / file_name(name, number), part, rows, range(first, min(first + file_rows, rows.num_rows)))
        for part, (name, rows) in enumerate(parts.items())
        for number, first in enumerate(range(0, rows.num_rows, file_rows))
    ]
    missing = [file for file in files if not file[0].exists()]
    needed_bytes = row_bytes * sum(len(places) for *_, places in missing)
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise CheckpointError(
            f"{folder}: the disk is full: {needed_bytes:,} bytes are needed, {free_bytes:,} are free.",
            "Keep fewer tokens (top_k, samples), cut the text (max_tokens), or name another disk.",
        )
    total, left = (
        sum(math.ceil(len(places) / batch_rows) for *_, places in some) for some in (files, missing)
    )
    with progress("teacher", total=total, start=total - left) as bar:
        for path, part, rows, places in missing:
            pieces = []
            for first in places[::batch_rows]:
                count = min(batch_rows, places.stop - first)
                pieces.append(_predict(teacher, rows, first, count, part=part, meta=meta))
                bar.advance()
            columns = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
            with new_file(path) as unfinished:
                save_file(columns, unfinished)


def _predict(
    teacher: PreTrainedModel, rows: Rows, first: int, count: int, *, part: int, meta: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """What a file holds of `count` rows of the text, from `first`: arrays [count, S, ..]."""
    places = range(first, first + count)
    hidden, head = _hidden(teacher, rows, first, count)
    offsets = _offsets(meta["seed"], part, places, rows.sequence_length).flatten().to(hidden.device)
    options = {"top_k": meta["belongs_to"]["top_k"], "num_samples": meta["belongs_to"]["samples"]}
    kept = [
        sample(log_probs, offsets[chunk], **options)
        for log_probs, chunk in zip(_log_probs(hidden, head), _chunks(len(hidden)), strict=True)
    ]

    def column(name: str) -> np.ndarray:
        joined: Tensor = torch.cat([getattr(piece, name) for piece in kept])
        return joined.unflatten(0, (count, -1)).cpu().numpy()

    ids = column("ids").astype(id_type(meta["vocab_size"]))
    return {"ids": ids} | {name: column(name) for name in ("log_probs", "tail_mass", "neg_entropy")}


@torch.no_grad()
def _hidden(teacher: PreTrainedModel, rows: Rows, first: int, count: int) -> tuple[Tensor, Head]:
    """[count * S, D] inputs of the head, and the head."""
    backbone, head = split_head(teacher)
    inputs = rows.take(first, count)["inputs"].to(teacher.device)
    return backbone(input_ids=inputs, use_cache=False).last_hidden_state.flatten(0, 1), head


@torch.no_grad()
def _log_probs(hidden: Tensor, head: Head) -> Iterator[Tensor]:
    """[C, V] log-probabilities of one chunk after another."""
    for chunk in _chunks(len(hidden)):
        yield torch.log_softmax(head.logits(hidden[chunk]).float(), dim=-1)


def _chunks(num_tokens: int) -> list[slice]:
    return [slice(i, min(i + _CHUNK_TOKENS, num_tokens)) for i in range(0, num_tokens, _CHUNK_TOKENS)]


def _offsets(seed: int, part: int, places: Sequence[int], sequence_length: int) -> Tensor:
    """[len(places), S] float64 in [0, 1): functions of the place alone, so that batches change nothing."""
    rows = [np.random.default_rng((seed, part, place)).random(sequence_length) for place in places]
    return torch.from_numpy(np.stack(rows))
