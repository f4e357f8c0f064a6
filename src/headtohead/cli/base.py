"""What the commands share: the program, its help, options of several values, completions."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from headtohead import __version__
from headtohead.errors import UserError

PROGRAM = "headtohead"
ANSWER, TRAIN, LOOK = "Answer a question", "Train a network", "Look at a network"
EXCHANGE, INSIDE = "Exchange networks", "Inside a study"
PANELS = (ANSWER, TRAIN, LOOK, EXCHANGE, INSIDE)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


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
    """The program. Its commands are told in the order of `PANELS`, whichever module was imported first."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, panel by panel."""
        return sorted(
            super().list_commands(ctx),
            key=lambda name: PANELS.index(getattr(self.commands[name], "rich_help_panel", None) or INSIDE),
        )


class Command(Readable, TyperCommand):
    """One command of it. by_several: whether the processes that torchrun started do it together."""

    by_several = False

    def invoke(self, ctx: Any) -> Any:
        """Do it, unless torchrun started several of what can only be done by one.

        Raises:
            UserError: it did; the first of them says so.
        """
        if not self.by_several and "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
            if os.environ["RANK"] != "0":
                raise typer.Exit(UserError.exit_code)
            raise UserError(
                f"{ctx.command_path} is done by one process: start it without torchrun, which is for "
                f"{PROGRAM} train and {PROGRAM} run"
            )
        return super().invoke(ctx)


class BySeveral(Command):
    """A command that the processes of torchrun do together."""

    by_several = True


class ManyValues(Command):
    """A command whose ``--text a b c`` and ``--set x=1 y=2`` take several values, as people write them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ``args`` with the options repeated; see `spread`."""
        return super().parse_args(ctx, spread(args))


class ManyValuesBySeveral(BySeveral, ManyValues):
    """Both."""


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


def complete_preset(incomplete: str) -> list[str]:
    from headtohead.model.presets import preset_names

    return [name for name in preset_names() if name.startswith(incomplete)]


def complete_run(incomplete: str) -> list[str]:
    return sorted(str(path.parent) for path in Path().glob(f"{incomplete}*/**/run.json"))


def exports(folder: Path) -> bool:
    """Whether transformers has a class for a run's network."""
    from headtohead.interop.families import to_theirs
    from headtohead.interop.folders import read_folder

    held = read_folder(folder)
    return to_theirs(held.architecture, held.weights) is not None


def at_least(lowest: int) -> Callable[[str], int]:
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


Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        parser=at_least(1),
        help="Runs side by side, one thread each.",
        show_default="one per core",
    ),
]


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
