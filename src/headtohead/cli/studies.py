"""Commands that ask a question, and those a study calls itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headtohead.cli.base import ANSWER, INSIDE, BySeveral, Command, ManyValues, Workers, app, complete_run
from headtohead.errors import UserError


@app.command(cls=ManyValues, rich_help_panel=ANSWER, short_help="Run a study file and write its page.")
def study(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The study: a TOML file, see studies/.")],
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH...",
            help="Your own text in place of the embedded corpus: files or folders of .txt, .md, .jsonl.",
            rich_help_panel="Your own data",
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Your own pairs: a .jsonl file with "input" and "output" in each line.',
            rich_help_panel="Your own data",
        ),
    ] = None,
    field: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The field of a .jsonl line that holds the text.",
            rich_help_panel="Your own data",
        ),
    ] = "text",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to write.", show_default="runs/<the study's name>"),
    ] = None,
    workers: Workers = None,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Where the runs are computed: ray (a local one), ray:auto (the cluster of this machine), "
            "ray://HOST:PORT, slurm, or slurm:local. The folder of --out must be visible there.",
            show_default="this machine",
            rich_help_panel="A cluster",
        ),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="An option of sbatch for each job, again for each: --slurm partition=cpu --slurm time=4:00:00",
            rich_help_panel="A cluster",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Do a part of the runs, such as 1/2, in a folder of its own; headtohead report DIR DIR --out DIR puts "
            "the parts together.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs, the match, FLOPs and time; start nothing.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE...", help="Change a value of the study file: --set margin=0.02"
        ),
    ] = None,
) -> None:
    """Run a study and write its page.

    First a rehearsal: every arm once, short, in minutes. Then the full runs, in an order that keeps the arms
    level; the page (report.html in the folder) is renewed after each. Stopped or killed, the same command
    goes on where it was, and no finished run is repeated.
    """
    from headtohead.study import runner

    runner.study(
        file=file,
        text=text or [],
        pairs=pairs,
        field=field,
        out=out,
        workers=workers,
        dry_run=dry_run,
        overrides=set_ or [],
        on=on,
        slurm=slurm or [],
        shard=shard,
    )


@app.command(
    cls=Command, rich_help_panel=ANSWER, short_help="Write a study's page again, from what is finished."
)
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="The folders of a study, or of several.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where several are put together: plan, results and one page for all."
        ),
    ] = None,
) -> None:
    """Write a study's page again (report.html, report.md, the figures), from the runs finished so far.

    Several folders are put together first: the shards of a study, more seeds of it, or other arms on the same text.
    A run that is in two of them counts once.
    """
    from headtohead.study import report as pages

    if out is None and len(folders) > 1:
        raise UserError("report: say where several folders are put together, such as --out runs/joined")
    if out is not None:
        from headtohead.study import parting

        pages.write_report(parting.joined(folders, out))
        typer.echo(f"{out / 'report.html'}: {len(folders)} folders put together")
        return
    pages.write_report(folders[0])


@app.command(cls=Command, rich_help_panel=ANSWER, short_help="Show every difference between two runs.")
def diff(
    first: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a run.", autocompletion=complete_run)
    ],
    second: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of another.", autocompletion=complete_run)
    ],
) -> None:
    """Show every difference between two runs: description, recipe, data, and the ledger of what they used."""
    from headtohead.study import difference

    difference.print_difference(first, second)


@app.command(
    "run",
    cls=BySeveral,
    rich_help_panel=INSIDE,
    short_help="Do one run of a study (the study calls this itself).",
)
def run_one(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the run, with its run.json.")],
) -> None:
    """Do one run: claim its folder, train from its last checkpoint on, score, write its result.

    A study starts this command once for each run. By hand it serves to repeat or to finish a single one.
    """
    from headtohead.study import worker

    raise typer.Exit(worker.run(folder))
