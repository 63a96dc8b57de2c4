"""Everything that can be found wrong before the long work: each check returns the errors it found.

In: a recipe, and the teacher's config where there is one. Nothing is loaded but config, tokenizer, the first
document of local data and the index of tasks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedConfig

from niwaki.distillation.criteria import check_options
from niwaki.distillation.hidden import check_layers
from niwaki.distillation.train import check_same_tokenizer
from niwaki.errors import CheckpointError, DataError, NiwakiError, RecipeError, RunError
from niwaki.ground.loop import check_divides
from niwaki.ground.model import load_tokenizer
from niwaki.ground.text import TABLE_FORMATS, TEXT_SUFFIXES, read_documents
from niwaki.pipelines.inputs import task_folder
from niwaki.pipelines.open_run import check_is_run
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.data import Data
from niwaki.recipe.sparsify import SparsifyRecipe


def preflight(
    recipe: CompressRecipe,
    out: Path,
    config: PreTrainedConfig | None,
    written_bytes: int,
    *,
    distill_config: PreTrainedConfig | None = None,
) -> Iterator[NiwakiError]:
    """Yield what would stop the run.

    `config` is the teacher's, or None when it could not be read; `distill_config` that of `distill.teacher`.
    """
    yield from check_out(out, written_bytes)
    yield from check_data(recipe.data)
    yield from check_shares(recipe.batch_rows, recipe.distill.micro_rows, "distill.batch_tokens")
    if config is not None:
        yield from check_tokenizer(recipe.teacher, config)
        yield from _context(recipe, config)
        if distill_config is not None:
            yield from _distill_teacher(recipe, config, distill_config)
    yield from check_tasks(recipe)


def check_shares(batch_rows: int, micro_rows: int, key: str) -> Iterator[NiwakiError]:
    """Yield why the processes at work cannot share out a step, whose rows follow from `key` of the recipe."""
    try:
        check_divides(batch_rows, micro_rows, f"{key} makes {{}} rows a step, which do")
    except NiwakiError as error:
        yield error


def check_losses(
    recipe: CompressRecipe, teacher: Mapping[str, int], students: Sequence[Mapping[str, int]]
) -> Iterator[NiwakiError]:
    """Yield what of the losses does not fit a teacher and students of these sizes (axis -> size)."""
    distill = recipe.distill
    try:
        check_options(
            loss=distill.loss,
            temperature=distill.temperature,
            top_k=distill.top_k,
            jsd_beta=distill.jsd_beta,
            vocab_size=teacher["vocab"],
        )
    except NiwakiError as error:
        yield error
    if distill.hidden is None or not students:
        return
    try:
        # A map that fits the fewest layers fits them all.
        fewest = min(sizes["layer"] for sizes in students)
        check_layers(distill.hidden.layers, teacher_layers=teacher["layer"], student_layers=fewest)
    except NiwakiError as error:
        yield error


def check_out(out: Path, written_bytes: int) -> Iterator[NiwakiError]:
    """Yield why a run that writes so much cannot live in `out`."""
    if out.exists() and not out.is_dir():
        yield RunError(f"out {str(out)!r} is a file.", "Give a new folder.")
        return
    try:
        check_is_run(out)
    except RunError as error:
        yield error
    existing = _existing(out)
    if not os.access(existing, os.W_OK | os.X_OK):
        yield RunError(
            f"out {str(out)!r} cannot be written: {str(existing)!r} is not this user's, or can only be read.",
            "Give an `out` elsewhere, or make this one writable.",
        )
    held_bytes = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    free_bytes = shutil.disk_usage(existing).free
    if written_bytes - held_bytes > free_bytes:
        needed, free = f"{(written_bytes - held_bytes) / 1e9:.1f} GB", f"{free_bytes / 1e9:.1f} GB"
        yield RunError(
            f"out {str(out)!r} needs about {needed} more of disk; {free} are free.",
            "Free some space, or give an `out` on a larger disk.",
        )


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def check_data(data: Data) -> Iterator[NiwakiError]:
    """Yield why the text cannot be read; of a hub dataset nothing is known."""
    source = data.source
    path = Path(source).expanduser()
    looks_local = (
        source.endswith("/") or source.count("/") > 1 or path.suffix in (*TABLE_FORMATS, *TEXT_SUFFIXES)
    )
    if not path.exists() and looks_local:
        yield DataError(f"data.source {source!r}: nothing is there.", "Give an existing file or folder.")
    elif path.exists() or source == "stdlib":
        try:
            if not any(
                document.text.strip() for document in read_documents(source, text_column=data.text_column)
            ):
                yield DataError(f"data.source {source!r} holds no text.", "Give files with text in them.")
        except NiwakiError as error:
            yield error


def check_tokenizer(model: str, config: PreTrainedConfig) -> Iterator[NiwakiError]:
    """Yield why a model's tokenizer does not fit it."""
    try:
        tokenizer = load_tokenizer(model)
    except NiwakiError as error:
        yield error
        return
    if len(tokenizer) > config.vocab_size:
        yield CheckpointError(
            f"model {model!r}: its tokenizer has {len(tokenizer)} tokens, it has {config.vocab_size}.",
            "Put the model's own tokenizer beside it.",
        )


def _distill_teacher(
    recipe: CompressRecipe, config: PreTrainedConfig, distill_config: PreTrainedConfig
) -> Iterator[NiwakiError]:
    assert recipe.distill.teacher is not None
    if distill_config.vocab_size != config.vocab_size:
        yield CheckpointError(
            f"distill.teacher {recipe.distill.teacher!r} has {distill_config.vocab_size} tokens, "
            f"teacher {recipe.teacher!r} {config.vocab_size}.",
            "Choose two models with one vocabulary, such as a model and its own student.",
        )
        return
    try:
        check_same_tokenizer(recipe.distill.teacher, recipe.teacher)
    except NiwakiError as error:
        yield error
    for problem in _context(recipe, distill_config):
        yield type(problem)(f"distill.teacher: {problem.message}", problem.remedy)


def _context(recipe: CompressRecipe, config: PreTrainedConfig) -> Iterator[NiwakiError]:
    longest = getattr(config, "max_position_embeddings", None)
    if longest is None:
        return
    if recipe.data.sequence_length_tokens > longest:
        yield RecipeError(
            f"data.sequence_length_tokens is {recipe.data.sequence_length_tokens}, but the teacher's context "
            f"{longest}.",
            f"Write {longest} or less.",
        )
    choose = recipe.choose
    asked = choose.serving.prompt_tokens + choose.serving.new_tokens
    if asked > longest and (choose.device is not None or choose.limits.kv_cache is not None):
        yield RecipeError(
            f"choose.serving asks for {choose.serving.prompt_tokens} + {choose.serving.new_tokens} tokens, "
            f"but the teacher's context is {longest}.",
            f"Write prompt_tokens and new_tokens of {longest} together or less.",
        )


def check_tasks(recipe: CompressRecipe | SparsifyRecipe) -> Iterator[NiwakiError]:
    """Yield which tasks of `evaluate` cannot be found."""
    if recipe.evaluate.include_path is not None and not Path(recipe.evaluate.include_path).is_dir():
        yield RecipeError(
            f"evaluate.include_path {recipe.evaluate.include_path!r} is not a folder.",
            "Give an existing folder.",
        )
    elif recipe.evaluate.tasks:
        from niwaki.evaluation.harness import find_tasks

        try:
            find_tasks(recipe.evaluate.tasks, include_path=task_folder(recipe))
        except NiwakiError as error:
            yield error
