"""The command that plans for many devices."""

from __future__ import annotations

from typing import Annotated

import typer

from headtohead.cli.base import LOOK, AsJson, Command, app, at_least, complete_preset


@app.command(
    cls=Command, rich_help_panel=LOOK, short_help="What training would take of devices: memory and time."
)
def plan(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Presets; the paper's ten networks if left out.",
            autocompletion=complete_preset,
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="a100, h100, h200, b200, l4, rtx4090, mi300x, tpu-v5p, or cpu: measured."
        ),
    ] = "h100",
    devices: Annotated[int, typer.Option(metavar="N", parser=at_least(1), help="How many of it.")] = 1,
    batch: Annotated[
        int, typer.Option(metavar="N", parser=at_least(1), help="Examples in a step, over all devices.")
    ] = 2048,
    input_tokens: Annotated[
        int, typer.Option("--input", metavar="N", parser=at_least(1), help="Tokens of input.")
    ] = 1024,
    output_tokens: Annotated[
        int, typer.Option("--output", metavar="M", parser=at_least(1), help="Tokens of output.")
    ] = 1024,
    steps: Annotated[int, typer.Option(metavar="N", parser=at_least(1), help="Optimizer steps.")] = 400_000,
    precision: Annotated[
        str, typer.Option(metavar="TYPE", help="What is computed in: bf16, or fp32 on a cpu.")
    ] = "bf16",
    optimizer: Annotated[
        str, typer.Option(metavar="NAME", help="adafactor (without factorisation, the paper's) or adamw.")
    ] = "adafactor",
    share: Annotated[float, typer.Option(metavar="X", help="Share of the peak that products reach.")] = 0.4,
    paper: Annotated[bool, typer.Option("--paper", help="The paper's ten pre-training runs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print what fits and how long training would take: memory by part under DDP and FSDP2, with and without
    activation checkpointing, the largest micro-batch, and the time of a step and of the whole run.

    Worked out from descriptions and data sheets; the assumptions stand below the figures. On a cpu, this machine's
    own pace is measured with a few steps of shallower networks.

    The defaults are the recipe of the ten networks of RedLLM's paper (arXiv 2510.26622).
    """
    from headtohead.errors import UserError
    from headtohead.study import planning

    if paper and names:
        raise UserError("--paper is for the paper's ten networks: leave the names out")
    work = planning.Workload(batch, input_tokens, output_tokens, steps, precision, optimizer)
    planning.print_plan(names or [], device, devices, work, share, as_json)
