"""One line for a person instead of pydantic's report for a programmer."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from headtohead.errors import UserError

M = TypeVar("M", bound=BaseModel)


def validated(model_class: type[M], data: Mapping[str, Any], where: str) -> M:
    """``model_class`` made from ``data`` (a table of a TOML file, as a rule).

    Args:
        model_class: a description that refuses unknown keys.
        data: keys and values as they were read.
        where: what the data is to the person, the start of the error ("studies/first-look.toml: recipe").

    Raises:
        UserError: one line that names the key, the value and what would be right. A key that isn't known is
            told first, with the known key it resembles.
    """
    try:
        return model_class.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{where}: {explained(model_class, error, data)}") from error
    except UserError as error:
        # A validator that parses a little language of its own (a visibility) has told the matter already.
        raise UserError(f"{where}: {error}") from error


def explained(model_class: type[BaseModel], error: ValidationError, data: Any = None) -> str:
    """pydantic's report in one line: its first problem, and how many more there are.

    Args:
        data: what was read, to call the entries of a list by their ``key`` or ``name``.
    """
    details = error.errors(include_url=False)
    places = [detail["loc"] for detail in details]
    # An entry that is wrong also counts as one too few in its list: only the first is news.
    details = [
        detail
        for detail in details
        if detail["type"] != "too_short"
        or not any(len(place) > len(detail["loc"]) and _begins(place, detail["loc"]) for place in places)
    ]
    details.sort(key=lambda detail: detail["type"] != "extra_forbidden")
    # A misspelt key is also a missing one.
    unknown = [detail["loc"] for detail in details if detail["type"] == "extra_forbidden"]
    details = [
        detail
        for detail in details
        if detail["type"] != "missing" or not any(_misspelt(place, detail["loc"]) for place in unknown)
    ]
    more = len(details) - 1
    rest = f" (and {more} more {'problem' if more == 1 else 'problems'})" if more else ""
    return f"{_explain(model_class, details[0], data)}{rest}"


def _begins(place: tuple[int | str, ...], beginning: tuple[int | str, ...]) -> bool:
    return place[: len(beginning)] == beginning


def _misspelt(unknown: tuple[int | str, ...], missing: tuple[int | str, ...]) -> bool:
    near = difflib.get_close_matches(str(unknown[-1]), [str(missing[-1])], cutoff=0.6)
    return unknown[:-1] == missing[:-1] and bool(near)


def suggest(word: str, known: Iterable[str]) -> str:
    """What to say after "unknown …": the nearest known words, else all of them when they are few.

    >>> suggest("learning_rat", ["learning_rate", "clip"])
    "did you mean 'learning_rate'?"
    """
    names = sorted(set(known))
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if near:
        return "did you mean " + " or ".join(repr(name) for name in near) + "?"
    return f"it can be {', '.join(names)}" if len(names) <= 30 else f"there are {len(names)} of them"


RIGHT: dict[str, str] = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text in quotes",
    "tuple_type": "a list in brackets",
    "list_type": "a list in brackets",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
"""What would be right, by pydantic's kind of error, in the words of a TOML file."""


def _explain(model_class: type[BaseModel], detail: ErrorDetails, data: Any) -> str:
    loc, value, kind = detail["loc"], detail["input"], detail["type"]
    key = _dotted(loc, data)
    message = detail["msg"]
    if kind == "extra_forbidden":
        known = _fields_at(model_class, loc[:-1])
        return f"unknown key '{key}': {suggest(str(loc[-1]), known)}" if known else f"unknown key '{key}'"
    if kind == "missing" and isinstance(loc[-1], int):
        return f"{_dotted(loc[:-1], data)} = {_shown(value)}: it has too few entries"
    if kind == "missing":
        return f"the key '{key}' is missing"
    if kind == "literal_error":
        expected = detail.get("ctx", {}).get("expected", "")
        near = difflib.get_close_matches(str(value), re.findall("'([^']*)'", str(expected)), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{key} = {_shown(value)}: it should be {expected}{hint}"
    if kind in ("value_error", "assertion_error"):
        # The words of one of our own validators; one that looks at several keys at once names them itself.
        message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
        if not loc:
            return message
        return f"{key}: {message}" if isinstance(value, Mapping) else f"{key} = {_shown(value)}: {message}"
    if kind in ("too_short", "too_long"):
        limits = detail.get("ctx", {})
        least, most = limits.get("min_length"), limits.get("max_length")
        bound = f"at least {least}" if kind == "too_short" else f"at most {most}"
        return (
            f"{key} = {_shown(value)}: it should have {bound} {'entry' if 1 in (least, most) else 'entries'}"
        )
    if kind == "string_too_short":
        return f"{key} = {_shown(value)}: it should not be empty"
    message = RIGHT.get(kind, message.removeprefix("Input should be ").removeprefix("Input "))
    return f"{key} = {_shown(value)}: it should be {message}" if key else f"it should be {message}"


def _dotted(loc: tuple[int | str, ...], data: Any = None) -> str:
    """``("arms", 2, "label")`` -> ``arms.prefix.label`` where that entry of ``data`` has a key or name, the
    path that ``--set`` takes too; else ``arms[2].label``, counted from 0 as the data is.
    """
    text = ""
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            data = None
        if isinstance(part, int):
            name = data.get("key", data.get("name")) if isinstance(data, Mapping) else None
            text += f".{name}" if isinstance(name, str) and name else f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text


def _shown(value: Any) -> str:
    """The value as it stands in a TOML or JSON file, cut when it is long."""
    match value:
        case bool():
            text = str(value).lower()
        case str():
            text = f'"{value}"'
        case Mapping():
            text = "{…}"
        case _:
            text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _fields_at(model_class: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    """The keys known at a place inside a description, followed through its lists, tables and alternatives."""
    here: list[Any] = [model_class]
    for part in loc:
        following: list[Any] = []
        for model in _models(here):
            if isinstance(part, str) and part in model.model_fields:
                following.append(model.model_fields[part].annotation)
        # A number, the key of a table or the tag of an alternative lies between two descriptions: stay.
        here = following or here
    return {name for model in _models(here) for name in model.model_fields}


def _models(annotations: Iterable[Any]) -> list[type[BaseModel]]:
    """The descriptions named in type annotations: ``tuple[Layer, ...] | None`` -> ``[Layer]``."""
    found: list[type[BaseModel]] = []
    for annotation in annotations:
        if isinstance(annotation, types.GenericAlias | types.UnionType) or typing.get_origin(annotation):
            found += _models(typing.get_args(annotation))
        elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.append(annotation)
    return found
