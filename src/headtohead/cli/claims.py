"""Commands for the claims on trial."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headtohead.cli.base import ANSWER, Command, Group, ManyValues, Workers, app

claims = typer.Typer(cls=Group, rich_markup_mode="rich")
app.add_typer(
    claims,
    name="claims",
    rich_help_panel=ANSWER,
    short_help="Claims of the literature: their verdicts, and the studies behind them.",
)

Results = Annotated[Path, typer.Option(metavar="DIR", help="Where results are kept.")]
Studies = Annotated[Path, typer.Option(metavar="DIR", help="Where the study files of claims are.")]
RESULTS, STUDIES = Path("results"), Path("studies/claims")


@claims.callback(invoke_without_command=True)
def table(
    ctx: typer.Context,
    write: Annotated[bool, typer.Option("--write", help="Write docs/claims.md from the results.")] = False,
    results: Results = RESULTS,
    studies: Studies = STUDIES,
) -> None:
    """Claims of the literature on trial: each is a study with a rule that was stated before it ran, and ends
    supported, contradicted or undecided at its scale.
    """
    if ctx.invoked_subcommand is not None:
        return
    from headtohead.study import claims as found

    if write:
        found.write_page(found.PAGE, results, studies)
    else:
        found.show(None, results, studies)


@claims.command(cls=Command, short_help="The table of verdicts, or all there is on one claim.")
def show(
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="A claim, such as C1.")] = None,
    results: Results = RESULTS,
    studies: Studies = STUDIES,
) -> None:
    """The table of verdicts; with a claim's key, what it rests on: effects, intervals, rule, and the command."""
    from headtohead.study import claims as found

    found.show(key, results, studies)


@claims.command(cls=ManyValues, short_help="Run the study that puts a claim on trial.")
def run(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A claim, such as C1.")],
    text: Annotated[
        list[Path] | None, typer.Option(metavar="PATH...", help="Your own text, see headtohead study.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to write.", show_default="runs/<the study's name>"),
    ] = None,
    workers: Workers = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs, the match, FLOPs and time; start nothing.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Do a part of the runs, see headtohead study.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE...", help="Change a value of the study file."),
    ] = None,
    studies: Studies = STUDIES,
) -> None:
    """Run the study behind a claim, or go on with it; all claims of that study are decided together."""
    from headtohead.study import claims as found
    from headtohead.study import runner

    runner.study(
        file=found.find(key, studies).file,
        text=text or [],
        out=out,
        workers=workers,
        dry_run=dry_run,
        overrides=set_ or [],
        shard=shard,
    )


@claims.command(cls=Command, short_help="Keep what a finished study found among the results.")
def keep(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a finished study.")],
    results: Results = RESULTS,
) -> None:
    """Copy a finished study's plan, results, times and page to the results, where the verdicts are read from."""
    from headtohead.study import claims as found

    found.keep(folder, results)
