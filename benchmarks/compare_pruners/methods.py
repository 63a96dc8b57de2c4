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
from niwaki.recipe.compress import CompressRecipe
from niwaki.recipe.load import build

Sizes = Mapping[str, int]
Method = Callable[[Toy, Sizes, Path], float]

# Nothing is done to the weights around the cut.
ALONE = {"rotate": False, "rescale": False, "repair": False}
# Name of a row -> sections of the recipe that differ from the defaults.
NIWAKI: dict[str, dict[str, Any]] = {
    "niwaki": {},
    "niwaki cut alone": {"trim": ALONE},
    "taylor cut alone": {"score": {"measure": "taylor"}, "trim": ALONE},
    "magnitude": {"score": {"measure": "magnitude"}, "trim": ALONE},
    "random": {"score": {"measure": "random"}, "trim": ALONE},
}


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


def torch_pruning(toy: Toy, sizes: Sizes, out: Path, *, taylor: bool = False) -> float:
    """Torch-Pruning as its example for language models uses it: one ratio for hidden, MLP and heads.

    It is asked for heads too, as there; with grouped queries it leaves them as they are.
    """
    import torch_pruning as tp

    model = load(toy)
    model.config.use_cache = False  # its graph cannot see through a cache
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


PEERS: dict[str, Method] = {
    "torch-pruning magnitude": torch_pruning,
    "torch-pruning taylor": torch_pruning_taylor,
    "optipfair": optipfair,
    "optipfair weights only": optipfair_static,
}
