"""A model whose layers lie in parts over the processes: as much of each layer's rows in one as in another.

For a model that no single device holds, or that leaves too little room beside it. Embedding, last norm and
head are whole in every process; a process holds its part of all else (a `DTensor` in place of each
parameter), and at most one layer whole while the model is loaded. `spread.running` makes such a model run,
`spread.spread` has it trained, and `gather_model` puts it together in the main process to be saved.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from transformers import PreTrainedModel

from niwaki.errors import FamilyError
from niwaki.ground import processes
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.family import family_of
from niwaki.ground.layered import LayerReader
from niwaki.ground.layers import layer_list
from niwaki.ground.model import build_meta, check_finite, load_model


def load_in_parts(
    folder: Path, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> PreTrainedModel:
    """Load a causal language model in evaluation mode, its layers in parts. Collective.

    Args:
        folder: a Hugging Face folder with safetensors weights, which every process reads.
        dtype: of the weights; that of the checkpoint by default.
        device: of this process.

    Raises:
        CheckpointError: the folder is damaged, or a weight is NaN or infinite.
        FamilyError: no table describes the family.
    """
    checkpoint = Checkpoint(folder)
    dtype = checkpoint.dtype(checkpoint.names()[0]) if dtype is None else dtype
    reader = LayerReader(checkpoint, family_of(checkpoint.config), dtype, torch.device(device))
    model = reader.skeleton()
    mesh = mesh_of(torch.device(device).type)
    for number, layer in enumerate(layer_list(model)):
        parts = {name: _part(whole, mesh) for name, whole in reader.layer(number).items()}
        layer.load_state_dict(parts, strict=False, assign=True)
    check_finite(model)
    return model


def load_together(
    folder: Path, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> PreTrainedModel:
    """A model for all processes to run or train together: in parts under FSDP2, else whole in each.

    Raises:
        CheckpointError: see `load_in_parts` and `load_model`.
    """
    if processes.are_sharded() and _has_table(folder):
        return load_in_parts(folder, dtype=dtype, device=device)
    return load_model(folder, dtype=dtype, device=device)


def is_in_parts(model: nn.Module) -> bool:
    """Whether parameters of a model, or of a part of it, lie in parts over the processes."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def gather_model(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel | None:
    """The whole model in `dtype` in the main process, and None in the others. Collective.

    Of a model in parts it is another one, in the memory of the main process's machine; else the same.
    """
    if not is_in_parts(model):
        return model.to(dtype) if processes.is_main() else None
    tensors = {}
    for name, tensor in model.state_dict().items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if processes.is_main():
            tensors[name] = whole.to("cpu", dtype if whole.is_floating_point() else None)
    if not processes.is_main():
        return None
    gathered = build_meta(model.config)
    gathered.load_state_dict(tensors, assign=True)
    gathered.tie_weights()
    gathered.generation_config = model.generation_config
    return gathered.eval()


def _has_table(folder: Path) -> bool:
    try:
        family_of(Checkpoint(folder).config)
    except FamilyError:
        return False
    return True


@cache
def mesh_of(device_type: str) -> DeviceMesh:
    """All processes in a row, for tensors on devices of this type."""
    return init_device_mesh(device_type, (processes.count(),))


def _part(whole: Tensor, mesh: DeviceMesh) -> nn.Parameter:
    part = distribute_tensor(whole, mesh, [Shard(0)], src_data_rank=None)
    own = part.to_local().clone()  # not a view that keeps the whole alive
    return nn.Parameter(
        DTensor.from_local(own, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride())
    )
