"""Commands that bring networks in and hand them over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headtohead.cli.base import EXCHANGE, Command, app, complete_run


@app.command(
    "import", cls=Command, rich_help_panel=EXCHANGE, short_help="Bring in a network of transformers."
)
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A folder of transformers, a .gguf file, or a name on the Hugging Face hub."
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The model folder to write.")],
    gguf_file: Annotated[
        str | None, typer.Option(metavar="NAME", help="The GGUF file to read in the folder SRC.")
    ] = None,
) -> None:
    """Bring in a network of transformers, weights and tokenizer, as a model folder.

    GPT-2, Llama, Qwen3, T5, BART, BERT, RoFormer and T5Gemma, which give the same answers here as there. Only
    safetensors and GGUF are read. What the folder holds is used from Python: headtohead.load.
    """
    from headtohead.interop import hub

    left = hub.import_network(source, out, gguf_file)
    typer.echo(f"{out}: {hub.described(out)}")
    if left:
        typer.echo(f"left out, as no part of the network: {', '.join(left)}")


@app.command(cls=Command, rich_help_panel=EXCHANGE, short_help="Hand a network over to other programs.")
def export(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A finished run, or a model folder.", autocompletion=complete_run),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")],
    format: Annotated[
        str,
        typer.Option(
            metavar="FORMAT", help="hf: for transformers; gguf: for llama.cpp and Ollama; onnx: a graph."
        ),
    ] = "hf",
    precision: Annotated[
        str, typer.Option(metavar="TYPE", help="Of a GGUF file's matrices: fp32 or bf16.")
    ] = "fp32",
) -> None:
    """Hand a network over, with its tokenizer and a model card that tells what it is, what it consumed and the study
    it came from.

    hf: as a network of transformers' own where one computes exactly the same (GPT-2, Llama, Qwen3, T5, BART, BERT,
    RoFormer and T5Gemma, and what has their form), and otherwise with a class of ours: after `import headtohead`,
    transformers' Auto classes load it.

    gguf: networks of Llama's and Qwen3's form; what llama.cpp doesn't compute is refused by name.

    onnx: every network, as the full pass without a cache; the graph is run and compared before it is handed over.
    """
    from headtohead.interop import hub

    typer.echo(f"{out}: {hub.export_network(run, out, format, precision)}")
