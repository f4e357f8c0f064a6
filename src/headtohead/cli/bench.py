"""Commands that measure speed."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from headtohead.cli.base import TRAIN, AsJson, Command, Group, app, at_least, complete_preset

bench = typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(
    bench,
    name="bench",
    rich_help_panel=TRAIN,
    short_help="Measure speed, beside other programs and the machine's limit.",
    help="""Measure speed as a share of the machine's limit and as a ratio to other programs, in one run.

    Absolute times of a shared machine mean little; what is printed first is what doesn't depend on its mood.""",
)


@bench.command(cls=Command, short_help="A training step, beside transformers' of the same shape.")
def train(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Presets; decllm-mini and redllm-mini (17M) if left out.",
            autocompletion=complete_preset,
            show_default=False,
        ),
    ] = None,
    against: Annotated[str, typer.Option(metavar="PEERS", help="transformers, or none.")] = "transformers",
    rows: Annotated[int, typer.Option(metavar="N", parser=at_least(1), help="Rows of a step.")] = 8,
    length: Annotated[
        int, typer.Option(metavar="N", parser=at_least(4), help="Tokens of a row, half of them input.")
    ] = 512,
    threads: Annotated[int, typer.Option(metavar="N", parser=at_least(1), help="Threads.")] = 2,
    rounds: Annotated[int, typer.Option(metavar="N", parser=at_least(1), help="Timed rounds.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Time whole training steps in bf16 (forward, backward, clipping, optimizer) in turns with those of
    transformers' network of the same shape, eager and compiled.

    The share of the peak is of the fastest bf16 matrix product that the machine showed in the same run.
    """
    from headtohead.interop.bench import training

    peers = [peer for peer in against.split(",") if peer not in ("", "none")]
    setting = training.Setting(rows, length, threads, rounds)
    found = training.bench_train(names or [], peers, setting, lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        training.print_figures(found)


@bench.command(cls=Command, short_help="Writing after a prompt, beside transformers' generate or llama.cpp.")
def decode(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|RUN",
            help="Presets or folders of networks; decllm-mini and redllm-mini (17M) if left out.",
            autocompletion=complete_preset,
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str, typer.Option(metavar="PEERS", help="transformers, llama.cpp, both with a comma, or none.")
    ] = "transformers",
    prompt: Annotated[int, typer.Option(metavar="N", parser=at_least(1), help="Tokens of prompt.")] = 128,
    new: Annotated[int, typer.Option(metavar="N", parser=at_least(2), help="Tokens written.")] = 128,
    batches: Annotated[
        str, typer.Option(metavar="N,N", help="How many texts at once, of each measurement.")
    ] = "1,8,32",
    quantize: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", help="int8: also weights in int8, with what they cost in bits per byte."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(metavar="N", parser=at_least(1), help="Threads.")] = 2,
    rounds: Annotated[int, typer.Option(metavar="N", parser=at_least(1), help="Timed rounds.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Time writing in bf16, greedily, in turns with transformers' network of the same shape, and with llama.cpp's.

    The share of the limit is that of the time it takes to read every weight once, at the fastest reading of memory that
    the machine showed in the same run.
    """
    from headtohead.errors import UserError
    from headtohead.interop.bench import decoding

    if quantize not in (None, "int8"):
        raise UserError(f"--quantize {quantize}: it should be int8")
    peers = [peer for peer in against.split(",") if peer not in ("", "none")]
    sizes = tuple(at_least(1)(word) for word in batches.split(","))
    setting = decoding.Setting(prompt, new, sizes, threads, rounds)
    found = decoding.bench_decode(
        names or [], peers, setting, quantize is not None, lambda line: typer.echo(line, err=True)
    )
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        decoding.print_figures(found)
