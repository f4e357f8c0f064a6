"""The command line: what there is to ask for, and how errors are told.

Only typer is imported here. Each command imports what it needs when it is called, so that ``--help`` answers
at once and ``budget``, ``draw`` and ``study --dry-run`` never wait for torch. Errors are told in one place,
`run`.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from headtohead import __version__
from headtohead.errors import Interrupted, UserError
from headtohead.files import explain_os_error

PROGRAM = "headtohead"
ANSWER, LOOK, INSIDE = "Answer a question", "Look at a network", "Inside a study"
EXCHANGE = "Exchange networks"


class Readable:
    """Help as it is meant to be read: paragraphs flow to the width of the terminal, flags show no type."""

    def __init__(self, *args: Any, help: str | None = None, **settings: Any) -> None:
        if help:
            paragraphs = inspect.cleandoc(help).split("\n\n")
            help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        settings["help"] = help
        super().__init__(*args, **settings)

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, with a blank where a flag would show ``<bool>`` and an argument ``<path>``."""
        params: list[Any] = super().get_params(ctx)  # pyright: ignore[reportAttributeAccessIssue]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = " "
            elif param.param_type_name == "argument":
                param.display_type_rich = lambda ctx: None
        return params

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The usage line without braces around what is required: ``study [OPTIONS] FILE``."""
        pieces: list[str] = super().collect_usage_pieces(ctx)  # pyright: ignore[reportAttributeAccessIssue]
        return [piece.replace("{", "").replace("}", "") for piece in pieces]


class Group(Readable, TyperGroup):
    """The program."""


class Command(Readable, TyperCommand):
    """One command of it."""


class ManyValues(Command):
    """A command whose ``--text a b c`` and ``--set x=1 y=2`` take several values, as people write them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ``args`` with the options repeated; see `spread`."""
        return super().parse_args(ctx, spread(args))


def spread(arguments: Sequence[str]) -> list[str]:
    """Repeat the option before each further value: ``--text a b`` becomes ``--text a --text b``.

    What follows belongs to ``--text`` unless it is an option or a study file (``.toml``), and to ``--set`` if
    it has the form ``key=value``; so the study file may stand before or after them.
    """
    result: list[str] = []
    option: str | None = None  # the option whose values are being read
    first = False  # whether the next word is its first value, which is its own whatever it looks like
    for place, word in enumerate(arguments):
        if word == "--":
            return [*result, *arguments[place:]]
        if option is not None and not first and not word.startswith("-"):
            more = not word.endswith(".toml") if option == "--text" else "=" in word
            if more:
                result.append(option)
            else:
                option = None
        elif word.startswith("-") and not first:
            option, first = (word, True) if word in ("--text", "--set") else (None, False)
            result.append(word)
            continue
        first = False
        result.append(word)
    return result


app = typer.Typer(
    name=PROGRAM,
    cls=Group,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\n\n".join(
        (
            "[bold]Start here[/bold]",
            "  [cyan]headtohead study studies/first-look.toml --dry-run[/cyan]  what it would run",
            "  [cyan]headtohead study studies/first-look.toml[/cyan]            run it, watch the page",
            "  [cyan]headtohead budget decllm-150m redllm-150m[/cyan]           what two networks cost",
        )
    ),
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


def _complete_preset(incomplete: str) -> list[str]:
    from headtohead.model.presets import preset_names

    return [name for name in preset_names() if name.startswith(incomplete)]


def _complete_run(incomplete: str) -> list[str]:
    return sorted(str(path.parent) for path in Path().glob(f"{incomplete}*/**/run.json"))


def _at_least(lowest: int) -> Callable[[str], int]:
    """A parser of whole numbers from ``lowest`` up, whose error names the value."""

    def parse(value: str | int) -> int:
        try:
            number = int(value)
        except ValueError:
            number = None
        if number is None or number < lowest:
            raise typer.BadParameter(f"'{value}' is not a whole number from {lowest} up")
        return number

    return parse


@app.callback(invoke_without_command=True)
def headtohead(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """A laboratory for language-model architectures.

    Causal decoder, prefix decoder, encoder-decoder, or something in between: for your text and your budget,
    which one, and how sure are we? A study file asks; a page with intervals answers.
    """
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


@app.command(cls=ManyValues, rich_help_panel=ANSWER, short_help="Run a study file and write its page.")
def study(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The study: a TOML file, see studies/.")],
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH...",
            help="Your own text in place of the embedded corpus: files or folders of .txt, .md, .jsonl.",
            rich_help_panel="Your own data",
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='Your own pairs: a .jsonl file with "input" and "output" in each line.',
            rich_help_panel="Your own data",
        ),
    ] = None,
    field: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The field of a .jsonl line that holds the text.",
            rich_help_panel="Your own data",
        ),
    ] = "text",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to write.", show_default="runs/<the study's name>"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=_at_least(1),
            help="Runs side by side, one thread each.",
            show_default="one per core",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the runs, the match, FLOPs and time; start nothing.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE...", help="Change a value of the study file: --set margin=0.02"
        ),
    ] = None,
) -> None:
    """Run a study and write its page.

    First a rehearsal: every arm once, short, in minutes. Then the full runs, in an order that keeps the arms
    level; the page (report.html in the folder) is renewed after each. Stopped or killed, the same command
    goes on where it was, and no finished run is repeated.
    """
    from headtohead.study import runner

    runner.study(
        file=file,
        text=text or [],
        pairs=pairs,
        field=field,
        out=out,
        workers=workers,
        dry_run=dry_run,
        overrides=set_ or [],
    )


@app.command(
    cls=Command, rich_help_panel=ANSWER, short_help="Write a study's page again, from what is finished."
)
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study.")],
) -> None:
    """Write a study's page again (report.html, report.md, the figures), from the runs finished so far."""
    from headtohead.study import report as pages

    pages.write_report(folder)


@app.command(cls=Command, rich_help_panel=ANSWER, short_help="Show every difference between two runs.")
def diff(
    first: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a run.", autocompletion=_complete_run)
    ],
    second: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of another.", autocompletion=_complete_run)
    ],
) -> None:
    """Show every difference between two runs: description, recipe, data, and the ledger of what they used."""
    from headtohead.study import difference

    difference.print_difference(first, second)


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
            autocompletion=_complete_preset,
            show_default=False,
        ),
    ] = None,
    input_tokens: Annotated[
        int, typer.Option("--input", metavar="N", parser=_at_least(0), help="Tokens of input.")
    ] = 1024,
    output_tokens: Annotated[
        int, typer.Option("--output", metavar="M", parser=_at_least(0), help="Tokens of output.")
    ] = 1024,
    dtype: Annotated[
        str, typer.Option(metavar="TYPE", help="The KV cache's type: bf16, fp16, fp32.")
    ] = "bf16",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
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
        str, typer.Argument(metavar="NAME", help="The preset to resize.", autocompletion=_complete_preset)
    ],
    to: Annotated[
        str, typer.Option(metavar="NAME", help="The preset to match.", autocompletion=_complete_preset)
    ],
    on: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="parameters, non_embedding, training_flops, inference_flops or cache_bytes.",
        ),
    ] = "parameters",
    input_tokens: Annotated[
        int, typer.Option("--input", metavar="N", parser=_at_least(0), help="Tokens of input.")
    ] = 1024,
    output_tokens: Annotated[
        int, typer.Option("--output", metavar="M", parser=_at_least(0), help="Tokens of output.")
    ] = 1024,
    tolerance: Annotated[float, typer.Option(metavar="X", help="How far off is still a match.")] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
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
        int, typer.Option(metavar="N", parser=_at_least(1), help="Which example of the row.")
    ] = 1,
    tokens: Annotated[
        int, typer.Option(metavar="N", parser=_at_least(1), help="Tokens shown of each stream, at most.")
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
            autocompletion=_complete_preset,
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
        list[str], typer.Argument(metavar="NAME", help="Presets.", autocompletion=_complete_preset)
    ],
    batch: Annotated[
        int, typer.Option(metavar="N", parser=_at_least(1), help="Examples in a micro-batch.")
    ] = 8,
    input_tokens: Annotated[
        int, typer.Option("--input", metavar="N", parser=_at_least(1), help="Tokens of input.")
    ] = 128,
    output_tokens: Annotated[
        int, typer.Option("--output", metavar="M", parser=_at_least(1), help="Tokens of output.")
    ] = 128,
    precision: Annotated[
        str, typer.Option(metavar="TYPE", help="What is computed in: fp32 or bf16.")
    ] = "bf16",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Print what training takes of memory: weights, gradients, optimizer, activations by part, the loss.

    Counted by running the network's own code on tensors without data: at any size, on any machine, exact for
    eager training.
    """
    from headtohead.study import memory as counting

    counting.print_memory(names, batch, input_tokens, output_tokens, precision, as_json)


@app.command(cls=Command, rich_help_panel=LOOK, short_help="Draw who sees whom in a network.")
def draw(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A preset.", autocompletion=_complete_preset)],
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


@app.command(cls=Command, rich_help_panel=EXCHANGE, short_help="Hand a network over to transformers.")
def export(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="A finished run, or a model folder.", autocompletion=_complete_run
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write.")],
    format: Annotated[str, typer.Option(metavar="FORMAT", help="hf: a folder of transformers.")] = "hf",
) -> None:
    """Hand a network over as a folder that transformers loads.

    Where one of its own networks computes exactly the same: GPT-2, Llama, Qwen3, T5, BART, BERT, RoFormer and
    T5Gemma, and what has their form. Others are refused.
    """
    from headtohead.interop import hub

    typer.echo(f"{out}: {hub.export_network(run, out, format)}")


@app.command(
    "run",
    cls=Command,
    rich_help_panel=INSIDE,
    short_help="Do one run of a study (the study calls this itself).",
)
def run_one(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the run, with its run.json.")],
) -> None:
    """Do one run: claim its folder, train from its last checkpoint on, score, write its result.

    A study starts this command once for each run. By hand it serves to repeat or to finish a single one.
    """
    from headtohead.study import worker

    raise typer.Exit(worker.run(folder))


def run(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit code. The one place where errors are told.

    0: done. 2: something the user can put right, one line on stderr. 130: interrupted. Anything else is a
    defect of the program, and shows its traceback.
    """
    command = typer.main.get_command(app)
    if f"_{PROGRAM.upper()}_COMPLETE" in os.environ:
        return command.main(prog_name=PROGRAM)  # the shell asks for completions, not for a command
    try:
        words = sys.argv[1:] if arguments is None else list(arguments)
        with command.make_context(PROGRAM, words) as context:
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as finished:
        return finished.exit_code
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except typer.TyperException as error:
        return _fail(_usage_message(error))
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted; what is finished is kept", Interrupted.exit_code)
    except BrokenPipeError:
        # The reader (head, less) has gone: no error. Python would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{explain_os_error(error)}")
    return 0


def _fail(message: str, code: int = UserError.exit_code) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


def _usage_message(error: typer.TyperException) -> str:
    """One line for a wrong option or argument, with where to look."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else PROGRAM
    message = " ".join(error.format_message().split()).rstrip(".")
    message = message.replace("Possible options:", "did you mean").replace(". Did you mean", ": did you mean")
    return f"{message[:1].lower()}{message[1:]}{'' if message.endswith('?') else ';'} see {path} --help"
