"""How long a shape takes to answer a request on this machine, with random weights: speed needs no training.

Each shape is timed in turns with the teacher's shape and reported as its ratio to that, times the teacher's
own latency, which is measured once: a slow minute of the machine must not decide between two shapes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from niwaki.evaluation.speed import measure_speed
from niwaki.ground.family import family_of
from niwaki.ground.run import write_atomically
from niwaki.pipelines.inputs import compute_dtype, device
from niwaki.pipelines.serving import Request

_REPEATS = 5


def stopwatch(
    teacher: PreTrainedConfig, request: Request, *, record: Path
) -> Callable[[dict[str, int]], float]:
    """A function from a shape of this teacher (axis -> size, or the teacher's own) to its latency in seconds.

    Every measurement is kept in `record` and never repeated, so a killed search meets the same candidates.
    """
    family = family_of(teacher)
    whole = family.axis_sizes(teacher)
    known: list[dict[str, Any]] = json.loads(record.read_text()) if record.exists() else []

    @cache
    def teacher_model() -> PreTrainedModel:
        return random_model(teacher)

    def latency_s(sizes: dict[str, int]) -> float:
        for each in known:
            if each["sizes"] == sizes:
                return float(each["latency_s"])
        if sizes == whole:
            (found,) = latencies_s({"teacher": teacher_model()}, request).values()
        else:
            models = {"teacher": teacher_model(), "shape": random_model(family.resize(teacher, sizes))}
            timed = latencies_s(models, request)
            found = timed["shape"] / timed["teacher"] * latency_s(whole)
        known.append({"sizes": dict(sizes), "latency_s": found})
        write_atomically(record, json.dumps(known, indent=1))
        return found

    return latency_s


def latencies_s(models: dict[str, PreTrainedModel], request: Request) -> dict[str, float]:
    """Seconds that each model takes to answer, in turns with the others: median prefill + median decoding."""
    speeds = measure_speed(
        models,
        prompt_tokens=request.prompt_tokens,
        new_tokens=request.new_tokens,
        batch=request.batch,
        repeats=_REPEATS,
    )
    return {
        name: request.batch
        * (
            request.prompt_tokens / speed.prefill_tokens_per_s
            + request.new_tokens / speed.decode_tokens_per_s
        )
        for name, speed in speeds.items()
    }


def random_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A stock model of this config with random weights, on the device and in the dtype that models run in."""
    own = copy.deepcopy(config)  # from_config writes the dtype into it
    with torch.device(device()):
        return AutoModelForCausalLM.from_config(own, dtype=compute_dtype()).eval()
