"""Which file of a model folder holds which tensor: `model.safetensors`, or shards and their index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from niwaki.errors import CheckpointError
from niwaki.ground.shard import Shard, Spec, open_shard

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def open_shards(path: Path) -> tuple[Shard, ...]:
    """Open the shards of a model folder: each is there, whole, and holds the tensors that the index gives it.

    Raises:
        CheckpointError: names the file that is missing, damaged, foreign to the folder or not safetensors.
    """
    if (path / SINGLE).exists():
        return (open_shard(path / SINGLE),)
    if not (path / INDEX).exists():
        pickles = sorted(found.name for pattern in _PICKLES for found in path.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{path}: holds pickled weights ({pickles[0]}), expected {SINGLE} or {INDEX}.",
                "Convert them to safetensors: AutoModelForCausalLM.from_pretrained(OLD).save_pretrained(NEW)",
            )
        raise CheckpointError(
            f"{path}: no weights, expected {SINGLE} or {INDEX}.", "Download the whole model folder."
        )
    weight_map = read_object(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path / INDEX}: no weight_map.", "Download or copy the file again.")
    for file_name in weight_map.values():
        if not isinstance(file_name, str) or file_name in ("", "..") or Path(file_name).name != file_name:
            raise CheckpointError(
                f"{path / INDEX}: {file_name!r} is no file of this folder.",
                "Do not use this download: an index names the files that lie beside it.",
            )
    shards = tuple(open_shard(path / file_name) for file_name in sorted(set(weight_map.values())))
    found = {(name, shard.path.name) for shard in shards for name in shard.tensors}
    for name, file_name in sorted(found ^ set(weight_map.items())):
        fault = (
            "which the index does not list" if (name, file_name) in found else "which is not in that shard"
        )
        raise CheckpointError(
            f"{path / INDEX}: {name} of {file_name}, {fault}.",
            "Index and shards belong to different models or downloads; get them again together.",
        )
    return shards


def shard_names(num_shards: int) -> list[str]:
    """The file names of a model's shards."""
    if num_shards == 1:
        return [SINGLE]
    return [f"model-{i:05d}-of-{num_shards:05d}.safetensors" for i in range(1, num_shards + 1)]


def write_index(folder: Path, shards: Mapping[str, Mapping[str, Spec]]) -> None:
    """Write the index of a model's shards: file name -> name -> dtype and shape."""
    specs = [spec for tensors in shards.values() for spec in tensors.values()]
    metadata = {
        "total_parameters": sum(spec.num_elements for spec in specs),
        "total_size": sum(spec.num_bytes for spec in specs),
    }
    weight_map = {name: file_name for file_name, tensors in shards.items() for name in tensors}
    index = {"metadata": metadata, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_object(path: Path) -> dict[str, object]:
    """Read a JSON file of a model folder that holds one object.

    Raises:
        CheckpointError: it is not JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error}).", "Download or copy the file again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: holds a {type(content).__name__}, expected an object.", "Get it again."
        )
    return content
