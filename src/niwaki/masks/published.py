"""Masks as the authors of MaskLLM publish them: `mask_compressed.npz` (maskllm 7.1).

One entry `NAME.mask` for each masked parameter: `np.packbits` of the flattened row-major mask, without a
shape, which comes from the model. The published masks were found as "weight is not zero", so a group may hold
fewer weights than the pattern keeps.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from niwaki.errors import CheckpointError, RecipeError
from niwaki.masks.file import MaskFile, Origin, writing
from niwaki.masks.packed import bits
from niwaki.masks.patterns import Pattern
from niwaki.masks.tensors import Shapes

_SUFFIX = ".mask"


def import_npz(
    source: Path, shapes: Shapes, pattern: Pattern, origin: Origin, out: Path, *, fill: bool = False
) -> int:
    """Write a mask file from a published archive, one tensor in memory at a time.

    Args:
        shapes: name -> shape of the tensors that the model's mask covers.
        fill: let groups that hold fewer weights than N keep their first dropped ones too; the sparse model
            is the same where those weights are zero.

    Returns:
        How many groups were filled.

    Raises:
        CheckpointError: no such archive, or other names or lengths than the model's.
        RecipeError: a group that does not hold N weights, and `fill` was not asked for, or holds more;
            `out` is taken.
    """
    filled = 0
    with _open(source) as archive:
        _check_names(archive, shapes, source)
        with writing(out, shapes, pattern, origin) as file:
            for name, shape in shapes.items():
                mask = _mask(archive[name + _SUFFIX], shape, f"{source}: {name}")
                missing = pattern.kept - mask.reshape(-1, pattern.group).sum(1)
                short = int((missing > 0).sum())
                if (short and not fill) or bool((missing < 0).any()):
                    num_bad = int((missing != 0).sum())
                    raise RecipeError(
                        f"{source}: {name}: {num_bad:,} of {missing.numel():,} groups do not keep "
                        f"{pattern.kept} of {pattern.group} weights.",
                        "Masks recovered from zeros keep fewer where a kept weight was zero: add --fill."
                        if not bool((missing < 0).any())
                        else "The archive has another pattern: give it with --pattern.",
                    )
                filled += short
                file.add(name, pattern.numbers(_filled(mask, pattern) if short else mask))
    return filled


def export_npz(mask: MaskFile, out: Path) -> None:
    """Write a mask in the published form, one tensor in memory at a time.

    Raises:
        RecipeError: `out` is taken.
        CheckpointError: the mask file is damaged.
    """
    if out.exists():
        raise RecipeError(f"{out} is already there.", "Give another name, or remove it first.")
    mask.check()
    partial = out.with_name(f".{out.name}.partial")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in mask.shapes:
                with archive.open(f"{name}{_SUFFIX}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, bits(mask.pattern, mask.numbers(name)))
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


class _open:  # noqa: N801
    """An archive of numbers, without pickles."""

    def __init__(self, source: Path) -> None:
        try:
            self._archive: Any = np.load(source, allow_pickle=False)
            assert isinstance(self._archive, np.lib.npyio.NpzFile)
        except FileNotFoundError:
            raise CheckpointError(f"{source}: there is no such file.", "Check the path.") from None
        except (OSError, ValueError, AssertionError, zipfile.BadZipFile) as error:
            raise CheckpointError(
                f"{source}: no readable npz archive ({error}).",
                "Download it again. Masks saved with torch are not read: they are pickles.",
            ) from error

    def __enter__(self) -> Any:
        return self._archive

    def __exit__(self, *args: object) -> None:
        self._archive.close()


def _check_names(archive: Any, shapes: Shapes, source: Path) -> None:
    found = {name.removesuffix(_SUFFIX) for name in archive.files}
    for name in _first(sorted(found - set(shapes))):
        raise CheckpointError(
            f"{source}: holds {name}, which this model's mask does not cover.",
            "Give the model that the mask was published for.",
        )
    for name in _first(sorted(set(shapes) - found)):
        raise CheckpointError(
            f"{source}: has no mask for {name}.",
            "Give the model that the mask was published for, or leave that tensor dense with --dense.",
        )


def _first(names: list[str]) -> Iterator[str]:
    yield from names[:1]


def _mask(packed: np.ndarray, shape: tuple[int, ...], where: str) -> Tensor:
    num_weights = int(np.prod(shape))
    if packed.ndim != 1 or packed.dtype != np.uint8 or len(packed) != -(-num_weights // 8):
        raise CheckpointError(
            f"{where}: {packed.dtype} {list(packed.shape)}; {num_weights:,} weights of shape {list(shape)} "
            f"take {-(-num_weights // 8):,} bytes.",
            "Give the model that the mask was published for, or download the archive again.",
        )
    flat = np.unpackbits(packed)
    if flat[num_weights:].any():
        raise CheckpointError(f"{where}: bits are set behind the last weight.", "Download it again.")
    return torch.from_numpy(flat[:num_weights].astype(bool)).reshape(shape)


def _filled(mask: Tensor, pattern: Pattern) -> Tensor:
    # Kept places score above dropped ones, and `largest` takes the first of equals.
    return pattern.mask(pattern.largest(mask.to(torch.int8)), mask.shape)
