"""Stages that processes share out, on tiny models: done by one process, or by several that run this script.

As a script: `shared_work.py GIVEN OUT STAGE...`. Process N saves what it gets as `OUT/STAGE-N.safetensors`,
and beside that how much it ran.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from niwaki.evaluation.harness import run_tasks
from niwaki.ground import processes
from niwaki.ground.model import load_tokenizer
from niwaki.ground.parts import is_in_parts, load_together
from niwaki.ground.stream import Rows
from niwaki.masks.file import MaskFile
from niwaki.masks.oneshot import one_shot
from niwaki.masks.patterns import Pattern
from niwaki.pipelines.cut import MENDED, cut
from niwaki.pipelines.importance import measure
from niwaki.pipelines.inputs import Inputs
from niwaki.pipelines.reward_train import gaps_of
from niwaki.pipelines.sparsify_inputs import PRIOR_MASK, SparsifyInputs
from niwaki.pipelines.sparsify_prior import make_prior
from niwaki.pruning.depth import measure_on_rows, measure_score, removals
from niwaki.pruning.depth_record import DepthRecord
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.load import build
from niwaki.recipe.sparsify import SparsifyRecipe
from niwaki.reward.features import cache_pairs, cache_ratings, load_extractor
from niwaki.reward.model import load_backbone
from niwaki.reward.records import Pair, Rating
from niwaki.reward.tokens import encode_pairs, encode_ratings

NUM_LAYERS, ROW_TOKENS = 4, 8
PATTERN = Pattern.parse("2:4")
# Batches of two rows: three for one process, two for the other, and the last is of one row.
NUM_ROWS, BATCH_ROWS = 9, 2
SIZES = {"layer": 3, "hidden": 24, "ffn": 40}

Work = Callable[[Path, Path], dict[str, Tensor]]


def model() -> LlamaForCausalLM:
    """A Llama of four layers with random weights, untied."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": NUM_LAYERS}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "max_position_embeddings": 128}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads, **ends)).eval()


def mixture() -> MixtralForCausalLM:
    """Sixteen experts, so that few tokens leave some of them unheard in one process and not in the other."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2}
    experts = {"num_local_experts": 16, "num_experts_per_tok": 2, "initializer_range": 0.3}
    config = MixtralConfig(num_attention_heads=4, num_key_value_heads=2, head_dim=8, **sizes, **experts)
    return MixtralForCausalLM(config).eval()


def rows() -> Rows:
    """Twelve rows of random tokens."""
    tokens = np.random.default_rng(0).integers(0, 300, 12 * ROW_TOKENS + 1)
    return Rows(tokens, sequence_length=ROW_TOKENS)


def depth(given: Path, out: Path) -> dict[str, Tensor]:
    """Losses and influences without blocks of layers, and a score that is the same everywhere."""
    found = {}
    blocks = [(), *removals(NUM_LAYERS, 2, "block")]
    for name in ("loss", "influence"):
        record = _record(out, name)
        options = {"num_rows": NUM_ROWS, "batch_rows": BATCH_ROWS, "record": record}
        measure_on_rows(model(), blocks, rows(), measure=name, **options)
        assert set(_record(out, name).values) == set(blocks)  # what any process reads from the disk
        found[name] = torch.tensor([record.values[block] for block in blocks], dtype=torch.float64)
    record = _record(out, "layers")
    measure_score(model(), blocks, lambda m: m.config.num_hidden_layers, name="layers", record=record)
    return found | {"layers": torch.tensor([record.values[block] for block in blocks])}


def masks(given: Path, out: Path) -> dict[str, Tensor]:
    """One-shot masks, with more rows than one process has, and of one batch, which is one process's."""
    found = {}
    for num_rows in (NUM_ROWS, BATCH_ROWS):
        for method, update in (("wanda", False), ("sparsegpt", True)):
            options = {"update": update, "num_samples": num_rows, "batch_rows": BATCH_ROWS}
            for each in one_shot(model(), rows(), pattern=PATTERN, method=method, **options):
                found[f"{method} {num_rows} {each.name}"] = each.numbers
                if each.updated is not None:
                    found[f"{method} {num_rows} {each.name} updated"] = each.updated
    for each in one_shot(mixture(), rows(), pattern=PATTERN, method="wanda", num_samples=4, batch_rows=2):
        found[f"experts {each.name}"] = each.numbers
    return found


def prior(given: Path, out: Path) -> dict[str, Tensor]:
    """The first stage of a sparsify run, with a layer left dense and SparseGPT's update, as it is on disk."""
    recipe = {
        "kind": "sparsify",
        "model": str(given / "teacher"),
        "data": _data(given),
        "dense_layers": 1,
        "prior": {"method": "sparsegpt", "update": True, "num_samples": NUM_ROWS, "batch_rows": BATCH_ROWS},
        "learn": None,
        "evaluate": {"num_tokens": 160, "sensitivity_rows": 4},
    }
    folder = out / "1-prior"
    inputs = SparsifyInputs(build(recipe, SparsifyRecipe, name="recipe"), out)
    processes.by_main(folder.mkdir)
    record = make_prior(inputs, folder)
    processes.wait()
    found = load_file(folder / "model" / "model.safetensors") | MaskFile(folder / PRIOR_MASK).load()
    return found | {"sensitivity": torch.tensor(list(record["sensitivity"].values()))}


def trim(given: Path, out: Path) -> dict[str, Tensor]:
    """A cut of layers that are measured, rotated, rescaled and repaired, as it is on disk."""
    recipe = {
        "kind": "compress",
        "teacher": str(given / "teacher"),
        "data": _data(given),
        "score": {"num_samples": 8, "batch_rows": BATCH_ROWS, "rounds": 2},
        "depth": {"num_samples": NUM_ROWS},
        "choose": {"to": "60%"},
        "trim": {"rotate": True, "rescale": "auto", "repair": True},
        "distill": {"tokens": "10k", "batch_tokens": 64},
    }
    inputs = Inputs(build(recipe, CompressRecipe, name="recipe"))
    importance = measure(inputs, inputs.load(inputs.teacher_folder))
    cut(inputs, importance, SIZES, out / "cut", depth_folder=out)
    mended = json.loads((out / "cut" / MENDED).read_text())
    losses = list(mended["kl_to_teacher"].values())
    return load_file(out / "cut" / "model.safetensors") | {"losses": torch.tensor(losses)}


def tasks(given: Path, out: Path) -> dict[str, Tensor]:
    """Questions with choices, completions and texts: means, hash, and the score of each question in order."""
    teacher, tokenizer = load_together(given / "teacher"), load_tokenizer(given / "teacher")
    assert is_in_parts(teacher) == processes.are_sharded()
    results = run_tasks(teacher, tokenizer, list(TASKS), include_path=given / "tasks", batch_size=2)
    found = {}
    for name, result in results.items():
        assert result.num_questions == NUM_QUESTIONS
        found[f"{name} hash"] = torch.tensor(int(result.hash[:8], 16))
        found |= {f"{name} {metric}": torch.tensor(value) for metric, value in result.metrics.items()}
        found |= {f"{name} {metric} each": torch.tensor(values) for metric, values in result.scores.items()}
    return found


def reward(given: Path, out: Path) -> dict[str, Tensor]:
    """Cached states of pairs and of ratings, more than a shard of each, and the gaps of a reward model."""
    asked = [f"Name a tree{' and a root' * (n % 3)} {n}." for n in range(NUM_ROWS)]
    prompts = [({"role": "user", "content": text},) for text in asked]
    extractor = load_extractor(given / "teacher")
    pairs, _ = encode_pairs(
        extractor.chat,
        [Pair(f"pair {n}", prompt, "pine " * (n + 1), "stone") for n, prompt in enumerate(prompts)],
        max_tokens=128,
    )
    ratings, _ = encode_ratings(
        extractor.chat,
        [Rating(f"row {n}", prompt, "pine " * (n + 1), {"fit": n}) for n, prompt in enumerate(prompts)],
        ("fit",),
        max_tokens=128,
    )
    options = {"batch_rows": BATCH_ROWS, "shard_rows": 5}
    caches = {
        "pairs": cache_pairs(extractor, pairs, out / "pairs", **options),
        "ratings": cache_ratings(extractor, ratings, out / "ratings", **options),
    }
    found = {
        f"{name} {tensor}": torch.from_numpy(cache.read(tensor).copy())
        for name, cache in caches.items()
        for tensor in ("states", "prompts")
    }
    scorable = load_backbone(given / "teacher")
    torch.nn.init.ones_(scorable.model.score.weight)
    return found | {"gaps": torch.from_numpy(gaps_of(scorable, pairs, BATCH_ROWS))}


def write_tasks(folder: Path) -> None:
    """The tasks of `TASKS` and their questions, of which no two have the same answer."""
    folder.mkdir()
    words = ["branch", "root", "light", "crown", "gardener", "year", "tree"]
    questions = [
        {"question": f"The old {word}", "choices": [f" {other} falls" for other in words], "answer": number}
        | {"text": f"Number {number}: {' '.join(words[number:])}."}
        for number, word in enumerate(words)
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in questions))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": str(folder / "questions.jsonl")}}
    for name, task in TASKS.items():
        content = {"task": name, "test_split": "train", **data, **task}
        (folder / f"{name}.yaml").write_text(json.dumps(content))


NUM_QUESTIONS = 7
TASKS = {
    "chosen": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": name, "aggregation": "mean"} for name in ("acc", "acc_norm")],
    },
    "completed": {
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4, "do_sample": False},
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[answer]}}",
        "metric_list": [{"metric": "chrf"}],
    },
    "read": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "bits_per_byte")],
    },
}
STAGES: dict[str, Work] = {work.__name__: work for work in (depth, masks, prior, trim, reward)}
if importlib.util.find_spec("lm_eval") is not None:
    STAGES["tasks"] = tasks


def do(stage: str, given: Path, out: Path) -> tuple[dict[str, Tensor], int]:
    """What a stage gets, and how many tokens went through layers for that in this process."""
    num_tokens = 0

    def count(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal num_tokens
        if isinstance(module, LlamaDecoderLayer):
            num_tokens += args[0].shape[0] * args[0].shape[1]

    handle = register_module_forward_pre_hook(count)
    try:
        return STAGES[stage](given, out), num_tokens
    finally:
        handle.remove()


def _data(given: Path) -> dict[str, object]:
    return {"source": str(given / "texts"), "sequence_length_tokens": 16, "held_out": "30%"}


def _record(folder: Path, name: str) -> DepthRecord:
    path = folder / f"{name}.json"
    return DepthRecord.open(path, measure=name, num_samples=NUM_ROWS, higher_is_better=False)


if __name__ == "__main__":
    given, out, stages = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    os.environ["NIWAKI_CACHE"] = str(out / "cache")
    with processes.together():
        for stage in stages:
            found, num_tokens = do(stage, given, out)
            place = out / f"{stage}-{processes.number()}"
            save_file(found, place.with_suffix(".safetensors"))
            place.with_suffix(".json").write_text(json.dumps(num_tokens))
