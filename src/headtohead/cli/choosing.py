"""The command that finds the architecture for somebody's own data and budget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headtohead.cli.base import ANSWER, ManyValues, Workers, app, at_least, exports

DATA, SERVING = "Your data", "How it will be used"


@app.command(
    cls=ManyValues, rich_help_panel=ANSWER, short_help="Find the architecture for your data and minutes."
)
def choose(
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH...", help="Your text: files or folders of .txt, .md, .jsonl.", rich_help_panel=DATA
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Your pairs: a .jsonl file with "input" and "output" in each line.',
            rich_help_panel=DATA,
        ),
    ] = None,
    field: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="The field of a .jsonl line that holds the text.", rich_help_panel=DATA
        ),
    ] = "text",
    minutes: Annotated[
        float, typer.Option(metavar="M", help="How long it may take, about, the final training included.")
    ] = 60.0,
    serve_input: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=at_least(2),
            help="Tokens that a request will bring.",
            show_default="the average of the data",
            rich_help_panel=SERVING,
        ),
    ] = None,
    serve_output: Annotated[
        int | None,
        typer.Option(
            metavar="M",
            parser=at_least(2),
            help="Tokens of an answer.",
            show_default="the average of the data",
            rich_help_panel=SERVING,
        ),
    ] = None,
    max_latency_ms: Annotated[
        float | None,
        typer.Option(
            metavar="MS", help="The most that an answer may take on this machine.", rich_help_panel=SERVING
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")] = Path("runs/choose"),
    workers: Workers = None,
) -> None:
    """Find the architecture for your data and your minutes.

    Four architectures, brought to equal cost to serve, are tuned with the same trials and compared under three seeds at
    two sizes on your own data. The page (index.html in the folder) recommends one with its interval and cost, or says
    that it isn't settled and what would settle it; the recommended network is trained in the time that is left.
    Stopped or killed, the same command goes on where it was.
    """
    from headtohead.study.choosing import stages

    request = stages.Request(
        tuple(text or ()), pairs, field, minutes, serve_input, serve_output, max_latency_ms, out, workers
    )
    stages.choose(request, exports)
