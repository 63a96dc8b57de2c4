"""`niwaki verify`: is this answer right?"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from niwaki.cli.app import EXIT_WRONG_ANSWER, app
from niwaki.cli.output import AsJson, print_json


@app.command()
def verify(
    answer: Annotated[str, typer.Argument(help="What a model wrote; - reads it from standard input.")],
    gold: Annotated[str, typer.Argument(help="The right answer.")],
    kind: Annotated[
        str | None,
        typer.Option(
            "--type", help="mc, number, expression, set, text or exact. Default: inferred from GOLD."
        ),
    ] = None,
    options: Annotated[
        str | None, typer.Option(help="Options of a multiple-choice question, as a JSON list or object.")
    ] = None,
    limit: Annotated[float, typer.Option(help="Seconds until the verdict is `timeout`.")] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Grade an answer against the right one.

    Exit code 0: right. 1: wrong. 2: the command cannot be used like this. See docs/verify.md. An answer that
    begins with a minus goes after `--`.
    """
    from niwaki.verify.check import check as grade
    from niwaki.verify.choice import options_from_json

    verdict = grade(
        sys.stdin.read() if answer == "-" else answer,
        gold,
        type=kind,
        options=options_from_json(options) if options is not None else None,
        limit_s=limit,
    )
    if as_json:
        print_json(verdict)
    else:
        typer.echo(f"{'right' if verdict.correct else 'wrong'}: {verdict.reason.value}")
        typer.echo(f"type: {verdict.type.value}")
        typer.echo(f"graded: {'nothing' if verdict.extracted is None else verdict.extracted}")
    raise typer.Exit(0 if verdict.correct else EXIT_WRONG_ANSWER)
