"""Files of text, and what is said of those that can't be read: shared by corpora in memory and by streams of text."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from headtohead.errors import UserError
from headtohead.files import explain_os_error, read_bytes

TEXT_SUFFIXES = (".txt", ".md")
SUFFIXES = (*TEXT_SUFFIXES, ".jsonl")


def files_at(path: Path, alone: bool, suffixes: Sequence[str] = SUFFIXES) -> Iterator[tuple[Path, str]]:
    """The readable files at a path with their names; in one of several folders they begin with its name.

    Raises UserError for a path that is missing, empty or of another kind than `suffixes` (of lower case).
    """
    for file, name in _found(path, alone, tuple(suffixes)):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(f"the name of {str(file)!r} is not UTF-8: rename it") from None
        yield file, name


def _found(path: Path, alone: bool, suffixes: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {explain_os_error(error)}; give a file ({', '.join(suffixes)}) or a folder"
        ) from None
    if path.is_file():
        if not path.name.lower().endswith(suffixes):
            raise UserError(
                f"{path} is of a kind that is not read: give {', '.join(suffixes)} or a folder of such files"
            )
        if not size:
            raise UserError(f"{path} is empty: text is needed")
        yield path, path.name
        return
    inside = [(f, f.relative_to(path)) for f in path.rglob("*")]
    kept = [
        (file, name.as_posix())
        for file, name in inside
        if file.name.lower().endswith(suffixes)
        and not any(p.startswith(".") for p in name.parts)
        and file.is_file()
    ]
    if not kept:
        raise UserError(f"{path} holds nothing that can be read: {', '.join(suffixes)} files are")
    for file, name in sorted(kept, key=lambda pair: pair[1]):
        yield file, name if alone else f"{path.resolve().name}/{name}"


def text_of(path: Path, what: str = "the text") -> str:
    """A file's bytes as text, line ends untouched; UserError names the first byte that is not UTF-8."""
    data = read_bytes(path, what)
    try:
        return data.decode().removeprefix("\ufeff")  # a byte-order mark is not text
    except UnicodeDecodeError as error:
        kind = " (it looks like UTF-16)" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        where = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        raise UserError(f"{path} is not UTF-8{kind}: {where}; save it as UTF-8") from None


def lines_of(path: Path, what: str = "the text") -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a .jsonl file with their line numbers from 1; blank lines are passed over."""
    for number, line in enumerate(text_of(path, what).split("\n"), start=1):
        if line.strip():
            yield number, object_in(line, f"{path}:{number}")


def object_in(line: str | bytes, where: str) -> dict[str, Any]:
    """The JSON object that a line is. Raises UserError, which begins with `where`, for anything else."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{where} is not usable JSON: too long a number or too deep") from None
    if not isinstance(value, dict):
        raise UserError(f'{where} is not a JSON object: each line needs one, as {{"text": "..."}}')
    return value


def string_in(line: dict[str, Any], field: str, where: str) -> str:
    """The text of one field of a JSON object. Raises UserError, beginning with `where`, where there is none."""
    if field not in line:
        there = ", ".join(map(repr, line)) or "none"
        raise UserError(f"{where} has no field {field!r}: its fields are {there[:200]}")
    value = line[field]
    if not isinstance(value, str):
        raise UserError(f"{where}: the field {field!r} is {json.dumps(value)[:40]}, and has to be a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can write \ud800 alone
        bad = f"\\u{ord(value[error.start]):04x}"
        raise UserError(
            f"{where}: the field {field!r} holds {bad}, half of a pair and no character"
        ) from None
    return value
