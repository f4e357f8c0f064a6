"""The command that fits scaling laws to anyone's table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from headtohead.cli.base import ANSWER, AsJson, Command, app, at_least
from headtohead.cli.progress import Line


@app.command(cls=Command, rich_help_panel=ANSWER, short_help="Fit a scaling law to a table of losses.")
def fit(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A CSV file with a header: a row for each run.")
    ],
    law: Annotated[
        Literal["chinchilla", "power", "isoflop"],
        typer.Option(help="Chinchilla's law of N and D, a power law of one column, or IsoFLOP parabolas."),
    ] = "chinchilla",
    x: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN[,COLUMN]",
            help="Parameters and training tokens, in this order, for chinchilla (parameters alone: tokens are "
            "compute / 6N); parameters for isoflop; any one column for power.",
            show_default="N,D or N",
        ),
    ] = None,
    y: Annotated[str, typer.Option(metavar="COLUMN", help="The loss.")] = "loss",
    by: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Fit each of this column's values, an arm, and compare them."),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Another way of counting the first column of --x: its exponents are told beside. Repeatable.",
            show_default=False,
        ),
    ] = None,
    compute: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Training FLOPs: C = 6ND if there is no such column. Repeatable: another way of counting.",
            show_default="C",
        ),
    ] = None,
    drop_largest_losses: Annotated[
        int,
        typer.Option(
            metavar="K", parser=at_least(0), help="Leave out the rows of the K largest losses, of each arm."
        ),
    ] = 0,
    method: Annotated[
        Literal["huber", "projection"],
        typer.Option(help="Huber's loss of log losses, or least squares of losses by variable projection."),
    ] = "huber",
    bootstrap: Annotated[
        int, typer.Option(metavar="N", parser=at_least(0), help="Resamples for the intervals; 0 for none.")
    ] = 1000,
    seed: Annotated[int, typer.Option(metavar="N", parser=at_least(0), help="Of the resamples.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit a scaling law to a table of runs: parameters with 95 % intervals, the largest size held out and
    predicted, the best size for a budget.

    The irreducible loss E is zero or more, and it is said when it is at that bound. With --by, arms are compared
    by the interval of the difference of their exponents.
    """
    from headtohead.measure.scaling import arms, fitting, telling

    asked = fitting.Asked(
        law=law,
        x=() if x is None else tuple(name.strip() for name in x.split(",")),
        y=y,
        also=tuple(also or ()),
        compute=tuple(compute or ("C",)),
        method=method,
        resamples=bootstrap,
        seed=seed,
        drop_largest=drop_largest_losses,
    )
    found = arms.fit_file(file, asked, by, _progress())
    if as_json:
        typer.echo(json.dumps(found, indent=1, allow_nan=False))
    else:
        telling.print_fit(found)


def _progress() -> Callable[[int, int], None] | None:
    """How far the resamples are, on a terminal, once it takes more than 2 seconds."""
    line = Line()
    if not line.live:
        return None
    start = shown = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - start > 2 and now - shown > 0.5 and done:
            shown = now
            left = (now - start) * (total - done) / done
            line.show(f"{done:,} of {total:,} resamples, about {left:.0f} s left ")
        if done >= total and shown != start:
            line.end()

    return tell
