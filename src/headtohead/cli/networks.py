"""Commands that look at networks, before anything is built or trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headtohead.cli.base import LOOK, AsJson, Command, ManyValues, app, at_least, complete_preset
from headtohead.errors import UserError


@app.command(
    cls=Command,
    rich_help_panel=LOOK,
    short_help="Parameters, FLOPs and cache bytes, before anything is built.",
)
def budget(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Presets, such as decllm-150m or redllm-8b.",
            autocompletion=complete_preset,
            show_default=False,
        ),
    ] = None,
    input_tokens: Annotated[
        int, typer.Option("--input", metavar="N", parser=at_least(0), help="Tokens of input.")
    ] = 1024,
    output_tokens: Annotated[
        int, typer.Option("--output", metavar="M", parser=at_least(0), help="Tokens of output.")
    ] = 1024,
    dtype: Annotated[
        str, typer.Option(metavar="TYPE", help="The KV cache's type: bf16, fp16, fp32.")
    ] = "bf16",
    as_json: AsJson = False,
    list_: Annotated[
        bool, typer.Option("--list", help="List the families of presets and their sizes.")
    ] = False,
) -> None:
    """Print what networks cost: parameters, FLOPs for one example, and bytes of KV cache.

    Computed from the description alone; nothing is built. With two or more networks, each is also given as a
    ratio to the first.

    Names are a family and a size, as in redllm-nano or gpt-2-small; --list shows them all. JSON has the
    parameters by group and the FLOPs under the literature's conventions too.
    """
    from headtohead.study import tables

    if list_:
        tables.print_families()
        return
    if not names:
        raise UserError("name a network, such as decllm-150m; headtohead budget --list shows them all")
    tables.print_budget(names, input_tokens, output_tokens, dtype, as_json)


@app.command(
    cls=Command,
    rich_help_panel=LOOK,
    short_help="Bring one network to another's parameters, FLOPs or cache.",
)
def match(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The preset to resize.", autocompletion=complete_preset)
    ],
    to: Annotated[
        str, typer.Option(metavar="NAME", help="The preset to match.", autocompletion=complete_preset)
    ],
    on: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="parameters, non_embedding, training_flops, inference_flops or cache_bytes.",
        ),
    ] = "parameters",
    input_tokens: Annotated[
        int, typer.Option("--input", metavar="N", parser=at_least(0), help="Tokens of input.")
    ] = 1024,
    output_tokens: Annotated[
        int, typer.Option("--output", metavar="M", parser=at_least(0), help="Tokens of output.")
    ] = 1024,
    tolerance: Annotated[float, typer.Option(metavar="X", help="How far off is still a match.")] = 0.01,
    as_json: AsJson = False,
) -> None:
    """Bring one network to another's parameters, FLOPs or cache, in whole numbers of layers and widths.

    Prints what had to change, how far off the match is, and every other quantity beside it: networks that are
    equal in one are never equal in all.
    """
    from headtohead.study import tables

    tables.print_match(name, to, on, input_tokens, output_tokens, tolerance, as_json)


@app.command(
    "explain-batch", cls=ManyValues, rich_help_panel=LOOK, short_help="Show one real batch, token by token."
)
def explain_batch(
    target: Annotated[
        Path, typer.Argument(metavar="STUDY|RUN", help="A study file, or the folder of a run.")
    ],
    arm: Annotated[
        str | None, typer.Option(metavar="KEY", help="The arm of a study.", show_default="the first")
    ] = None,
    example: Annotated[
        int, typer.Option(metavar="N", parser=at_least(1), help="Which example of the row.")
    ] = 1,
    tokens: Annotated[
        int, typer.Option(metavar="N", parser=at_least(1), help="Tokens shown of each stream, at most.")
    ] = 48,
    text: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH...", help="Your own text in place of the embedded corpus."),
    ] = None,
) -> None:
    """Show the first batch that an arm trains on: tokens, parts, positions, segments, targets and loss.

    For a study, its text is prepared as the study would (it takes seconds), in a temporary folder. Short examples
    are drawn with who sees whom, head by head.
    """
    from headtohead.study import explaining

    explaining.explain(target, arm, example, tokens, text or [])


@app.command(cls=Command, rich_help_panel=LOOK, short_help="Which objectives make sense for which networks.")
def objectives(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Presets; one of each kind if left out.",
            autocompletion=complete_preset,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print which objectives make sense for which networks, and why the others don't."""
    from headtohead.study import objectives as told

    told.print_objectives(names or [])


@app.command(
    cls=Command, rich_help_panel=LOOK, short_help="What training a network takes of memory, by part."
)
def memory(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME", help="Presets.", autocompletion=complete_preset)
    ],
    batch: Annotated[
        int, typer.Option(metavar="N", parser=at_least(1), help="Examples in a micro-batch.")
    ] = 8,
    input_tokens: Annotated[
        int, typer.Option("--input", metavar="N", parser=at_least(1), help="Tokens of input.")
    ] = 128,
    output_tokens: Annotated[
        int, typer.Option("--output", metavar="M", parser=at_least(1), help="Tokens of output.")
    ] = 128,
    precision: Annotated[
        str, typer.Option(metavar="TYPE", help="What is computed in: fp32 or bf16.")
    ] = "bf16",
    optimizer: Annotated[
        str, typer.Option(metavar="NAME", help="adamw, muon, adafactor or adafactor-factored.")
    ] = "adamw",
    as_json: AsJson = False,
) -> None:
    """Print what training takes of memory: weights, gradients, optimizer, activations by part, the loss.

    Counted by running the network's own code on tensors without data: at any size, on any machine, exact for
    eager training.
    """
    from headtohead.study import memory as counting

    counting.print_memory(names, batch, input_tokens, output_tokens, precision, optimizer, as_json)


@app.command(cls=Command, rich_help_panel=LOOK, short_help="Draw who sees whom in a network.")
def draw(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A preset.", autocompletion=complete_preset)],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="A picture to write, in place of the terminal.")
    ] = None,
) -> None:
    """Draw a network: its stacks, and who sees whom, for every list of layers and group of heads.

    In the terminal, or as one SVG picture with --out.
    """
    from headtohead.study import drawing, terminal

    if out is None:
        terminal.show(name)
    else:
        drawing.draw(name, out)
