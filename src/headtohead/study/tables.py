"""What networks cost, as a table for people and as JSON for programs. Nothing here imports torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict, cast

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture
from headtohead.model.budget import (
    Groups,
    Parameters,
    cache_bytes,
    check_tokens,
    flops,
    parameter_groups,
    parameters,
)
from headtohead.model.conventions import named_conventions
from headtohead.model.matching import QUANTITIES, On, match, quantities, quantity
from headtohead.model.presets import architecture, families

MOST_TOKENS = 2**24
"""Visible pairs are counted query by query: this many take seconds and hundreds of megabytes."""


def _check_length(input: int, output: int) -> None:
    if input + output > MOST_TOKENS:
        raise UserError(
            f"{input:,} + {output:,} tokens are too many to count who sees whom: give at most {MOST_TOKENS:,} in all"
        )


class FlopsEntry(TypedDict):
    """FLOPs of one example."""

    forward: int
    training: int
    prefill: int
    decode_per_token: float


class Entry(TypedDict):
    """One network of ``headtohead budget --json``."""

    name: str
    parameters: Parameters
    flops: FlopsEntry
    cache_bytes: int
    groups: Groups
    conventions: dict[str, int]


def budget_entry(a: Architecture, input_tokens: int, output_tokens: int, dtype: str) -> Entry:
    """The budget of ``a`` for one example of ``input_tokens`` and ``output_tokens`` places; see `budget`.

    Raises:
        UserError: for a dtype that isn't known or token counts that make no sequence.
    """
    work = flops(a, input_tokens, output_tokens)
    return {
        "name": a.name,
        "parameters": parameters(a),
        "flops": {
            "forward": work["forward"],
            "training": work["training"],
            "prefill": work["prefill"],
            "decode_per_token": work["decode_per_token"],
        },
        "cache_bytes": cache_bytes(a, input_tokens, output_tokens, dtype),
        "groups": parameter_groups(a),
        "conventions": named_conventions(a, input_tokens, output_tokens),
    }


def print_budget(
    names: Sequence[str], input_tokens: int, output_tokens: int, dtype: str, as_json: bool
) -> None:
    """Print parameters, FLOPs and cache bytes of the presets ``names``, and ratios to the first.

    Raises:
        UserError: for a name, a dtype or a length that can't be used.
    """
    networks = [architecture(name) for name in names]
    _check_length(input_tokens, output_tokens)
    entries = [budget_entry(a, input_tokens, output_tokens, dtype) for a in networks]
    if as_json:
        print(json.dumps(entries, indent=2))
        return
    print_wide(budget_table(networks, entries))
    print(
        f"One example of {input_tokens:,} input and {output_tokens:,} output tokens, the output supervised;"
        f" KV cache in {dtype}.\n"
        "FLOPs: 2 per multiply-add, attention by visible pairs; training is 3 × forward."
    )
    for network in networks:
        if network.context is not None and network.context < input_tokens + output_tokens:
            print(f"{network.name} has positions for {network.context:,} tokens only.")
    if len(entries) > 1:
        print(f"Below each figure: its ratio to {names[0]}'s.")


def print_families() -> None:
    """Print every family of presets with its sizes."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for heading in ("family", "what it is", "sizes"):
        table.add_column(heading, overflow="fold")
    for family in families().values():
        table.add_row(
            Text(family.name, style="bold"), family.title, Text(" ".join(family.sizes), style="dim")
        )
    print_wide(table)
    print("A name is a family and a size: redllm-nano. headtohead draw NAME shows who sees whom in it.")


def print_match(
    name: str, to: str, on: str, input: int, output: int, tolerance: float, as_json: bool
) -> None:
    """Print `name` brought to `to` in the quantity `on`, and both networks' other quantities.

    Raises:
        UserError: an unknown name or quantity, or no sizes within the tolerance.
    """
    if not 0 < tolerance < 1:
        raise UserError(f"--tolerance {tolerance}: give a share between 0 and 1, such as 0.01")
    check_tokens(input, output)
    _check_length(input, output)
    template, target = architecture(name), architecture(to)
    goal = quantity(cast(On, on), input, output)(target)
    found = match(template, goal, cast(On, on), input, output, tolerance)
    beside, aim = quantities(found.architecture, input, output), quantities(target, input, output)
    if as_json:
        answer = {
            "name": name,
            "to": to,
            "on": on,
            "depths": found.depths,
            "d_ff": [[layer.d_ff for layer in stream.layers] for stream in found.architecture.streams],
            "key_heads": found.architecture.key_heads or found.architecture.heads,
            "changes": found.changes,
            "mismatch": found.mismatch,
            "quantities": {key: {"found": beside[key], "target": aim[key]} for key in beside},
        }
        print(json.dumps(answer, indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("quantity", overflow="fold")
    for heading in (name, to, "ratio"):
        table.add_column(heading, justify="right")
    for key, words in QUANTITIES.items():
        style = "bold" if key == on else ""
        ratio_ = f"{beside[key] / aim[key]:.3f}" if aim[key] else "-"
        table.add_row(words, decimal(beside[key]), decimal(aim[key]), ratio_, style=style)
    print(f"{name} at {'+'.join(map(str, found.depths))} layers: {', '.join(found.changes) or 'as it is'}")
    print_wide(table)
    print(
        f"Matched on {QUANTITIES[cast(On, on)]}, {found.mismatch:+.2%}; "
        f"{input:,} input and {output:,} output tokens."
    )


@dataclass(frozen=True)
class Column:
    """A quantity of an entry: its heading, its value, and how the value is written."""

    heading: str
    value: Callable[[Entry], int]
    write: Callable[[int], str]


def budget_table(networks: Sequence[Architecture], entries: Sequence[Entry]) -> Table:
    """A row for each network, with its layers; in the rows after the first, ratios under the figures."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("network", overflow="fold")  # the column that gives way where the terminal is narrow
    for column in COLUMNS:
        table.add_column(column.heading, justify="right", no_wrap=True)
    for index, (network, entry) in enumerate(zip(networks, entries, strict=True)):
        cells = []
        for column in COLUMNS:
            value, reference = column.value(entry), column.value(entries[0])
            cell = Text(column.write(value))
            if index:
                cell.append(f"\n{ratio(value, reference)}", style="dim")
            cells.append(cell)
        name = Text(entry["name"], style="bold")
        name.append(f"\n{layers(network)}", style="dim not bold")
        table.add_row(name, *cells)
    return table


def layers(a: Architecture) -> str:
    """The depth in words: ``8 layers``, or ``3+3 layers`` for two stacks."""
    depths = "+".join(str(stream.depth) for stream in a.streams)
    return f"{depths} layer" if depths == "1" else f"{depths} layers"


def decimal(number: float) -> str:
    """A count in three digits and an SI letter: 1234567 is ``1.23 M``."""
    for power, letter in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 0.9995 * 10**power:
            return f"{three_digits(number / 10**power)} {letter}"
    return f"{number:,.0f}"


def binary(number: float) -> str:
    """Bytes in three digits and a binary unit: 2097152 is ``2.00 MiB``."""
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number >= 0.9995 * 2**power:
            return f"{three_digits(number / 2**power)} {unit}"
    return f"{number:,.0f} B"


def three_digits(number: float) -> str:
    """``number`` with three significant digits, or all digits before the point."""
    return f"{number:,.{2 if number < 9.995 else 1 if number < 99.95 else 0}f}"


def ratio(value: float, reference: float) -> str:
    """``value / reference`` as it is read: ``× 0.88``, or ``-`` where there is nothing to divide by."""
    return f"× {three_digits(value / reference)}" if reference else "-"


COLUMNS: tuple[Column, ...] = (
    Column("parameters", lambda entry: entry["parameters"]["total"], "{:,}".format),
    Column("embed-\ndings", lambda entry: entry["parameters"]["embedding"], decimal),
    Column("non-em-\nbedding", lambda entry: entry["parameters"]["non_embedding"], decimal),
    Column("FLOPs\nforward", lambda entry: entry["flops"]["forward"], decimal),
    Column("FLOPs\ntraining", lambda entry: entry["flops"]["training"], decimal),
    Column("KV\ncache", lambda entry: entry["cache_bytes"], binary),
)


def print_wide(table: Table) -> None:
    """Print a table: to a terminal at its width, to a file or a pipe as wide as it is."""
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        free = console.options.update(width=10_000)
        console.width = max(console.width, console.measure(table, options=free).maximum)
    console.print(table)
