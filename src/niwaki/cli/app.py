"""The app that every verb hangs on: errors become a message, a remedy and an exit code."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from niwaki import __version__
from niwaki.errors import NiwakiError

EXIT_WRONG_ANSWER = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class _Verbs(TyperGroup):
    """Turns errors that the user can mend, and Ctrl-C, into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; with NIWAKI_TRACEBACK=1 its errors keep their traceback."""
        try:
            return super().invoke(ctx)
        except NiwakiError as error:
            if os.environ.get("NIWAKI_TRACEBACK") == "1":
                raise
            _say(error)
            raise typer.Exit(EXIT_USER_ERROR) from None
        except KeyboardInterrupt:
            command = shlex.join(["niwaki", *sys.argv[1:]])
            typer.echo(f"\nStopped. The same command goes on from here: {command}", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None


def _say(error: NiwakiError) -> None:
    """What is wrong, in red on a terminal unless NO_COLOR is set, and what to do."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text(error.message, style="red"))
    console.print(Text(error.remedy))


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Shape big open language models into small, fast ones. Start with: niwaki new compress",
)

RecipeOrRun = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe file, or a run directory that holds one.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Run directory. Default: the recipe's `out`, else runs/NAME-OF-RECIPE."),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"niwaki {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
