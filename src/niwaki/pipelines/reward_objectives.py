"""Stages 5 and 6 of a reward run: states of the frozen model; heads, debiasing, gate (arXiv 2406.12845)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from niwaki.errors import DataError
from niwaki.ground.run import write_atomically
from niwaki.pipelines.inputs import device
from niwaki.pipelines.reward_inputs import FEATURES, LENGTH, SIDES, RewardInputs
from niwaki.pipelines.trained import discard_snapshots
from niwaki.recipe.reward import GateSection, ObjectivesSection
from niwaki.reward import ridge
from niwaki.reward.data import objectives_of
from niwaki.reward.debias import Debiasing, correlations, debias, spearman
from niwaki.reward.export import save_encoder, save_reward_model
from niwaki.reward.features import Features, cache_pairs, cache_ratings, load_extractor
from niwaki.reward.gate import Gate, GateData, combine, fixed_weights, train_gate
from niwaki.reward.model import Scorable, load_backbone
from niwaki.reward.objectives import HEADS, Objectives, scaled, served_rows

BUCKETS = 20


def features(inputs: RewardInputs, folder: Path) -> None:
    """Stage 5: one forward pass over every rated answer and every pair."""
    section = inputs.recipe.objectives
    assert section is not None
    extractor = load_extractor(inputs.trained, template=inputs.template, device=device())
    names = objectives_of(inputs.ratings("train"), [n for n in section.names if n != LENGTH])
    check_objectives(section, names)
    rows = inputs.recipe.evaluate.batch_rows
    cache_ratings(
        extractor, inputs.rating_tokens(extractor.chat, "train", names), folder / "ratings", batch_rows=rows
    )
    for side in SIDES:
        tokens = inputs.pair_tokens(extractor.chat, side)
        cache_pairs(extractor, tokens, folder / f"pairs-{side}", batch_rows=rows)


def learn_objectives(inputs: RewardInputs, folder: Path) -> None:
    """Stage 6: heads in closed form, T on the pairs' answers, the gate on the pairs; then the exports."""
    section = inputs.recipe.objectives
    assert section is not None
    rated = Features(inputs.out / FEATURES / "ratings")
    pairs = {side: Features(inputs.out / FEATURES / f"pairs-{side}") for side in SIDES}
    names, scales, fitted, normal, record = _heads(inputs, section, rated)
    debiasing = _debias(section, names, fitted.weight, pairs["train"])
    record["debiasing"] = _debias_record(section, names, fitted.weight, debiasing, pairs)
    data = {side: _gate_data(fitted.weight, debiasing, f) for side, f in pairs.items()}
    live = np.diag(debiasing.transform) != 0
    gate, network, record["gate"] = _gate(section.gate, data, live, folder, inputs.recipe.seed)
    ensemble = np.zeros((0, *fitted.weight.shape))
    if section.ensemble:
        ensemble = ridge.bootstrap(normal, fitted.alphas, num_heads=section.ensemble, seed=inputs.recipe.seed)
    objectives = Objectives(names, tuple(scales), fitted.weight, debiasing.transform, gate, network, ensemble)
    record["accuracy"] = _accuracies(objectives, data, pairs)
    record["gates"] = _gates_by_source(objectives, data["test"], pairs["test"])
    write_atomically(folder / "objectives.json", json.dumps(record, indent=1))
    _export(inputs, objectives, folder)
    discard_snapshots(folder / "gate")


def check_objectives(section: ObjectivesSection, names: Sequence[str]) -> None:
    """Raise DataError for a nuisance that is no rating, and for a gate that would have nothing to weigh."""
    for nuisance in section.nuisances:
        if nuisance != LENGTH and nuisance not in names:
            raise DataError(
                f"objectives.nuisances: {nuisance!r} is no rating.",
                f"Ratings: {', '.join(names)}; or length.",
            )
    left = [name for name in names if name not in section.nuisances]
    if section.gate.kind == "prompt" and len(left) < 2:
        raise DataError(
            f"objectives: beside the nuisances there is {' and '.join(left) or 'no rating'}, so a gate has "
            "nothing to weigh.",
            "Give more ratings, or set objectives.gate.kind: uniform.",
        )


def _heads(
    inputs: RewardInputs, section: ObjectivesSection, rated: Features
) -> tuple[tuple[str, ...], list[tuple[float, float]], ridge.Ridge, ridge.Normal, dict[str, Any]]:
    names, groups = rated.objectives, rated.meta["groups"]
    scales = [tuple(inputs.data["scales"][name]) for name in names]
    log_lengths = np.log(np.maximum(1, np.array(rated.meta["lengths"], dtype=float)))
    add_length = LENGTH in section.nuisances and LENGTH not in names
    if add_length:
        names, scales = (
            (*names, LENGTH),
            [*scales, (float(log_lengths.min()), float(log_lengths.max()) + 1e-6)],
        )

    def labels() -> Any:
        start = 0
        for block in rated.blocks():
            given = block["labels"].astype(np.float64)
            if add_length:
                given = np.column_stack([given, log_lengths[start : start + len(given)]])
            start += len(given)
            yield block["states"], scaled(given, scales)

    normal = ridge.gather(labels(), groups, names, num_buckets=BUCKETS)
    fitted = ridge.fit(normal, alphas=section.alphas, num_folds=section.folds)
    predicted = ridge.out_of_fold(
        normal, fitted, (block["states"] for block in rated.blocks()), groups, num_folds=section.folds
    )
    truth = np.concatenate([y for _, y in labels()])
    known = ~np.isnan(truth)
    record = {
        "objectives": [
            {
                "name": name,
                "num_labels": int(fitted.counts[k]),
                "alpha": float(fitted.alphas[k]),
                "mse": float(fitted.mse[k]),
                "r2": float(fitted.r2[k]),
                "spearman": spearman(predicted[known[:, k], k], truth[known[:, k], k]),
                "alpha_at_edge": bool(fitted.alphas[k] in (section.alphas[0], section.alphas[-1])),
            }
            for k, name in enumerate(names)
        ]
    }
    return names, scales, fitted, normal, record


def _answers(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """States [2m, d] and log lengths [2m] of chosen and rejected answers alike."""
    states = features.read("states").astype(np.float64)
    lengths = np.log(np.maximum(1, np.array(features.meta["lengths"], dtype=float))).reshape(-1)
    return states.reshape(-1, states.shape[-1]), lengths


def _debias(
    section: ObjectivesSection, names: tuple[str, ...], weight: np.ndarray, reference: Features
) -> Debiasing:
    states, lengths = _answers(reference)
    return debias(
        states @ weight.T,
        [names.index(n) for n in section.nuisances],
        objectives=names,
        observed=[lengths if n == LENGTH else None for n in section.nuisances],
        target=section.target_correlation,
        tolerance=section.tolerance,
        one_sided=section.one_sided,
    )


def _debias_record(
    section: ObjectivesSection,
    names: tuple[str, ...],
    weight: np.ndarray,
    debiasing: Debiasing,
    pairs: dict[str, Features],
) -> dict[str, Any]:
    """Correlations before and after, on the reference set and on one that T was not made with."""
    record: dict[str, Any] = {"nuisances": list(section.nuisances), "lambdas": debiasing.lambdas.tolist()}
    for label, side in (("reference", "train"), ("other", "test")):
        states, lengths = _answers(pairs[side])
        rewards = states @ weight.T
        measures = [lengths if n == LENGTH else rewards[:, names.index(n)] for n in section.nuisances]
        for when, r in (("before", rewards), ("after", rewards @ debiasing.transform)):
            found = correlations(r, measures)
            record[f"{label}_{when}"] = [[None if np.isnan(c) else float(c) for c in row] for row in found]
    return record


def _gate_data(weight: np.ndarray, debiasing: Debiasing, pairs: Features) -> GateData:
    states = pairs.read("states").astype(np.float64)
    return GateData(
        pairs.read("prompts").astype(np.float64),
        (states @ weight.T) @ debiasing.transform,
        np.array(pairs.meta["strengths"]),
        np.array(pairs.meta["q"]),
    )


def _gate(
    section: GateSection, data: dict[str, GateData], live: np.ndarray, folder: Path, seed: int
) -> tuple[np.ndarray, Gate | None, dict[str, Any]]:
    if section.kind == "uniform":
        return live / live.sum(), None, {"kind": "uniform"}
    if section.kind == "fixed":
        return fixed_weights(data["train"], live, form=section.loss), None, {"kind": "fixed"}
    network, record = train_gate(
        data["train"],
        data["validation"],
        out=folder / "gate",
        live=live,
        form=section.loss,
        width=section.width,
        num_hidden=section.hidden_layers,
        temperature=section.temperature,
        dropout=section.dropout,
        learning_rate=section.learning_rate,
        num_steps=section.steps,
        batch_rows=section.batch_rows,
        seed=seed,
    )
    with torch.no_grad():
        mean = network(torch.from_numpy(data["train"].prompts.astype(np.float32))).mean(0).double().numpy()
    return mean, network, {"kind": "prompt", **record}


def _accuracies(
    objectives: Objectives, data: dict[str, GateData], pairs: dict[str, Features]
) -> dict[str, Any]:
    """On test pairs: the gate, its mean, the best fixed weights, equal weights, and every objective alone."""
    test, live = data["test"], objectives.live
    k = len(objectives.names)
    weights = {
        "prompt gate": objectives.gates(pairs["test"].read("prompts")),
        "mean gate": objectives.gate,
        "fixed": fixed_weights(data["train"], live),
        "uniform": live / live.sum(),
        **{name: np.eye(k)[i] for i, name in enumerate(objectives.names) if live[i]},
    }
    found = {}
    for name, gate in weights.items():
        scores = combine(gate[:, None] if gate.ndim == 2 else gate, test.rewards, np.eye(k))
        found[name] = float((scores[:, 0] > scores[:, 1]).mean())
    return found


def _gates_by_source(objectives: Objectives, test: GateData, pairs: Features) -> dict[str, list[float]]:
    gates, sources = objectives.gates(test.prompts), np.array(pairs.meta["sources"])
    return {str(s): gates[sources == s].mean(0).tolist() for s in sorted(set(sources.tolist()))}


def _export(inputs: RewardInputs, objectives: Objectives, folder: Path) -> None:
    """The folded scalar model with the objectives beside it, and the forms that were asked for.

    Of an encoder the encoder itself, since no stock classifier reads its mean states.
    """
    card = {"loss": "objectives", "objectives": objectives.card(), "data": inputs.data["counts"]}
    if inputs.is_encoder:
        extractor = load_extractor(inputs.trained, template=inputs.template, device=device())
        save_encoder(extractor, objectives, folder / "model", card=card, replace=True)
        return
    forms: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {"model": (objectives.folded(), ("reward",))}
    if "heads" in inputs.recipe.export.forms:
        forms["heads"] = (objectives.transform.T @ objectives.weight, objectives.names)
    if "gated" in inputs.recipe.export.forms:
        forms["gated"] = served_rows(objectives)
    for name, (rows, labels) in forms.items():
        scorable = load_backbone(inputs.trained, labels=labels, template=inputs.template, device=device())
        with torch.no_grad():
            scorable.model.score.weight.copy_(torch.from_numpy(rows))
        save_reward_model(
            Scorable(scorable.model, scorable.chat),
            folder / name,
            card=card,
            replace=True,
            beside={HEADS: objectives.tensors()},
        )
