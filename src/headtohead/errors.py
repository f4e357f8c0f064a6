"""The exceptions that are meant for the person at the keyboard."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar


class UserError(Exception):
    """Something the user can put right.

    The message is ONE line that names the thing (file, key, option) and says what would be right. The command
    line prints it as ``error: <message>`` and exits with code 2; nothing shows a traceback for it.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str) -> None:
        # Messages often quote foreign text (an exception, a line of a file): no line break may split them.
        super().__init__(" ".join(message.split()))


@contextmanager
def about(what: object) -> Iterator[None]:
    """Put what it is about before an error that is raised inside: ``with about(path): …``."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{what}: {error}") from error


class Interrupted(UserError):
    """The person stopped the program (Ctrl-C, or a polite kill); the message says how to go on."""

    exit_code = 130
