"""The commands that score text: as it is, and beyond the length that networks were trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from headtohead.cli.base import ANSWER, AsJson, ManyValues, app, at_least, complete_run
from headtohead.errors import Interrupted, UserError


@app.command(
    cls=ManyValues, rich_help_panel=ANSWER, short_help="What text costs trained networks, in bits per byte."
)
def score(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders of finished runs, or of models.", autocompletion=complete_run
        ),
    ],
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH...", help="Files or folders of .txt, .md and .jsonl: all of it is scored."
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A .jsonl file of input and output: outputs are scored."),
    ] = None,
    field: Annotated[
        str, typer.Option(metavar="NAME", help="The field of a .jsonl line that holds the text.")
    ] = "text",
    window: Annotated[
        int,
        typer.Option(
            metavar="BYTES", parser=at_least(16), help="Of text: what is given and what is scored, together."
        ),
    ] = 512,
    overlap: Annotated[
        int | None,
        typer.Option(
            metavar="BYTES",
            parser=at_least(0),
            help="Of each window, given and not scored: the end of the window before.",
            show_default="half the window",
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(metavar="N", parser=at_least(1), help="Windows at once; scores don't depend on it.")
    ] = 16,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keep what each document cost, a line each (.jsonl); stopped, the same command goes on from it.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score text by trained networks: nats, bits per byte and per token, of the same bytes for all of them.

    Networks that fill holes have a pseudo-likelihood, in a table of its own. See docs/scoring.md.
    """
    if (text is None) == (pairs is None):
        raise UserError("give what to score by one of --text PATH... and --pairs FILE")
    from headtohead.cli.progress import Passing
    from headtohead.interop.score_runs import of_pairs, of_texts, print_scores, score_runs

    asked: dict[str, Any] = {}
    if pairs is not None:
        documents = of_pairs(pairs)
        asked["pairs"] = str(pairs)
    else:
        given = window // 2 if overlap is None else overlap
        documents = of_texts(text or [], field, window, given)
        asked = {"text": [str(path) for path in text or []], "window_bytes": window, "overlap_bytes": given}
    passing = Passing()
    try:
        told = score_runs(folders, documents, asked, batch_size=batch, keep=keep, report=passing)
    except KeyboardInterrupt:
        rest = (
            f"what is scored is in {keep}, and the same command goes on"
            if keep
            else "--keep FILE would keep it"
        )
        raise Interrupted(f"interrupted; {rest}") from None
    passing.end()
    if as_json:
        typer.echo(json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        print_scores(told)


@app.command(
    cls=ManyValues,
    rich_help_panel=ANSWER,
    short_help="How networks do beyond the length they were trained on.",
)
def lengths(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders of finished runs, or of models.", autocompletion=complete_run
        ),
    ],
    text: Annotated[
        list[Path],
        typer.Option(
            metavar="PATH...", help="Files or folders of text with documents of the longest length."
        ),
    ],
    field: Annotated[
        str, typer.Option(metavar="NAME", help="The field of a .jsonl line that holds the text.")
    ] = "text",
    length: Annotated[
        int | None,
        typer.Option(
            metavar="BYTES",
            parser=at_least(32),
            help="The training length, of input and output together.",
            show_default="of the runs' longest examples, the shortest",
        ),
    ] = None,
    up_to: Annotated[
        int, typer.Option(metavar="N", parser=at_least(1), help="The longest length, in training lengths.")
    ] = 8,
    blocks: Annotated[
        int,
        typer.Option(metavar="N", parser=at_least(2), help="Blocks of the longest length that are scored."),
    ] = 32,
    attention: Annotated[
        bool, typer.Option("--attention/--no-attention", help="Whether to tell where attention looks.")
    ] = True,
    chart: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it: .svg, .png, or Vega-Lite as .json.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bits per byte by total length and by position, up to 8 times the training length, with where attention looks.

    The same bytes are scored at each length. What positions a network has no place for is said. See docs/lengths.md.
    """
    from headtohead.cli.progress import Passing
    from headtohead.interop.length_runs import check_chart, lengths_of_runs, print_lengths, write_chart

    if chart is not None:
        check_chart(chart)
    passing = Passing()
    told = lengths_of_runs(
        folders,
        text,
        field=field,
        trained_bytes=length,
        up_to=up_to,
        most_blocks=blocks,
        attention=attention,
        report=passing,
    )
    passing.end()
    if chart is not None:
        write_chart(told, chart)
    if as_json:
        typer.echo(json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        print_lengths(told)
