"""The distillation loss inside DDP and FSDP2: two processes on the processor, against one."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

from niwaki.distillation.hidden import HiddenLoss, Lifted
from niwaki.distillation.train import distillation_loss
from niwaki.ground.loop import Objective
from niwaki.ground.stream import Rows

ROWS = Rows(np.random.default_rng(0).integers(0, 90, 4000), sequence_length=16, seed=0)


def model(hidden_size):
    torch.manual_seed(hidden_size)
    sizes = {"vocab_size": 90, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(hidden_size=hidden_size, tie_word_embeddings=True, **sizes))


def wrapped(objective, kind):
    if kind == "ddp":
        return DistributedDataParallel(objective)
    for layer in objective.model.student.model.layers:
        fully_shard(layer)
    return fully_shard(objective)


def gradients(of):
    named = of.named_parameters()
    return {n: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for n, p in named}


def work(rank, store, kind):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    teacher = model(48)
    # A constant alpha: the dynamic one is of each process's own rows.
    loss = distillation_loss(teacher, hidden=HiddenLoss(layers={-1: 0, 0: -1}, alpha=0.5))
    student = Lifted(model(32), teacher=teacher.config, seed=0)
    alone = copy.deepcopy(student)
    (loss(alone, ROWS.take(0, 8))[0] / 128).backward()
    objective = wrapped(Objective(student, loss, "float32"), kind)  # named, because DDP's hooks die with it
    total, _ = objective(ROWS.take(4 * rank, 4))
    (total * 2 / 128).backward()  # both average over the processes
    for name, gradient in gradients(student).items():
        expected = gradients(alone)[name]
        assert (gradient - expected).norm() < 1e-5 * expected.norm(), name
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_give_the_gradients_of_one(tmp_path, kind):
    mp.spawn(work, (str(tmp_path / "store"), kind), nprocs=2)
