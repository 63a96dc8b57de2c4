"""The app that every verb hangs on: errors become a message, a remedy and an exit code."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from niwaki import __version__
from niwaki.errors import NiwakiError, RecipeError

EXIT_WRONG_ANSWER = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
_FORMAT = warnings.formatwarning
# What several processes of a launcher can do together.
_DIVIDED = ("run", "compress", "check", "correct", "score", "choose", "trim", "distill", "eval")


class _Verbs(TyperGroup):
    """Turns errors that the user can mend, and Ctrl-C, into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; with NIWAKI_TRACEBACK=1 its errors keep their traceback."""
        warnings.formatwarning = _as_note
        try:
            with _together(ctx):
                return super().invoke(ctx)
        except NiwakiError as error:
            if os.environ.get("NIWAKI_TRACEBACK") == "1":
                raise
            _say_once(error)
            raise typer.Exit(EXIT_USER_ERROR) from None
        except KeyboardInterrupt:
            command = shlex.join(["niwaki", *sys.argv[1:]])
            typer.echo(f"\nStopped. The same command goes on from here: {command}", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None


def _as_note(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """What niwaki warns of, without the line of code that other warnings show."""
    own = Path(filename).is_relative_to(Path(__file__).parents[1])
    return f"Note: {message}\n" if own else _FORMAT(message, category, filename, lineno, line)


def _is_one_of_several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _together(ctx: Any) -> AbstractContextManager[None]:
    """The processes that a launcher started, met; alone, which is usual, nothing is imported."""
    if not _is_one_of_several():
        return nullcontext()
    verb = next(iter([*ctx._protected_args, *ctx.args]), "")
    if verb not in _DIVIDED:
        raise RecipeError(
            f"`niwaki {verb}` is nothing that several processes do together.",
            f"Run it without the launcher; with it go {', '.join(_DIVIDED)}.",
        )
    from niwaki.ground.processes import together

    return together()


def _say_once(error: NiwakiError) -> None:
    if not _is_one_of_several():
        _say(error)
        return
    from niwaki.ground.processes import say_once

    say_once(error, lambda: _say(error))


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
