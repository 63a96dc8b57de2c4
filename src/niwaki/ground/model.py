"""Load, build and count stock `transformers` causal language models. No remote code is ever run."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch
from accelerate import init_empty_weights
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from niwaki.errors import CheckpointError

SAPLING = "sapling"
_STOCK_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md"]
_LICENCE_FILES = ["LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*"]


def model_path(name: str | Path) -> str:
    """Resolve a model's name: a folder, a hub name, or `sapling`, the model that comes with niwaki.

    The word `sapling` always means the bundled model; write `./sapling` for a folder of that name.

    Raises:
        CheckpointError: something that looks like a folder is not there, or holds no config.json.
    """
    if str(name) == SAPLING:
        return _bundled()
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"Model folder {str(folder)!r} holds no config.json.",
                "Give a folder that save_pretrained wrote, with config.json and safetensors.",
            )
        return str(folder)
    if folder.is_absolute() or str(name).startswith((".", "~")) or str(name).count("/") > 1:
        raise CheckpointError(
            f"Model folder {str(name)!r} does not exist.",
            "Give an existing folder, a hub name such as Qwen/Qwen3-8B, or sapling.",
        )
    return str(name)


def local_folder(name: str | Path) -> Path:
    """The folder of a model: itself, the bundled one, or what a hub name was downloaded to.

    Raises:
        CheckpointError: the hub has no such model, or cannot be reached.
    """
    path = model_path(name)
    if Path(path).is_dir():
        return Path(path)
    try:
        return Path(snapshot_download(path, allow_patterns=_STOCK_FILES + _LICENCE_FILES))
    except Exception as error:
        raise CheckpointError(
            f"Model {str(name)!r} is no folder, and the hub does not give it: {str(error).splitlines()[0]}",
            "Check the name and the network, log in with `hf auth login` if it is gated, or give a folder.",
        ) from error


def load_model(
    name: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    attention: str | None = None,
) -> PreTrainedModel:
    """Load a causal language model in evaluation mode and check its weights.

    Args:
        name: folder, hub name, or `sapling`.
        dtype: of the weights; that of the checkpoint by default.
        device: where the model goes.
        attention: attention kernel, as `attn_implementation` of `transformers`; its choice by default.

    Raises:
        CheckpointError: the model cannot be loaded, a weight is missing, or one is NaN or infinite.
    """
    path = model_path(name)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            path,
            dtype="auto" if dtype is None else dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"Model {str(name)!r} cannot be loaded: {str(error).splitlines()[0]}",
            "Check the name, that every shard is complete, and that the model needs no remote code.",
        ) from error
    if info["missing_keys"]:
        raise CheckpointError(
            f"Model {str(name)!r} lacks {len(info['missing_keys'])} tensors, "
            f"among them {min(info['missing_keys'])!r}.",
            "Fetch the checkpoint again; these weights would have been random.",
        )
    check_finite(model)
    return model.to(device).eval()


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer that lies beside a model.

    Raises:
        CheckpointError: there is none.
    """
    path = model_path(name)
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Model {str(name)!r} has no tokenizer that loads: {str(error).splitlines()[0]}",
            "Put tokenizer.json and tokenizer_config.json beside config.json.",
        ) from error


def build_meta(config: PreTrainedConfig) -> PreTrainedModel:
    """Build a model without memory for its weights, to count or to read shapes."""
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    model.tie_weights()
    return model


def count_parameters(model: torch.nn.Module) -> int:
    """Count the parameters of a model; tied weights count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def check_finite(model: torch.nn.Module) -> None:
    """Refuse a model with a weight that is NaN or infinite.

    Raises:
        CheckpointError: names the first such tensor.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            bad = int((~torch.isfinite(parameter)).sum())
            raise CheckpointError(
                f"Tensor {name!r} holds {bad} values that are NaN or infinite.",
                "Fetch or save the checkpoint again; training from these weights cannot work.",
            )


def _bundled() -> str:
    folder = Path(str(resources.files("niwaki.sapling"))) / "model"
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"The bundled model is not in this installation ({folder}).",
            "Install niwaki again, or give another model.",
        )
    return str(folder)
