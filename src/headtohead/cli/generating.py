"""Commands by which a network writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headtohead.cli.base import ANSWER, AsJson, Command, app, at_least, complete_run

Run = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A finished run, or a model folder.", autocompletion=complete_run),
]
Temperature = Annotated[
    float, typer.Option(metavar="X", help="0: always the likeliest token; above, a draw.")
]
TopK = Annotated[
    int, typer.Option("--top-k", metavar="N", parser=at_least(0), help="Among the N likeliest; 0: all.")
]
TopP = Annotated[
    float,
    typer.Option("--top-p", metavar="X", help="Among the likeliest that hold this probability together."),
]
MinP = Annotated[
    float, typer.Option("--min-p", metavar="X", help="Among those at least X times as likely as the first.")
]
Penalty = Annotated[
    float,
    typer.Option("--repetition-penalty", metavar="X", help="Above 1: what is there already is less likely."),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", parser=at_least(0), help="Of the draws.", show_default="another each time"),
]
Stop = Annotated[
    list[str] | None, typer.Option(metavar="TEXT", help="Ends the text, which is cut before it; repeatable.")
]
Precision = Annotated[str, typer.Option(metavar="TYPE", help="What it computes in: bf16 or fp32.")]
Quantize = Annotated[str | None, typer.Option(metavar="TYPE", help="int8: weights in int8, by torchao.")]
Threads = Annotated[
    int | None,
    typer.Option(metavar="N", parser=at_least(1), help="Threads.", show_default="one for each core"),
]
Context = Annotated[
    int,
    typer.Option(
        metavar="N", parser=at_least(2), help="Tokens that there is room for, of the prompt and the answer."
    ),
]


@app.command(cls=Command, rich_help_panel=ANSWER, short_help="Let a network write on from a text.")
def generate(
    run: Run,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="What it is given; repeatable. Holes are written <mask> for a network that fills.",
        ),
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The input, where --prompt is the beginning of the output."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help='Many: lines of {"prompt": …}, perhaps with an "input".'),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", parser=at_least(1), help="New tokens at most.")
    ] = 64,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.0,
    beams: Annotated[
        int, typer.Option(metavar="N", parser=at_least(1), help="Search for the likeliest text among N.")
    ] = 1,
    length_penalty: Annotated[
        float,
        typer.Option(
            "--length-penalty", metavar="X", help="Of a beam search: scores by length to this power."
        ),
    ] = 1.0,
    n: Annotated[
        int, typer.Option("--n", metavar="N", parser=at_least(1), help="Texts for each prompt.")
    ] = 1,
    seed: Seed = None,
    stop: Stop = None,
    logprobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", parser=at_least(0), help="With --json: ln p of each token and of the N likeliest."
        ),
    ] = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream", help="Show text as it comes.", show_default="for one text without --json"
        ),
    ] = None,
    precision: Precision = "bf16",
    quantize: Quantize = None,
    batch: Annotated[
        int, typer.Option(metavar="N", parser=at_least(1), help="Texts written at the same time, at most.")
    ] = 16,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Let a network write: greedily, by drawing, or by a beam search.

    A decoder goes on from the prompt, an encoder-decoder answers it, a network that fills holes fills those that are
    written <mask>. What a seed draws does not depend on what else is written at the same time.
    """
    from headtohead.interop import writing_cli

    settings = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "beams": beams,
        "length_penalty": length_penalty,
        "n": n,
        "seed": seed,
        "stop": stop or [],
        "logprobs": logprobs,
    }
    asked = writing_cli.asked_for(prompt or [], input, prompts)
    machine = writing_cli.Machine(precision, quantize, threads, batch)
    writing_cli.generate(run, asked, settings, machine, stream, as_json, typer.echo)


@app.command(cls=Command, rich_help_panel=ANSWER, short_help="Talk to a network in the terminal.")
def chat(
    run: Run,
    max_tokens: Annotated[
        int,
        typer.Option("--max-tokens", metavar="N", parser=at_least(1), help="Tokens of an answer at most."),
    ] = 128,
    context: Context = 1024,
    temperature: Temperature = 0.7,
    top_k: TopK = 0,
    top_p: TopP = 0.95,
    min_p: MinP = 0.0,
    repetition_penalty: Penalty = 1.1,
    seed: Seed = None,
    stop: Stop = None,
    precision: Precision = "bf16",
    quantize: Quantize = None,
    threads: Threads = None,
) -> None:
    """Talk to a network: it remembers what was said, as far as there is room.

    /reset forgets it, /quit (or Ctrl-D) ends, Ctrl-C stops an answer. Of each turn the network reads only what its
    visibility rules don't let it keep of those before.
    """
    from headtohead.interop import writing_cli

    settings = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": stop or [],
    }
    machine = writing_cli.Machine(precision, quantize, threads, 1)
    writing_cli.chat(run, settings, machine, context)
