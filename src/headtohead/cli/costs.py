"""The command that tells what a dialogue costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headtohead.cli.base import LOOK, AsJson, Command, app, at_least, complete_preset


@app.command(
    cls=Command, rich_help_panel=LOOK, short_help="What a dialogue costs turn by turn: FLOPs, bytes, time."
)
def cost(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|RUN",
            help="Presets, runs or model folders. Left out: a causal and a prefix decoder, RedLLM with a full and with "
            "a causal encoder, and a block double decoder, of equal parameters.",
            autocompletion=complete_preset,
            show_default=False,
        ),
    ] = None,
    turns: Annotated[int, typer.Option(metavar="N", parser=at_least(1), help="Turns.")] = 10,
    input_tokens: Annotated[
        int, typer.Option("--input", metavar="N", parser=at_least(1), help="Tokens said in each turn.")
    ] = 200,
    output_tokens: Annotated[
        int, typer.Option("--output", metavar="M", parser=at_least(1), help="Tokens written in each turn.")
    ] = 50,
    dtype: Annotated[
        str, typer.Option(metavar="TYPE", help="Of weights and KV cache: bf16, fp16, fp32.")
    ] = "bf16",
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Model milliseconds on a device by its data sheet: a100, h100, …",
            show_default=False,
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Hold the dialogue on this machine, and time it.")
    ] = False,
    rounds: Annotated[
        int, typer.Option(metavar="N", parser=at_least(1), help="With --measure: the fastest of so many.")
    ] = 3,
    chart: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it: .html, .svg or .png.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print what each turn of a dialogue costs: FLOPs, bytes and milliseconds, for each network.

    What its visibility rules let a network keep from turn to turn is kept, and the rest is read again: a causal decoder
    keeps everything, one that sees its whole input reads all of it anew. Computed from the description alone; with
    --measure also held and timed on this machine, beside what its matrix products and its memory let expect.
    """
    from headtohead.measure.cost import Dialogue
    from headtohead.study import costing

    dialogue = Dialogue(turns, input_tokens, output_tokens, dtype)
    costing.print_cost(
        names or [], dialogue, measure=measure, rounds=rounds, on=device, as_json=as_json, chart=chart
    )
