"""The command that trains one network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headtohead.cli.base import TRAIN, ManyValuesBySeveral, app, at_least, complete_run, exports

DATA = "Your data"


@app.command(cls=ManyValuesBySeveral, rich_help_panel=TRAIN, short_help="Train one network on one corpus.")
def train(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME|FILE.toml",
            help="A preset, such as decllm-nano, or a file, see docs/training.md.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH...",
            help="Text to train on, in place of the embedded corpus: files or folders of .txt, .md, .jsonl.",
            rich_help_panel=DATA,
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Pairs: a .jsonl file with "input" and "output" in each line.',
            rich_help_panel=DATA,
        ),
    ] = None,
    shards: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="What headtohead shard made, of text of any size.", rich_help_panel=DATA
        ),
    ] = None,
    field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The field of a .jsonl line that holds the text.", rich_help_panel=DATA
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", parser=at_least(1), help="Optimizer steps.", show_default="1000"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run's folder.", show_default="runs/NAME")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with this run.", autocompletion=complete_run),
    ] = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="First weights from a finished run or a model folder, role by role, also across architectures.",
            autocompletion=complete_run,
        ),
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(metavar="TRACKER", help="Also tell tensorboard, wandb or trackio.", show_default=False),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE...",
            help="Change a value of the description: --set recipe.learning_rate=1e-3",
        ),
    ] = None,
) -> None:
    """Train one network on one corpus.

    Shows loss, bits per byte, tokens a second, the share of the machine's peak, memory and the time that is left;
    Ctrl-C saves, and says how to go on. What comes out is the folder of a run, for headtohead.load, explain-batch,
    diff and export.
    """
    from headtohead.study import solo

    def read_network(folder: Path) -> solo.Origin:
        from headtohead.interop.folders import read_folder

        held = read_folder(folder)
        return solo.Origin(str(folder), held.architecture, held.weights, held.tokenizer)

    solo.train(
        solo.Words(what, text or [], pairs, shards, field, steps, init_from, out, resume, track, set_ or []),
        read_network,
        exports,
    )
