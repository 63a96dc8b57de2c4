"""The bench of these experiments: two dense models, their text, and one way to make and measure a mask.

An *arm* is one way to get a mask, such as "learned, prior wanda". It is run once for every seed, which
draws the calibration rows, the order of the training rows, the start of the logits and their noise; the
held-out rows are always the same. Every finished run of an arm is one JSON file under `runs/maskllm/`, so a
killed script goes on where it stopped, and directions share the arms that they have in common.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from niwaki.evaluation.loss import held_out_loss
from niwaki.ground.corpus import Corpus, prepare
from niwaki.ground.metrics import read_metrics
from niwaki.ground.model import load_model, load_tokenizer, local_folder
from niwaki.ground.run import write_atomically
from niwaki.ground.stream import Rows
from niwaki.masks.apply import apply_in_memory
from niwaki.masks.difference import differences
from niwaki.masks.learn import learn_masks
from niwaki.masks.oneshot import one_shot
from niwaki.masks.patterns import Pattern
from niwaki.pipelines.sparsify_learn import objective

SEEDS = (0, 1, 2)
RUNS = Path("runs/maskllm")
RESULTS = Path(__file__).parent / "results"
PATTERN = Pattern.parse("2:4")
HELD_OUT_ROWS = 96
CURVE_ROWS = 16
CURVE_POINTS = 4
UNSEEN = "unseen"
STUDENT = "student"


@dataclass(frozen=True)
class Dense:
    """A dense model, its text, and how long masks of it are trained.

    `domains` are other texts, name -> source, for masks of their own. `tokenizer` is the model whose
    tokenizer reads the text, where it does not lie beside this one.
    """

    name: str
    model: str
    data: str
    held_out: float
    sequence_length_tokens: int
    batch_rows: int
    num_steps: int
    learning_rate: float
    precision: str
    calibration_rows: int
    domains: Mapping[str, str] = field(default_factory=dict)
    tokenizer: str = ""


MODELS = {
    "sapling": Dense(
        name="sapling",
        model="sapling",
        data="stdlib",
        held_out=0.08,
        sequence_length_tokens=256,
        batch_rows=8,
        num_steps=160,
        learning_rate=2e-3,
        precision="bfloat16",
        calibration_rows=64,
    ),
    "novels": Dense(
        name="novels",
        model="data/novels/model",
        data="data/text_novels100/train",
        held_out=0.06,
        sequence_length_tokens=256,
        batch_rows=8,
        num_steps=160,
        learning_rate=2e-3,
        precision="float32",
        calibration_rows=64,
    ),
    "stories260K": Dense(
        name="stories260K",
        model="data/stories260K",
        data="data/text_tinystories1000/tinystories_1000.json",
        held_out=0.2,
        sequence_length_tokens=128,
        batch_rows=4,
        num_steps=80,
        learning_rate=3e-3,
        precision="float32",
        calibration_rows=64,
        domains={
            "novels": "data/text_novels100/train",
            "wikipedia": "data/text_tinystories1000/wikitext_1000.json",
            "Python": "stdlib",
        },
    ),
}


@dataclass(frozen=True)
class Bench:
    """One dense model with everything that is loaded once."""

    dense: Dense

    @cached_property
    def folder(self) -> Path:
        """The model's folder."""
        return local_folder(self.dense.model)

    def model(self) -> PreTrainedModel:
        """The dense model, in float32, fresh from disk."""
        return load_model(self.folder, dtype=torch.float32)

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return load_tokenizer(local_folder(self.dense.tokenizer or self.dense.model))

    def corpus(self, domain: str = "") -> Corpus:
        """The model's own text, or that of a domain, split."""
        source = self.dense.domains[domain] if domain else self.dense.data
        return prepare(source, self.tokenizer, held_out=self.dense.held_out, max_tokens=2_000_000)

    def held_out(self, domain: str = "") -> Rows:
        """Text that no mask is trained on."""
        return Rows(self.corpus(domain).held_out.ids, sequence_length=self.dense.sequence_length_tokens)

    def rows(self, seed: int, domain: str = "") -> Any:
        """Training text in the order of `seed`.

        Of all domains in turn for "blend"; for "unseen", text that the dense model was not trained on.
        """
        if domain == "blend":
            return Blend([self.rows(seed, name) for name in ("", *self.dense.domains)])
        ids = self._unseen() if domain == UNSEEN else self.corpus(domain).train.ids
        return Rows(ids, sequence_length=self.dense.sequence_length_tokens, seed=seed)

    def _unseen(self) -> Any:
        """Text that the dense model was not trained on, from the first document after what is measured on."""
        ids = self.corpus().held_out.ids
        measured = HELD_OUT_ROWS * self.dense.sequence_length_tokens
        ends = np.flatnonzero(ids[measured:] == self.tokenizer.eos_token_id)
        return ids[measured + int(ends[0]) + 1 :]

    def calibration(self, seed: int, domain: str = "") -> Any:
        """Rows for one-shot methods: the training text in an order of its own."""
        return self.rows(seed + 1_000_003, domain)

    def measure(self, model: PreTrainedModel, domain: str = "") -> float:
        """Nats per held-out token."""
        rows = self.held_out(domain)
        found = held_out_loss(model, rows, num_rows=HELD_OUT_ROWS, batch_rows=8)
        return round(found.nats_per_token.mean, 5)


@dataclass(frozen=True)
class Blend:
    """Rows of several texts in turn."""

    parts: Sequence[Rows]

    def take(self, start: int, count: int) -> dict[str, torch.Tensor]:
        batches = []
        for row in range(start, start + count):
            turn, part = divmod(row, len(self.parts))
            batches.append(self.parts[part].take(turn, 1))
        return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def one_shot_arm(
    bench: Bench,
    seed: int,
    *,
    method: str,
    update: bool = False,
    num_samples: int | None = None,
    domain: str = "",
    dense: Sequence[str] = (),
) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """A model with a one-shot mask's zeros, and the mask."""
    model = bench.model()
    pruned = one_shot(
        model,
        bench.calibration(seed, domain),
        pattern=PATTERN,
        method=method,
        update=update,
        dense=dense,
        num_samples=num_samples or bench.dense.calibration_rows,
        batch_rows=8,
    )
    masks = {each.name: each.numbers for each in pruned}
    apply_in_memory(model, masks, PATTERN)
    return model, masks


def learned_arm(
    bench: Bench,
    seed: int,
    folder: Path,
    *,
    prior: str | Mapping[str, torch.Tensor] | None = "magnitude",
    loss: str = "lm",
    domain: str = "",
    num_steps: int | None = None,
    dense: Sequence[str] = (),
    over_updated: bool = False,
    **settings: Any,
) -> tuple[PreTrainedModel, dict[str, torch.Tensor], dict[str, Any]]:
    """A model with a learned mask's zeros, the mask, and what the training says of itself.

    Args:
        prior: a one-shot method, masks, or None.
        over_updated: learn over the weights that SparseGPT updated (beyond the paper).
    """
    steps = num_steps or bench.dense.num_steps
    masks: Mapping[str, torch.Tensor] | None
    if over_updated:
        base, masks = _updated(bench, seed, dense)
    else:
        base = bench.model()
        masks = (
            one_shot_arm(bench, seed, method=prior, domain=domain, dense=dense)[1]
            if isinstance(prior, str)
            else prior
        )
    own_dense = bench.model() if over_updated and loss == "distill" else None
    learned = learn_masks(
        base,
        bench.rows(seed, domain),
        objective(loss, dense=own_dense),
        out=folder,
        pattern=PATTERN,
        prior=masks,
        dense=dense,
        num_steps=steps,
        seed=seed,
        batch_rows=bench.dense.batch_rows,
        micro_rows=bench.dense.batch_rows,
        precision=bench.dense.precision,
        weight_decay=0.1,
        **{
            "learning_rate": bench.dense.learning_rate,
            "min_learning_rate": settings.get("learning_rate", bench.dense.learning_rate) / 10,
            **settings,
        },
        held_out=bench.held_out("" if domain in ("blend", UNSEEN) else domain),
        held_out_rows=CURVE_ROWS,
        evaluate_every_steps=max(1, steps // CURVE_POINTS),
        save_every_steps=max(40, steps // 4),
        keep_snapshots=1,
        label=f"{folder.parent.name} {seed}",
    )
    records = read_metrics(folder / "metrics.jsonl")
    norms = [record["grad_norm"] for record in records if "grad_norm" in record]
    early = norms[: max(1, len(norms) // 4)]
    facts: dict[str, Any] = {
        "num_steps": steps,
        "num_tokens": steps * bench.dense.batch_rows * bench.dense.sequence_length_tokens,
        "curve": [[r["step"], r["held_out_cross_entropy"]] for r in records if "held_out_cross_entropy" in r],
        "grad_norm": sum(early) / len(early),
    }
    if masks is not None:
        facts["changed_entries"] = differences(learned.masks, masks, PATTERN)[0].entries
    apply_in_memory(base, learned.masks, PATTERN)
    return base, learned.masks, facts


def _updated(
    bench: Bench, seed: int, dense: Sequence[str]
) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """The dense weights, updated by SparseGPT where its mask keeps them."""
    model, masks = bench.model(), {}
    pruned = one_shot(
        bench.model(),
        bench.calibration(seed),
        pattern=PATTERN,
        method="sparsegpt",
        update=True,
        dense=dense,
        num_samples=bench.dense.calibration_rows,
        batch_rows=8,
    )
    with torch.no_grad():
        for each in pruned:
            masks[each.name] = each.numbers
            weight = model.get_parameter(each.name)
            mask = PATTERN.mask(each.numbers, weight.shape)
            weight.copy_(torch.where(mask, each.updated, weight))
    return model, masks


def run_arm(bench: Bench, arm: str, seed: int, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Make, measure and record one arm for one seed; read the record if there is one.

    Args:
        arm: a name that says all that `settings` do: results are found by it.
        settings: {"method", ...} of `one_shot_arm`, or those of `learned_arm`. "measure" names the domains
            to measure on besides the model's own text.

    Returns:
        {"arm", "seed", "loss", "domains": {name: loss}, ...}.
    """
    folder = RUNS / bench.dense.name / arm / str(seed)
    if (folder / "result.json").exists():
        found: dict[str, Any] = json.loads((folder / "result.json").read_text())
        return found
    folder.mkdir(parents=True, exist_ok=True)
    settings = dict(settings)
    domains = settings.pop("measure", ())
    prior_arm = settings.pop("prior_arm", None)
    facts: dict[str, Any] = {}
    if settings.get("method") == "dense":
        model = bench.model()
        masks: dict[str, torch.Tensor] = {}
    elif "method" in settings:
        model, masks = one_shot_arm(bench, seed, **settings)
    else:
        if prior_arm is not None:
            settings["prior"] = load_file(_masks_of(bench, prior_arm, seed))
        model, masks, facts = learned_arm(bench, seed, folder, **settings)
    result = {"arm": arm, "seed": seed, "loss": bench.measure(model), **facts}
    result["domains"] = {name: bench.measure(model, name) for name in domains}
    if masks:
        save_file(masks, _masks_of(bench, arm, seed))
    write_atomically(folder / "result.json", json.dumps(result))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    print(f"{bench.dense.name}: {arm}, seed {seed}: {result['loss']:.4f} {result['domains']}", flush=True)
    return result


def _masks_of(bench: Bench, arm: str, seed: int) -> Path:
    return RUNS / bench.dense.name / arm / str(seed) / "masks.safetensors"
