"""The teacher's predictions on disk: where they lie, what they belong to, what they will take.

They are made when they are first needed, by the first trial or by the long training, and both read them. The
folder is no stage: it says itself what it belongs to, and other runs may share it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedConfig

from niwaki.distillation.cache import (
    META,
    CachedRows,
    TeacherCache,
    bytes_per_token,
    check_belongs,
    check_top_k,
    partial_of,
)
from niwaki.distillation.cache_writer import build
from niwaki.errors import NiwakiError, RunError
from niwaki.ground import processes
from niwaki.ground.corpus import text_fingerprint, tokenizer_fingerprint
from niwaki.ground.model import model_path
from niwaki.ground.stream import Rows
from niwaki.pipelines.inputs import Inputs
from niwaki.pipelines.texts import CURVE_TOKENS
from niwaki.recipe.compress import CompressRecipe

FOLDER = "teacher-cache"


def cache_folder(inputs: Inputs) -> Path:
    """Where the recipe wants it: in the run directory, or a folder that several runs share."""
    assert inputs.recipe.distill.cache is not None
    path = inputs.recipe.distill.cache.path
    if path is not None:
        return Path(path).expanduser()
    assert inputs.run is not None, "a cache without a path of its own lies in a run directory"
    return inputs.run / FOLDER


def check_cache(inputs: Inputs) -> None:
    """Refuse a cache that is there and belongs to something else. Text not yet tokenised is not compared.

    Raises:
        CheckpointError: names what differs.
    """
    folder = cache_folder(inputs)
    if any((place / META).exists() for place in (folder, partial_of(folder))):
        check_belongs(folder, _kept(inputs) | _fingerprints(inputs))
    else:
        check_belongs(folder, {})


def cached_rows(inputs: Inputs) -> tuple[CachedRows, CachedRows]:
    """Rows to train on and rows to measure on, with the teacher's predictions, which are made if need be.

    Raises:
        CheckpointError: see `cache_writer.build`.
    """
    recipe = inputs.recipe
    options = recipe.distill.cache
    assert options is not None
    folder = cache_folder(inputs)
    check_cache(inputs)

    def build_once() -> None:
        if (folder / META).exists():
            return
        build(
            inputs.load(inputs.distill_teacher_folder),
            _parts(inputs),
            folder,
            belongs_to=_fingerprints(inputs),
            top_k=options.top_k,
            num_samples=options.samples,
            seed=recipe.seed,
            batch_rows=recipe.distill.micro_rows,
        )
        Console(stderr=True, highlight=False).print(error_in_words(TeacherCache(folder).meta))

    processes.by_main(build_once)
    found = TeacherCache(folder)
    return (
        CachedRows(inputs.train, found, "train"),
        CachedRows(inputs.held_out, found, "held_out", num_rows=inputs.num_curve_rows),
    )


def error_in_words(meta: dict[str, Any]) -> str:
    """What the cache takes, and how far its KL is off."""
    error = meta["error"]
    return (
        f"Cached teacher: {meta['bytes_per_token']} bytes per token. For a perturbed teacher "
        f"{error['kl']:.4f} nats away, its KL is off by {error['bias']:+.5f} on average "
        f"(standard error {error['bias_standard_error']:.5f}) and by {error['token_standard_error']:.3f} on "
        f"one token."
    )


def size_in_words(bytes_a_token: int, num_tokens: int | None) -> str:
    """What the cache will take, as far as it is known."""
    if num_tokens is None:
        return (
            f"The cached teacher takes {bytes_a_token} bytes per token of the training text. How many there "
            "are is known once it is tokenised, and checked against the disk then; data.max_tokens bounds it."
        )
    return (
        f"The cached teacher takes {bytes_a_token} bytes per token of the training text: "
        f"{bytes_a_token * num_tokens / 1e9:.3g} GB for {num_tokens:,} tokens."
    )


def lies_elsewhere(recipe: CompressRecipe) -> bool:
    """Whether the cache is no part of the run directory."""
    return recipe.distill.cache is not None and recipe.distill.cache.path is not None


def cache_bytes(inputs: Inputs, vocab_size: int) -> tuple[int, int | None]:
    """Bytes per token, and how many tokens: None while the text has not been tokenised."""
    options = inputs.recipe.distill.cache
    assert options is not None
    a_token = bytes_per_token(vocab_size, top_k=options.top_k, num_samples=options.samples)
    try:
        corpus = inputs.known_corpus if _is_local(inputs) else None
    except NiwakiError:  # of the tokenizer or the text, which the plan reports as such
        corpus = None
    return a_token, inputs.recipe.data.max_tokens if corpus is None else len(corpus.train.ids)


def problems(inputs: Inputs, config: PreTrainedConfig) -> Iterator[NiwakiError]:
    """Yield what of the cache would stop the run, as far as it can be known without weights."""
    options = inputs.recipe.distill.cache
    if options is None:
        return
    try:
        check_top_k(config.vocab_size, top_k=options.top_k)
        if _is_local(inputs):
            check_cache(inputs)
    except NiwakiError as error:
        yield error
        return
    if options.path is None:
        return  # it counts among the bytes of the run
    a_token, num_tokens = cache_bytes(inputs, config.vocab_size)
    folder = cache_folder(inputs)
    held_bytes = sum(f.stat().st_size for p in (folder, partial_of(folder)) for f in p.rglob("*.safetensors"))
    needed_bytes = a_token * (num_tokens or 0) - held_bytes
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free_bytes = shutil.disk_usage(there).free
    if needed_bytes > free_bytes:
        yield RunError(
            f"distill.cache.path {options.path!r} needs about {needed_bytes / 1e9:.1f} GB more of disk; "
            f"{free_bytes / 1e9:.1f} GB are free.",
            "Free some space, lower distill.cache.top_k and samples, or set data.max_tokens.",
        )


def _is_local(inputs: Inputs) -> bool:
    """Whether the teacher is here, so that looking at it downloads nothing."""
    return Path(model_path(inputs.recipe.distill.teacher or inputs.recipe.teacher)).is_dir()


def _kept(inputs: Inputs) -> dict[str, Any]:
    options = inputs.recipe.distill.cache
    assert options is not None
    length = inputs.recipe.data.sequence_length_tokens
    return {"sequence_length_tokens": length, "top_k": options.top_k, "samples": options.samples}


def _fingerprints(inputs: Inputs) -> dict[str, str]:
    """What can be known by now: no teacher that is still to be corrected, no text still to be tokenised."""
    found = {"tokenizer": tokenizer_fingerprint(inputs.tokenizer)}
    if (inputs.distill_teacher_folder / "config.json").exists():
        found["teacher"] = inputs.distill_teacher_fingerprint
    if (corpus := inputs.known_corpus) is not None:
        found["text"] = text_fingerprint(corpus)
    return found


def _parts(inputs: Inputs) -> dict[str, Rows]:
    """All rows to train on, and as many held-out ones as any run measures along the way."""
    length = inputs.recipe.data.sequence_length_tokens
    num_held_out = max(1, CURVE_TOKENS // length)
    held_out = inputs.corpus.held_out.ids[: num_held_out * length + 1]
    return {
        "train": Rows(inputs.corpus.train.ids, sequence_length=length),
        "held_out": Rows(held_out, sequence_length=length),
    }
