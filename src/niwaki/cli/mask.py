"""Verbs for mask files: apply, import, export, info, diff."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from niwaki.cli.app import app
from niwaki.cli.output import AsJson, print_json

mask = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Masks of one dense model: lay one over it, import and export published ones, compare.",
)
app.add_typer(mask, name="mask")

Model = Annotated[str, typer.Argument(help="The dense model: a folder, a hub name, or `sapling`.")]
MaskPath = Annotated[Path, typer.Argument(metavar="MASK", help="A mask file.")]


@mask.command()
def apply(
    model: Model,
    mask_file: Annotated[Path, typer.Option("--mask", help="The mask, made for this very checkpoint.")],
    out: Annotated[Path, typer.Option(help="Folder to make; nothing there is overwritten.")],
) -> None:
    """Write a model with a mask's zeros in it: a stock checkpoint.

    The dense model stays as it is, so another mask of it can be applied at any time.
    """
    from niwaki.ground.model import local_folder
    from niwaki.masks.apply import apply_mask
    from niwaki.masks.file import MaskFile

    file = MaskFile(mask_file)
    apply_mask(local_folder(model), file, out)
    typer.echo(
        f"Wrote {out}: {file.pattern} in {len(file.shapes)} tensors. It is a dense checkpoint with zeros."
    )


@mask.command(name="import")
def import_(
    model: Model,
    npz: Annotated[Path, typer.Argument(help="A published mask_compressed.npz.")],
    out: Annotated[Path, typer.Option(help="Mask file to write; nothing there is overwritten.")],
    pattern: Annotated[str, typer.Option(help="N:M of the archive.")] = "2:4",
    dense: Annotated[
        str, typer.Option(help="Tensors the archive leaves dense, with commas between: 'layer 0'.")
    ] = "",
    fill: Annotated[
        bool, typer.Option("--fill", help="Fill groups that keep fewer than N, with weights that were zero.")
    ] = False,
) -> None:
    """Turn a published mask into a mask file of this model."""
    from niwaki.ground.checkpoint import Checkpoint
    from niwaki.ground.model import local_folder
    from niwaki.masks.file import MaskFile, Origin
    from niwaki.masks.patterns import Pattern
    from niwaki.masks.published import import_npz
    from niwaki.masks.tensors import maskable

    checkpoint = Checkpoint(local_folder(model))
    read = Pattern.parse(pattern)
    shapes = maskable(checkpoint.config, read, [name.strip() for name in dense.split(",") if name.strip()])
    origin = Origin(model, checkpoint.fingerprint(), {"method": "imported", "from": npz.name})
    filled = import_npz(npz, shapes, read, origin, out, fill=fill)
    if filled:
        typer.echo(f"Filled {filled:,} groups that kept fewer than {read.kept} of {read.group}.", err=True)
    file = MaskFile(out)
    bits = 8 * out.stat().st_size / file.num_weights
    typer.echo(f"Wrote {out}: {file.num_weights:,} weights, {bits:.3f} bit per weight.")


@mask.command()
def export(
    mask_file: MaskPath,
    out: Annotated[Path, typer.Option(help="Archive to write, such as mask_compressed.npz.")],
) -> None:
    """Write a mask as an npz archive, in the form that masks are published in."""
    from niwaki.masks.file import MaskFile
    from niwaki.masks.published import export_npz

    export_npz(MaskFile(mask_file), out)
    typer.echo(f"Wrote {out}.")


@mask.command()
def info(mask_file: MaskPath, as_json: AsJson = False) -> None:
    """Say what a mask is for and how it was made, and check that it is whole."""
    from niwaki.masks.file import MaskFile

    file = MaskFile(mask_file)
    file.check()
    num_bytes = file.path.stat().st_size
    facts = {
        "pattern": str(file.pattern),
        "model": file.origin.model,
        "fingerprint": file.origin.fingerprint,
        "made": dict(file.origin.made),
        "num_tensors": len(file.shapes),
        "num_weights": file.num_weights,
        "bytes": num_bytes,
        "bits_per_weight": 8 * num_bytes / file.num_weights,
        "sha256": file.sha256,
    }
    if as_json:
        print_json(facts)
        return
    made = ", ".join(f"{key} {value}" for key, value in file.origin.made.items())
    typer.echo(f"{file.pattern} on {len(file.shapes)} tensors with {file.num_weights:,} weights")
    typer.echo(f"{num_bytes:,} bytes, {facts['bits_per_weight']:.3f} bit per weight; the hash fits")
    typer.echo(f"model  {file.origin.model} (fingerprint {file.origin.fingerprint[:12]})")
    typer.echo(f"made   {made or 'unknown'}")


@mask.command()
def diff(
    one: Annotated[Path, typer.Argument(help="A mask file.")],
    other: Annotated[Path, typer.Argument(help="Another mask of the same model and pattern.")],
    as_json: AsJson = False,
) -> None:
    """Say how far two masks are apart: in all, and tensor by tensor."""
    from niwaki.errors import RecipeError
    from niwaki.masks.difference import differences
    from niwaki.masks.file import MaskFile
    from niwaki.masks.tensors import check_covers

    first, second = MaskFile(one), MaskFile(other)
    if first.pattern != second.pattern:
        raise RecipeError(
            f"{one} has pattern {first.pattern}, {other} {second.pattern}.", "Compare masks of one pattern."
        )
    check_covers(second.shapes, first.shapes, str(other))
    whole, each = differences(first.load(), second.load(), first.pattern)
    if as_json:
        print_json({"all": whole, "tensors": each})
        return
    typer.echo(f"{whole.groups:.2%} of the groups and {whole.entries:.2%} of the entries differ")
    for name, found in each.items():
        typer.echo(f"{found.groups:8.2%} {found.entries:8.2%}  {name}")
