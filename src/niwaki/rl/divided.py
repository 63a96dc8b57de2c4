"""GRPO over several processes: the rollouts of a step, and the model in copies (DDP) or parts (FSDP2).

accelerate would shard the model itself, but not on processors, and TRL would then gather every layer for
every token that it samples. Instead the model is sharded as in all other trainings (`ground.spread`), and the
trainer of transformers is told what it knows of a model that was loaded in parts: that there is nothing left
to wrap. Rollouts are sampled from whole weights, which are gathered once a step, so that no process waits for
the longest rollout of another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

from niwaki.errors import TrainingError
from niwaki.ground import processes
from niwaki.ground.spread import spread

WITHOUT_VLLM = "Write generate_with: transformers, or launch without FSDP2."
_SWITCH = "ACCELERATE_USE_FSDP"


def step_settings(rollouts: int, micro_rollouts: int) -> dict[str, Any]:
    """TRL's names for a step of `rollouts` over all processes, `micro_rollouts` at a time.

    Raises:
        TrainingError: it does not divide.
    """
    num_processes = processes.count()
    share = micro_rollouts * num_processes
    if rollouts % share:
        raise TrainingError(
            f"{rollouts} rollouts a step do not divide into {num_processes} process(es) x "
            f"micro_rollouts {micro_rollouts}.",
            f"Choose prompts_per_step and num_generations whose product is a multiple of {share}.",
        )
    settings: dict[str, Any] = {
        "per_device_train_batch_size": micro_rollouts,
        "gradient_accumulation_steps": rollouts // share,
    }
    if processes.are_sharded():  # parts of the gradient are added up each time: the whole one would not fit
        settings["accelerator_config"] = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}
    return settings


def vllm_settings(wanted: bool, memory: float) -> dict[str, Any]:
    """TRL's names for sampling with vLLM, if `wanted`.

    Raises:
        TrainingError: the model is in parts, which TRL would hand over as they are.
    """
    if wanted and processes.are_sharded():
        raise TrainingError("vLLM does not sample under FSDP2.", WITHOUT_VLLM)
    return {"use_vllm": True, "vllm_gpu_memory_utilization": memory} if wanted else {}


@contextmanager
def unseen_by_accelerate() -> Iterator[None]:
    """Let accelerate prepare for a whole model inside the block, whatever the launcher asks for."""
    wanted = os.environ.pop(_SWITCH, None)
    try:
        yield
    finally:
        if wanted is not None:
            os.environ[_SWITCH] = wanted


@contextmanager
def in_parts(trainer: Any) -> Iterator[None]:
    """Train inside the block with the trainer's models in parts, if the launcher asks for that.

    After it every process holds the whole of them again, as trained.
    """
    if not processes.are_sharded():
        yield
        return
    trainer.is_distributed_loading_by_transformers = True
    with spread(trainer.model), _frozen_in_parts(trainer.ref_model):
        _sample_from_whole_weights(trainer.model)
        yield


@contextmanager
def _frozen_in_parts(reference: Any | None) -> Iterator[None]:
    if reference is None:
        yield
        return
    with spread(reference):
        reference.set_reshard_after_forward(True)  # no backward pass will want what was gathered
        yield


def _sample_from_whole_weights(model: Any) -> None:
    sample = model.generate

    def generate(*arguments: Any, **options: Any) -> Any:
        with _whole_layers(model):
            return sample(*arguments, **options, synced_gpus=False)

    model.generate = generate
    # The weights outside the layers are gathered by the model, once it knows that this runs it too.
    register_fsdp_forward_method(model, "generate")


@contextmanager
def _whole_layers(model: nn.Module) -> Iterator[None]:
    layers = [part for part in model.modules() if isinstance(part, FSDPModule) and part is not model]
    for layer in layers:
        layer.unshard()
        layer.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(True, recurse=False)
            layer.reshard()
