"""A study file's tables, and `--set key=value`: a dotted path into them, the value written as in TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headtohead.errors import UserError
from headtohead.files import read_text
from headtohead.validation import suggest


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UserError: missing, empty, not UTF-8 or malformed (with line and column).
    """
    text = read_text(path, what)
    if not text.strip():
        raise UserError(f"{what} {path} is empty: it should be a TOML file, see studies/first-look.toml")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{what} {path} is not valid TOML: {error}") from error


def set_values(tables: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """A copy of `tables` with each ``dotted.key=value`` put in place; tables in a list are addressed by
    their key or name (``arms.prefix.label``) or their number.

    Whether a key exists and its value fits is for `validated` to say: it knows the description.

    Raises:
        UserError: for an assignment without ``=``, or a path that leads through something that is not a
        table.
    """
    copy = _copied(tables)
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        words = [word.strip() for word in path.split(".")]
        if not equals or not all(words):
            raise UserError(f"--set {assignment}: write key=value, such as --set rungs.full.steps=500")
        place: Any = copy
        for word in words[:-1]:
            place = _inside(place, word, assignment)
        if isinstance(place, list):
            raise UserError(
                f"--set {assignment}: '{words[-1]}' is a whole entry of a list: set one of its keys"
            )
        if not isinstance(place, dict):
            raise UserError(f"--set {assignment}: '{words[-2]}' is not a table: it has no key '{words[-1]}'")
        place[words[-1]] = _value(value.strip(), assignment)
    return copy


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _inside(place: Any, word: str, assignment: str) -> Any:
    if isinstance(place, dict):
        return place.setdefault(word, {})
    if isinstance(place, list):
        names = [str(entry.get("key", entry.get("name", index))) for index, entry in enumerate(place)]
        if word in names:
            return place[names.index(word)]
        if word.isdecimal() and int(word) < len(place):
            return place[int(word)]
        raise UserError(f"--set {assignment}: there is no '{word}': {suggest(word, names)}")
    raise UserError(f"--set {assignment}: '{word}' can't be reached: what is before it is not a table")


def _value(text: str, assignment: str) -> Any:
    if not text:
        raise UserError(f"--set {assignment}: the value is missing")
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string, as people type it
