"""The bundled teacher's model card and loss curve, from the metrics of its training.

In: the run directory of `niwaki.sapling.train`. Out: `model/README.md` and `model/loss_curve.svg`.
"""

from __future__ import annotations

import math
import platform
from pathlib import Path

import matplotlib.pyplot as plt

from niwaki.ground.metrics import read_metrics

COMMAND = "make sapling"

_CARD = """\
---
language: code
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [niwaki, python]
---

# sapling

A Llama of {num_parameters:,} parameters that has read nothing but the source of Python's standard library.
It is the teacher that comes with niwaki: large enough for every stage to have real work, small enough for
all of them to run in minutes on two processor cores. It writes plausible Python for a line or two; it is
good for nothing else.

| | |
|---|---|
| architecture | Llama: 8 layers, hidden 256, MLP 512, 8 query and 4 key-value heads of 32, tied embeddings |
| tokenizer | byte-level BPE, {vocab_size:,} entries, trained on the training half |
| training text | standard library of Python {python}, {train_tokens:,} tokens, {epochs:.1f} passes |
| held out | top-level modules, chosen by hash (`niwaki.ground.text`), {held_out_tokens:,} tokens |
| held-out loss | {nats:.3f} nats per token, {bits_per_byte:.3f} bits per byte |
| training loss, last 50 steps | {train_nats:.3f} nats per token |
| settings | AdamW, peak learning rate 3e-3, cosine to 1e-4, {num_steps:,} steps of 16 rows of 512 tokens |
| command | `{command}` |

![Loss over training](loss_curve.svg)

The text is the work of the Python Software Foundation and contributors, under the PSF licence. The weights
are under Apache-2.0, like niwaki.
"""


def write_card(
    run: Path,
    *,
    num_parameters: int,
    vocab_size: int,
    train_tokens: int,
    held_out_tokens: int,
    bytes_per_token: float,
) -> None:
    """Write the card and the curve into `run / "model"`."""
    records = read_metrics(run / "metrics.jsonl")
    training = [(r["tokens"], r["loss"]) for r in records if "loss" in r]
    held_out = [(r["tokens"], r["held_out_cross_entropy"]) for r in records if "held_out_cross_entropy" in r]
    nats = held_out[-1][1]
    last = [loss for _, loss in training[-50:]]
    card = _CARD.format(
        num_parameters=num_parameters,
        vocab_size=vocab_size,
        python=platform.python_version(),
        train_tokens=train_tokens,
        held_out_tokens=held_out_tokens,
        epochs=training[-1][0] / train_tokens,
        nats=nats,
        bits_per_byte=nats / bytes_per_token / math.log(2),
        train_nats=sum(last) / len(last),
        num_steps=len(training),
        command=COMMAND,
    )
    (run / "model" / "README.md").write_text(card)
    _draw(training, held_out, run / "model" / "loss_curve.svg")


def _draw(training: list[tuple[float, float]], held_out: list[tuple[float, float]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    axes.plot(*zip(*training, strict=True), color="#9db3a5", linewidth=0.8, label="training")
    axes.plot(*zip(*held_out, strict=True), color="#2f5d46", marker="o", markersize=3, label="held out")
    axes.set(xlabel="tokens", ylabel="nats per token", ylim=(0, None))
    axes.xaxis.set_major_formatter(lambda tokens, _: f"{tokens / 1e6:g}M")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
