"""Ways to make a smaller model: each is a function from the toy and a shape to a Hugging Face folder.

niwaki's own are recipes, so that another setting is one line in `NIWAKI`. Peers are called as their own
examples call them; they are imported inside the functions, because they live in an environment of their own.
A method returns the CPU seconds that it spent on something else than the cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from toy import CONFIG, Toy, cpu_s
from transformers import AutoModelForCausalLM, PreTrainedModel

from niwaki.pipelines import compress
from niwaki.pruning.trim import trim
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.load import build

Sizes = Mapping[str, int]
Method = Callable[[Toy, Sizes, Path], float]

# Name of a row -> sections of the recipe that differ from the defaults.
NIWAKI: dict[str, dict[str, Any]] = {"niwaki": {}}


def niwaki(toy: Toy, sizes: Sizes, out: Path, **sections: Any) -> float:
    """Score and trim, as `niwaki run` does; between them it measures the loss of the one candidate."""
    recipe = build(toy.recipe(dict(sizes), **sections), CompressRecipe, name="benchmark")
    run = out.parent / "run"
    compress.score_stage(recipe, run)
    began = cpu_s()
    compress.choose_stage(recipe, run)
    measured = cpu_s() - began
    compress.trim_stage(recipe, run)
    (run / compress.TRIM / "model").rename(out)
    return measured


def magnitude(toy: Toy, sizes: Sizes, out: Path) -> float:
    """Keep the units whose weights have the largest norm: the same cut, by weights alone."""
    state = AutoModelForCausalLM.from_pretrained(toy.teacher, dtype=torch.float32).state_dict()
    layers = range(CONFIG["num_hidden_layers"])
    keep: dict[str, torch.Tensor] = {}
    if sizes.get("hidden", CONFIG["hidden_size"]) < CONFIG["hidden_size"]:
        squares = sum(
            state[f"model.layers.{layer}.{part}.weight"].square().sum(0)
            for layer in layers
            for part in (
                "self_attn.q_proj",
                "self_attn.k_proj",
                "self_attn.v_proj",
                "mlp.gate_proj",
                "mlp.up_proj",
            )
        )
        keep["hidden"] = largest(squares, sizes["hidden"])
    if sizes.get("ffn", CONFIG["intermediate_size"]) < CONFIG["intermediate_size"]:
        squares = torch.stack(
            [
                sum(
                    state[f"model.layers.{layer}.mlp.{part}_proj.weight"].square().sum(dim)
                    for part, dim in SIDES
                )
                for layer in layers
            ]
        )
        keep["ffn"] = largest(squares, sizes["ffn"])
    if sizes.get("layer", len(layers)) < len(layers):
        prefixes = [f"model.layers.{layer}." for layer in layers]
        squares = torch.stack(
            [
                sum(tensor.square().sum() for name, tensor in state.items() if name.startswith(prefix))
                for prefix in prefixes
            ]
        )
        keep["layer"] = largest(squares, sizes["layer"])
    trim(toy.teacher, out, keep=keep)
    return 0.0


SIDES = (("gate", 1), ("up", 1), ("down", 0))


def random(toy: Toy, sizes: Sizes, out: Path) -> float:
    """Keep units drawn at random."""
    generator = torch.Generator().manual_seed(0)
    full = {
        "hidden": CONFIG["hidden_size"],
        "ffn": CONFIG["intermediate_size"],
        "layer": CONFIG["num_hidden_layers"],
    }
    lead = {"hidden": (), "layer": (), "ffn": (CONFIG["num_hidden_layers"],)}
    keep = {
        axis: largest(torch.rand((*lead[axis], full[axis]), generator=generator), size)
        for axis, size in sizes.items()
        if size < full[axis]
    }
    trim(toy.teacher, out, keep=keep)
    return 0.0


def largest(importance: torch.Tensor, size: int) -> torch.Tensor:
    """Indices of the `size` largest along the last axis, ascending."""
    return importance.topk(size, dim=-1).indices.sort(dim=-1).values


def torch_pruning(toy: Toy, sizes: Sizes, out: Path, *, taylor: bool = False) -> float:
    """Torch-Pruning as its example for language models uses it: one ratio for hidden, MLP and heads.

    It is asked for heads too, as there; with grouped queries it leaves them as they are.
    """
    import torch_pruning as tp

    model = load(toy)
    heads = {}
    for module in model.modules():
        if hasattr(module, "q_proj"):
            heads[module.q_proj] = CONFIG["num_attention_heads"]
            heads[module.k_proj] = heads[module.v_proj] = CONFIG["num_key_value_heads"]
    measure = tp.importance.GroupTaylorImportance() if taylor else tp.importance.GroupMagnitudeImportance(p=2)
    ratio = 1 - sizes["hidden"] / CONFIG["hidden_size"]
    pruner = tp.pruner.BasePruner(
        model,
        example_inputs=torch.arange(1, 9)[None],
        importance=measure,
        global_pruning=False,
        pruning_ratio=ratio,
        head_pruning_ratio=ratio,
        ignored_layers=[model.lm_head],
        num_heads=heads,
        prune_num_heads=True,
        prune_head_dims=False,
        round_to=4,
    )
    if taylor:
        batches = toy.batches()
        for batch in batches:
            (model(**batch, labels=batch["input_ids"], use_cache=False).loss / len(batches)).backward()
    for group in pruner.step(interactive=True):
        group.prune()
    model.zero_grad(set_to_none=True)
    first = model.model.layers[0]
    model.config.hidden_size = model.lm_head.in_features
    model.config.intermediate_size = first.mlp.gate_proj.out_features
    model.config.num_attention_heads = first.self_attn.q_proj.out_features // CONFIG["head_dim"]
    model.config.num_key_value_heads = first.self_attn.k_proj.out_features // CONFIG["head_dim"]
    save(model, toy, out)
    return 0.0


def torch_pruning_taylor(toy: Toy, sizes: Sizes, out: Path) -> float:
    """The same with gradients of the loss on the calibration rows."""
    return torch_pruning(toy, sizes, out, taylor=True)


def optipfair(toy: Toy, sizes: Sizes, out: Path, *, with_data: bool = True) -> float:
    """optipfair: layers by its cosine analysis, then MLP neurons by weights and, if wanted, activations."""
    from optipfair import analyze_layer_importance, prune_model

    model = load(toy)
    num_dropped = CONFIG["num_hidden_layers"] - sizes.get("layer", CONFIG["num_hidden_layers"])
    if num_dropped:
        scores = analyze_layer_importance(model, toy.batches(), show_progress=False)
        least = sorted(scores, key=scores.__getitem__)[:num_dropped]
        model = prune_model(model, "DEPTH", layer_indices=sorted(least), show_progress=False)
    ffn = sizes.get("ffn", CONFIG["intermediate_size"])
    if ffn < CONFIG["intermediate_size"]:
        model = prune_model(
            model,
            "MLP_GLU",
            pruning_percentage=100 * (1 - ffn / CONFIG["intermediate_size"]),
            dataloader=toy.batches() if with_data else None,
            show_progress=False,
        )
    save(model, toy, out)
    return 0.0


def optipfair_static(toy: Toy, sizes: Sizes, out: Path) -> float:
    """The same by weights alone."""
    return optipfair(toy, sizes, out, with_data=False)


def load(toy: Toy) -> PreTrainedModel:
    """The teacher in memory, as peers want it."""
    return AutoModelForCausalLM.from_pretrained(toy.teacher, dtype=torch.float32).eval()


def save(model: PreTrainedModel, toy: Toy, out: Path) -> None:
    """As stock `transformers` saves it, with the tokenizer."""
    model.save_pretrained(out)
    for file in toy.teacher.glob("tokenizer*"):
        (out / file.name).write_bytes(file.read_bytes())


OURS: dict[str, Method] = {"magnitude": magnitude, "random": random}
PEERS: dict[str, Method] = {
    "torch-pruning magnitude": torch_pruning,
    "torch-pruning taylor": torch_pruning_taylor,
    "optipfair": optipfair,
    "optipfair weights only": optipfair_static,
}
