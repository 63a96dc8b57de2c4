"""A model larger than memory: its layers stay on disk and are read one at a time.

In: a model folder. Out: a `transformers` model on which everything works that runs a model forward, because
each layer reads its weights when it is called and lets go of them after. `walk.decode` is the way that
makes it usable: it takes many rows through a layer before it reads the next, in the model's own forward.

The hidden states between two layers stay in memory, for as many rows as the allowance holds; more rows read
the checkpoint again. Keeping all rows in a file instead would read the weights once, but move every hidden
state to disk and back for every layer, which is more as soon as memory holds half a layer of hidden states.

Shapes: B rows, S positions, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import PreTrainedModel

from niwaki.errors import CheckpointError
from niwaki.ground.checkpoint import Checkpoint
from niwaki.ground.family import family_of
from niwaki.ground.layered import LayerReader
from niwaki.ground.layers import layer_list
from niwaki.ground.model import load_model, local_folder
from niwaki.ground.saved import memory_limit_bytes

# The rest is for activations.
WEIGHTS_SHARE = 0.75
# Of what the weights in memory leave; the other half is for the activations of one batch.
HIDDEN_SHARE = 0.5

Arguments = Mapping[str, Tensor]


def load_or_stream(
    name: str | Path, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> PreTrainedModel:
    """`load_model`, or `stream_model` with a line saying so when the weights do not fit.

    Raises:
        CheckpointError: the model cannot be loaded, or not even one of its layers fits.
        FamilyError: it does not fit, and no table describes its family.
    """
    folder = local_folder(name)
    checkpoint = Checkpoint(folder)
    num_bytes, allowed_bytes = weights_bytes(checkpoint, dtype), allowed_memory_bytes(device)
    if fits(num_bytes, device):
        return load_model(folder, dtype=dtype, device=device)
    Console(stderr=True, highlight=False).print(
        f"{name}: {num_bytes / 1e9:.1f} GB of weights, {allowed_bytes / 1e9:.1f} GB of memory allowed; "
        "reading them layer by layer.",
        soft_wrap=True,
    )
    return stream_model(folder, dtype=dtype, device=device)


def weights_bytes(checkpoint: Checkpoint, dtype: torch.dtype | None) -> int:
    """What the weights of a checkpoint take in memory in `dtype`, or in their own."""
    specs = [checkpoint.spec(name) for name in checkpoint.names()]
    return sum(spec.num_elements * (dtype or spec.dtype).itemsize for spec in specs)


def allowed_memory_bytes(device: str | torch.device) -> int:
    """Memory of the device that models are run on, or what this process may use of the machine's."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return memory_limit_bytes()


def fits(num_bytes: int, device: str | torch.device) -> bool:
    """Whether weights of so many bytes leave enough memory to run them."""
    return num_bytes <= WEIGHTS_SHARE * allowed_memory_bytes(device)


def stream_model(
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    memory_bytes: int | None = None,
) -> PreTrainedModel:
    """A model whose layers are read from `folder` whenever they run; embedding, norm and head stay loaded.

    Args:
        folder: a Hugging Face folder with safetensors weights; it must stay as it is.
        dtype: of the weights; that of the checkpoint by default.
        device: where layers run. Hidden states wait in the machine's memory.
        memory_bytes: how much memory to use; what the process is allowed by default.

    Raises:
        CheckpointError: the folder is damaged, or embedding, head and one layer need more than that.
        FamilyError: no table describes the family.
    """
    checkpoint = Checkpoint(folder)
    dtype = checkpoint.dtype(checkpoint.names()[0]) if dtype is None else dtype
    reader = LayerReader(checkpoint, family_of(checkpoint.config), dtype, torch.device(device))
    memory_bytes = memory_limit_bytes() if memory_bytes is None else memory_bytes
    left_bytes = memory_bytes - reader.resident_bytes
    if left_bytes <= 0:
        raise CheckpointError(
            f"{folder}: embedding, head and one layer need {reader.resident_bytes / 1e9:.1f} GB; "
            f"{memory_bytes / 1e9:.1f} GB of memory are allowed.",
            "Allow more memory, or run in bfloat16 if the weights are float32.",
        )
    model = reader.skeleton().requires_grad_(False)
    stream = _Stream(reader, list(layer_list(model)), int(HIDDEN_SHARE * left_bytes))
    for number, layer in enumerate(stream.layers):
        layer.register_forward_pre_hook(lambda module, args, number=number: stream.load(number))
        layer.register_forward_hook(
            lambda module, args, output, number=number: stream.release(number), always_call=True
        )
    model.niwaki_stream = stream
    return model


def is_streamed(model: nn.Module) -> bool:
    """Whether the layers of a model are read from disk whenever they run."""
    return isinstance(getattr(model, "niwaki_stream", None), _Stream)


def holding(model: PreTrainedModel, number: int) -> AbstractContextManager[None]:
    """While the block runs, layer `number` of a streamed model keeps its weights."""
    return model.niwaki_stream.holding(number) if is_streamed(model) else nullcontext()


def rows_at_once(model: PreTrainedModel, *, batch_rows: int, row_tokens: int) -> int:
    """How many rows `walk.decode` should be given: one batch, or as many batches as one reading can serve."""
    if not is_streamed(model):
        return batch_rows
    row_bytes = row_tokens * model.config.get_text_config().hidden_size * model.dtype.itemsize
    return max(1, model.niwaki_stream.hidden_bytes // (row_bytes * batch_rows)) * batch_rows


def passes_per_batch(model: PreTrainedModel) -> int:
    """How often `walk.decode` calls the model for each batch."""
    return len(model.niwaki_stream.layers) if is_streamed(model) else 1


@dataclass
class _Stream:
    """The layers of a streamed model: which are loaded, and how many hidden states may wait in memory."""

    reader: LayerReader
    layers: list[nn.Module]
    hidden_bytes: int
    held: set[int] = field(default_factory=set)

    def load(self, number: int) -> None:
        """Give a layer its weights, unless it is held."""
        if number not in self.held:
            self.layers[number].load_state_dict(self.reader.layer(number), assign=True, strict=False)

    def release(self, number: int) -> None:
        """Take a layer's weights away again, unless it is held."""
        if number not in self.held:
            layer = self.layers[number]
            empty = {name: torch.empty_like(part, device="meta") for name, part in layer.named_parameters()}
            layer.load_state_dict(empty, assign=True, strict=False)

    @contextmanager
    def holding(self, number: int) -> Iterator[None]:
        """While the block runs, a layer keeps its weights; a block inside may hold it too."""
        if number in self.held:
            yield
            return
        self.load(number)
        self.held.add(number)
        try:
            yield
        finally:
            self.held.discard(number)
            self.release(number)
