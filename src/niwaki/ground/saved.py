"""Saving a model, and the check that every save passes before it is called done."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from niwaki.errors import CheckpointError
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.folder import error_number, new_folder

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}  # of the largest logit
_HALF_TOLERANCE = 2e-2
_NUM_NEW_TOKENS = 4


@dataclass(frozen=True)
class SaveCheck:
    """What was checked of a saved model.

    Attributes:
        loaded: "weights": stock `transformers` loaded it, ran it and generated from it; "shapes": its weights
            exceed half of the memory that the process is allowed, so stock `transformers` matched every name
            and shape on the meta device and nothing was run.
        max_logit_difference: largest absolute difference from the logits of the model in memory; None when
            there was no such model.
    """

    loaded: str
    max_logit_difference: float | None = None


def save_model(model: PreTrainedModel, files_from: Path, out: Path, *, replace: bool = False) -> SaveCheck:
    """Save a model in memory as a folder that stock `transformers` loads, and check it.

    Args:
        model: an unwrapped model, all of its weights in this process.
        files_from: the model folder whose tokenizer, chat templates, generation config, licence are copied.
        out: the folder to make; it appears when everything is written and checked.
        replace: an earlier save at `out` gives way to the new one once that is complete.

    Raises:
        CheckpointError: `out` is taken, the disk is full, or the saved model differs from the one in memory.
    """
    source = Checkpoint(files_from)
    needed_bytes = sum(tensor.nbytes for tensor in model.state_dict().values())
    needed_bytes += sum((source.path / name).stat().st_size for name in source.files())
    with new_folder(out, needed_bytes=needed_bytes, replace=replace) as folder:
        try:
            with no_progress_bars():
                model.save_pretrained(folder)
        except SafetensorError as error:
            raise OSError(error_number(error), str(error)) from error
        source.copy_files(folder)
        return verify_saved(folder, model)


def verify_saved(
    path: Path, model: PreTrainedModel | None = None, prompt_ids: Tensor | None = None
) -> SaveCheck:
    """Load a saved folder with stock `transformers`, run it, and compare it with the model in memory.

    Args:
        path: the model folder.
        model: the model it was saved from; its logits must agree. It is run without gradients, in eval mode.
        prompt_ids: token ids [B, S] to run; two rows of eight spread over the vocabulary by default.

    Raises:
        CheckpointError: tensors are missing, left over or of another shape, the model cannot be loaded or
            run, its logits are not finite or differ, or it does not generate.
    """
    path = Path(path)
    checkpoint = Checkpoint(path)
    if 2 * checkpoint.num_bytes > memory_limit_bytes():
        _load_shapes(checkpoint)
        return SaveCheck("shapes")
    with torch.random.fork_rng():
        options = {} if model is None else {"attn_implementation": model.config._attn_implementation}
        reloaded = _load(path, AutoModelForCausalLM, path, dtype="auto", **options)
        ids = _prompt(checkpoint.config.vocab_size) if prompt_ids is None else prompt_ids
        difference = None
        logits = _logits(reloaded, ids, path)
        if model is not None:
            difference = _compare(logits, _logits(model, ids, path), path)
        _generate(reloaded, ids, path)
    return SaveCheck("weights", difference)


def memory_limit_bytes() -> int:
    """How much memory this process may use: the machine's, or what its container or shell leaves it."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for kind, column in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            used_pages = int(Path("/proc/self/statm").read_text().split()[column])
            limits.append(soft - used_pages * os.sysconf("SC_PAGE_SIZE"))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup version 2 and 1
        path = Path("/sys/fs/cgroup") / name
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            limits.append(int(text))
    return min(limits)


def _load_shapes(checkpoint: Checkpoint) -> None:
    """Have stock `transformers` load names and shapes, converted as it does (experts), without a value."""
    specs = {name: checkpoint.spec(name) for name in checkpoint.names()}
    on_meta = {name: torch.empty(s.shape, dtype=s.dtype, device="meta") for name, s in specs.items()}
    config = checkpoint.config
    stock = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    _load(checkpoint.path, stock, None, config=config, state_dict=on_meta, device_map="meta")


def _load(path: Path, stock: Any, weights: Path | None, **options: Any) -> PreTrainedModel:
    try:
        with no_progress_bars():
            model, info = stock.from_pretrained(
                weights,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
    except Exception as error:
        raise CheckpointError(
            f"{path}: stock transformers cannot load it: {error}",
            "Report it with this message; nothing was saved.",
        ) from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if info[kind]:
            raise CheckpointError(
                f"{path}: stock transformers reports {kind.replace('_', ' ')}: {sorted(info[kind])[:3]}.",
                "The config and the weights do not belong together; nothing was saved.",
            )
    return model.eval()


def _prompt(vocab_size: int) -> Tensor:
    return ((torch.arange(16) * 2 + 1) * vocab_size // 32).reshape(2, 8)


@torch.no_grad()
def _logits(model: PreTrainedModel, ids: Tensor, path: Path) -> Tensor:
    training = model.training
    model.eval()
    ids = ids.to(model.device)
    try:
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    finally:
        model.train(training)
    if not logits.isfinite().all():
        raise CheckpointError(
            f"{path}: the logits are not finite.",
            "Try a wider dtype (float16 overflows where bfloat16 does not), or a milder trim.",
        )
    return logits.cpu()


def _compare(saved: Tensor, in_memory: Tensor, path: Path) -> float:
    difference = float((saved.float() - in_memory.float()).abs().max())
    allowed = _TOLERANCE.get(saved.dtype, _HALF_TOLERANCE) * float(in_memory.abs().max())
    if saved.dtype != in_memory.dtype or difference > allowed:
        raise CheckpointError(
            f"{path}: the reloaded model gives {saved.dtype} logits that differ by up to {difference:.3g} "
            f"from the {in_memory.dtype} logits of the model in memory, expected at most {allowed:.3g}.",
            "The model holds something that its config or its saved weights do not; nothing was saved.",
        )
    return difference


def _generate(model: PreTrainedModel, ids: Tensor, path: Path) -> None:
    try:
        generated = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=_NUM_NEW_TOKENS
        )
    except Exception as error:
        raise CheckpointError(
            f"{path}: generate() fails: {error}", "Check generation_config.json of the source model."
        ) from error
    if generated.shape[1] <= ids.shape[1]:
        raise CheckpointError(f"{path}: generate() returned no new token.", "Check generation_config.json.")


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """While the block runs, `transformers` shows no bars of its own."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
