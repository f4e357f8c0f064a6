"""Every difference between two runs: what they were, how they were trained, and what they really consumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from headtohead.errors import UserError
from headtohead.files import read_json
from headtohead.study.tables import print_wide, ratio

ABSENT = object()
"""Stands for a key that one of the two runs does not have."""

CALLED: dict[str, str] = {"architecture": "description"}
"""The words of the page for the keys of ``run.json``."""

FIRST = ("run", "description", "recipe", "data", "ledger")
"""The sections in the order of reading; others follow as they are found."""

LENGTH = 32
"""Longer values are cut in the middle for the table."""


@dataclass(frozen=True)
class Difference:
    """One value that differs: ``where`` is a dotted path in ``section``; a side may be `ABSENT`."""

    section: str
    where: str
    first: Any
    second: Any


def read_run(folder: Path) -> dict[str, Any]:
    """What ``folder`` says of its run, by section: all of ``run.json``, and the ledger of ``result.json``.

    The single values of ``run.json`` (arm, seed, …) make the section "run". A run that is not finished has no
    ledger yet, and the section is missing.

    Raises:
        UserError: where ``folder`` is not the folder of a run, or a file in it can't be used.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the folder of a run, with its run.json")
    if not (folder / "run.json").is_file():
        raise UserError(f"{folder} is not the folder of a run: it has no run.json")
    run = read_json(folder / "run.json", "the run")
    if not isinstance(run, dict):
        raise UserError(f"the run {folder / 'run.json'} should hold a JSON object")
    sections: dict[str, Any] = {"run": {}}
    for key, value in run.items():
        if isinstance(value, dict):
            sections[CALLED.get(str(key), str(key))] = value
        else:
            sections["run"][key] = value
    if (folder / "result.json").is_file():
        result = read_json(folder / "result.json", "the result")
        if not isinstance(result, dict):
            raise UserError(f"the result {folder / 'result.json'} should hold a JSON object")
        for key in ("identity", "ledger"):
            if isinstance(result.get(key), dict):
                sections[key] = result[key]
    return sections


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Every difference between the sections of two runs, the sections in the order of reading."""
    names = dict.fromkeys((*FIRST, *first, *second))
    found = []
    for section in names:
        a, b = first.get(section, ABSENT), second.get(section, ABSENT)
        if a is ABSENT and b is ABSENT:
            continue
        if section == "ledger" and (a is ABSENT or b is ABSENT):
            continue  # not finished: `print_difference` says so once, instead of listing every counter
        found += [Difference(section, where, x, y) for where, x, y in _walk(a, b, "")]
    return found


def _walk(a: Any, b: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """The leaves at which two JSON values differ. Lists are compared entry by entry."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            inner = f"{where}.{key}" if where else str(key)
            yield from _walk(a.get(key, ABSENT), b.get(key, ABSENT), inner)
    elif isinstance(a, list) and isinstance(b, list) and any(isinstance(x, dict | list) for x in (*a, *b)):
        for index in range(max(len(a), len(b))):
            x = a[index] if index < len(a) else ABSENT
            y = b[index] if index < len(b) else ABSENT
            yield from _walk(x, y, f"{where}[{index}]")
    elif not _same(a, b):
        yield where, a, b


def _same(a: Any, b: Any) -> bool:
    # 1, 1.0 and true are equal to Python; 1 and 1.0 are the same number in a file, true is not.
    if isinstance(a, bool) != isinstance(b, bool):
        return False
    return a is b or a == b or (a != a and b != b)


def print_difference(first: Path, second: Path) -> None:
    """Print every difference between the runs in two folders, or one line that there is none.

    Raises:
        UserError: where one of them is not the folder of a run.
    """
    a, b = read_run(first), read_run(second)
    found = differences(a, b)
    if found:
        print_wide(difference_table(found, first, second))
    unfinished = [str(folder) for folder, run in ((first, a), (second, b)) if "ledger" not in run]
    if unfinished:
        are = "is" if len(unfinished) == 1 else "are"
        print(f"no ledger to compare: {' and '.join(dict.fromkeys(unfinished))} {are} not finished")
    if not found:
        print(f"no differences between {first} and {second}")
    else:
        print(f"{len(found)} difference{'s' if len(found) > 1 else ''} in {_sections(found)}")


def _sections(found: Sequence[Difference]) -> str:
    names = list(dict.fromkeys(difference.section for difference in found))
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def difference_table(found: Sequence[Difference], first: Path, second: Path) -> Table:
    """A row for each difference, under a line for each section; numbers also with their ratio."""
    labels = _labels(first, second)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("")
    for label in labels:
        table.add_column(Text(label), justify="right", overflow="fold")
    table.add_column("ratio", justify="right", no_wrap=True)
    section = None
    for difference in found:
        if difference.section != section:
            if section is not None:
                table.add_row()
            section = difference.section
            table.add_row(Text(section, style="bold"))
        where = Text(f"  {difference.where or 'all of it'}")
        sides = [Text(shown(value), style="dim" if value is ABSENT else "") for value in
                 (difference.first, difference.second)]  # fmt: skip
        table.add_row(where, *sides, _ratio(difference.first, difference.second))
    return table


def _labels(first: Path, second: Path) -> tuple[str, str]:
    """The folders without the path they share: ``prefix-1`` and ``causal-1``."""
    a, b = first.parts, second.parts
    shared = 0
    while shared < min(len(a), len(b)) - 1 and a[shared] == b[shared]:
        shared += 1
    return str(Path(*a[shared:])), str(Path(*b[shared:]))


def shown(value: Any) -> str:
    """A value as the table has it: numbers with separators, text as it is, the rest as JSON; cut if long."""
    if value is ABSENT:
        return "-"
    if isinstance(value, str):
        text = value or '""'
    elif isinstance(value, int) and not isinstance(value, bool):
        text = f"{value:,}"
    else:
        text = json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= LENGTH else f"{text[: LENGTH // 2 - 2]} … {text[-LENGTH // 2 + 1 :]}"


def _ratio(a: Any, b: Any) -> str:
    numbers = [x for x in (a, b) if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(numbers) < 2 or not a or a * b < 0:
        return ""
    quotient = b / a
    if 0.995 <= quotient < 1.005:
        return f"{quotient - 1:+.2%}"
    return ratio(b, a) if quotient == 0 or quotient >= 0.01 else f"× {quotient:.2g}"
