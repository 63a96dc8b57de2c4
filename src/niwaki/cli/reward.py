"""Verbs for reward models: `niwaki reward score`, `rank`, `explain` and `justify`, and `niwaki lint`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from niwaki.cli.app import EXIT_WRONG_ANSWER, app
from niwaki.cli.output import AsJson, print_json

reward = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Use a reward model: score, rank, explain, justify."
)
app.add_typer(reward, name="reward")

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A reward model: a folder or a hub name.")]
Gate = Annotated[
    bool, typer.Option("--prompt-gate", help="Weigh the objectives by the prompt instead of the saved head.")
]


@reward.command()
def score(
    model: Model,
    file: Annotated[Path, typer.Argument(help='JSON lines with "prompt" and "response".')],
    prompt_gate: Gate = False,
) -> None:
    """Score answers.

    Prints the rows with "score" added, as JSON lines.
    """
    from niwaki.pipelines.reward_use import score_file

    for row in score_file(model, file, prompt_gate=prompt_gate):
        typer.echo(json.dumps(row, ensure_ascii=False))


@reward.command()
def rank(
    model: Model,
    file: Annotated[Path, typer.Argument(help='JSON lines with "prompt" and "responses", a list.')],
    best: Annotated[int | None, typer.Option(min=1, help="Keep so many of each row. Default: all.")] = None,
    prompt_gate: Gate = False,
) -> None:
    """Sort the answers to each prompt, best first.

    Best-of-n is `--best 1`. Prints JSON lines with "responses" and "scores".
    """
    from niwaki.pipelines.reward_use import rank_file

    for row in rank_file(model, file, best=best, prompt_gate=prompt_gate):
        typer.echo(json.dumps(row, ensure_ascii=False))


@reward.command()
def explain(
    model: Model,
    file: Annotated[
        Path, typer.Argument(help='JSON lines with "prompt", "response" and, to compare, "other".')
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
) -> None:
    """Say which objectives carried a score, and why one answer beats another.

    For models that a recipe with `objectives` made. The parts of a score sum to it.
    """
    from niwaki.pipelines.reward_use import explain_file, show_explanation

    for row in explain_file(model, file):
        if as_json:
            typer.echo(json.dumps(row, ensure_ascii=False))
        else:
            show_explanation(row)


@reward.command()
def justify(
    model: Annotated[str, typer.Argument(help="A justifier: 9-justify/model of a run, or a hub name.")],
    file: Annotated[Path, typer.Argument(help='JSON lines with "prompt", "response" and "other".')],
) -> None:
    """Say which of two answers is better, and why, asked in both orders.

    Prints the rows as JSON lines, with "preferred" (response or other), "log_odds", "both_orders_agree" and
    "justification", in which @Response 1 is the response.
    """
    from niwaki.pipelines.reward_justify import justify_file

    for row in justify_file(model, file):
        typer.echo(json.dumps(row, ensure_ascii=False))


@app.command()
def lint(
    checkpoint: Annotated[str, typer.Argument(help="A reward model of anybody's: a folder or a hub name.")],
    as_json: AsJson = False,
) -> None:
    """Find the known faults of reward models.

    Each with how to mend it. Exit code 1 when there is an error among them. No weights are run.
    """
    from niwaki.reward.lint import lint as find

    findings = find(checkpoint)
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            typer.echo(f"{finding.severity}: [{finding.code}] {finding.found}.\n  Mend: {finding.remedy}.")
        if not findings:
            typer.echo("No known fault.")
    raise typer.Exit(EXIT_WRONG_ANSWER if any(f.severity == "error" for f in findings) else 0)
