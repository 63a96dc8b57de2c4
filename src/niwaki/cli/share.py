"""`niwaki push`: a finished run's model to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from niwaki.cli.app import app
from niwaki.cli.output import AsJson, print_json


@app.command()
def push(
    run_directory: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="Its name on the Hub.")],
    licence: Annotated[
        str | None,
        typer.Option("--license", help="Licence, such as apache-2.0, where no card names one."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="Everyone can see it. Default: a private repository.")
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Add a commit to a repository that holds something already.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the card, show the files, and send nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Publish the model of a finished run on the Hub, with a full card.

    The licence of the model that the run began with is carried over. What arrived is compared with what was
    sent.
    """
    from niwaki.pipelines.publish import prepare
    from niwaki.pipelines.publish import push as send
    from niwaki.pipelines.spoken import in_bytes

    publication = prepare(run_directory, repository, licence=licence, is_private=not public)
    address = None if dry_run else send(publication, is_update=update)
    if as_json:
        print_json(
            {
                "repository": repository,
                "private": not public,
                "license": publication.licence,
                "folder": publication.folder,
                "files": publication.files,
                "address": address,
            }
        )
        return
    for name, size in publication.files.items():
        typer.echo(f"{in_bytes(size):>10}  {name}")
    typer.echo(f"{in_bytes(publication.num_bytes):>10}  in all, licence {publication.licence}")
    if address is None:
        seen = "everyone" if public else "you alone"
        typer.echo(f"Nothing was sent. Without --dry-run it goes to {repository}, for {seen} to see.")
        typer.echo(f"card: {publication.folder / 'README.md'}")
    else:
        typer.echo(f"Published, and compared with what lies here: {address}")
