"""The command line: what there is to ask for, and how errors are told.

Only typer is imported here. Each command imports what it needs when it is called, so that ``--help`` answers
at once and ``budget``, ``draw`` and ``study --dry-run`` never wait for torch. Errors are told in one place,
`run`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

import typer

from headtohead.cli import (
    bench,
    choosing,
    claims,
    costs,
    data,
    exchange,
    fetching,
    fits,
    fleet,
    generating,
    networks,
    scoring,
    serving,
    studies,
    tasks,
    training,
)
from headtohead.cli.base import PROGRAM, app, spread
from headtohead.errors import Interrupted, UserError
from headtohead.files import explain_os_error

__all__ = [
    "app",
    "bench",
    "choosing",
    "claims",
    "costs",
    "data",
    "exchange",
    "fetching",
    "fits",
    "fleet",
    "generating",
    "networks",
    "run",
    "scoring",
    "serving",
    "spread",
    "studies",
    "tasks",
    "training",
]


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
        # All the processes that torchrun started were given the same words: one of them tells.
        leads = os.environ.get("RANK", "0") == "0"
        return _fail(_usage_message(error)) if leads else UserError.exit_code
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
