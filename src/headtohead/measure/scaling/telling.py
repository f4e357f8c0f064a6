"""A fit in words and tables, for people."""

from __future__ import annotations

import math
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

WHAT = {
    "chinchilla": "L(N, D) = E + A N^-alpha + B D^-beta",
    "power": "L({x}) = E + A {x}^-alpha",
    "isoflop": "N_opt = N_coefficient C^N_exponent, D_opt likewise, from parabolas in log N",
}


def print_fit(told: dict[str, Any]) -> None:
    """Print what `arms.fit_file` found."""
    console = Console(highlight=False, soft_wrap=True)
    if "arms" not in told:
        _one(console, told)
    else:
        for name, one in told["arms"].items():
            console.print(f"{told['by']} {name}", style="bold", markup=False)
            _one(console, one)
        _differences(console, told)
    console.print(f"{told['seconds']:.1f} s", style="dim")


def _one(console: Console, told: dict[str, Any]) -> None:
    law = WHAT[told["law"]].format(x=told["columns"]["x"][0])
    left_out = told["left_out_lines"]
    points = f"{told['points']} points"
    if left_out:
        points += (
            f", without the {len(left_out)} largest of {told['columns']['y']} (lines {_listed(left_out)})"
        )
    console.print(f"{law}\n{points}", markup=False)
    table = _table("", "fit", "95 % interval" if told["intervals"] else "")
    for name, value in told["parameters"].items():
        bound = "  at its bound" if name in told.get("at_bound", ()) else ""
        table.add_row(name, _number(value) + bound, _interval(told["intervals"].get(name)))
    for name, frontier in told.get("frontier", {}).items():
        for which, value in frontier["exponents"].items():
            table.add_row(
                f"{which}_opt in C, {name}", _number(value), _interval(frontier["intervals"].get(which))
            )
    console.print(table)
    how = f"Huber's loss of the log, delta {told['delta']:g}" if "delta" in told else "sum of squares"
    console.print(f"objective {told['objective']:.6g} ({how})")
    _held_out(console, told["held_out"], told["columns"]["y"])
    _frontier(console, told)
    _countings(console, told["countings"])
    for note in told["notes"]:
        console.print(f"note: {note}", markup=False)
    console.print()


def _held_out(console: Console, held: dict[str, Any] | None, y: str) -> None:
    if held is None:
        console.print("no size held out: without the largest, what is left can't be fitted")
        return
    where = f"{held['variable']} from {_number(held['from'])} up held out"
    what = y if "points" in held else "N_opt"
    runs = f" ({held['points']} point{'s' * (held['points'] != 1)})" if "points" in held else ""
    interval = f", {_interval(held['interval'])}" if "interval" in held else ""
    console.print(
        f"{where}{runs}: {what} {_number(held['observed'])}, predicted {_number(held['predicted'])}{interval}; "
        f"off by {math.expm1(held['mean_log_error']):+.2%}",
        markup=False,
    )


def _frontier(console: Console, told: dict[str, Any]) -> None:
    for name, frontier in told.get("frontier", {}).items():
        table = _table(f"C ({name})", "N", "D", "D / N", "loss", "95 % of the loss")
        for point in frontier["points"]:
            ratio = point["D"] / point["N"] if point["N"] and point["D"] else None
            row = [point["C"], point["N"], point["D"], ratio, point["loss"]]
            table.add_row(*map(_number, row), _interval(point.get("intervals", {}).get("loss")))
        console.print("\nthe least loss for a budget")
        console.print(table)
    if "budgets" in told:
        table = _table("C", "runs", "N", "D", "loss")
        for point in told["budgets"]:
            cells = [point["N"], point["D"], point["loss"]] if point["used"] else []
            table.add_row(_number(point["C"]), str(point["runs"]), *map(_number, cells))
        console.print(table)


def _countings(console: Console, countings: dict[str, Any]) -> None:
    if len(countings) < 2:
        return
    names = list(dict.fromkeys(name for one in countings.values() for name in one["exponents"]))
    table = _table("counted by", *names)
    for column, one in countings.items():
        cells = [
            f"{_number(one['exponents'].get(name))} {_interval(one['intervals'].get(name))}" for name in names
        ]
        table.add_row(column, *cells)
    console.print(table)


def _differences(console: Console, told: dict[str, Any]) -> None:
    table = _table("difference", "of", "", "95 % interval")
    for one in told["differences"]:
        for name, value in one["parameters"].items():
            interval = _interval(one["intervals"].get(name))
            table.add_row(f"{one['to']} - {one['from']}", name, _number(value, "+"), interval)
    console.print(table)
    if len(told["differences"]) > 1:
        console.print(f"each interval is for one comparison by itself, of {len(told['differences'])}")


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
    return table


def _number(value: float | None, sign: str = "") -> str:
    """Four digits: 2.286, 1.397e+18; a dash for what is no number."""
    if value is None:
        return "–"
    return f"{value:{sign}.4f}" if 0.001 <= abs(value) < 10 else f"{value:{sign}.4g}"


def _interval(bounds: list[float | None] | None) -> str:
    return "" if bounds is None else f"{_number(bounds[0])} to {_number(bounds[1])}"


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return shown if len(numbers) <= 8 else f"{shown}, …"
