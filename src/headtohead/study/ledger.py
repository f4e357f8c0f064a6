"""What the arms of a study were and consumed, their differences marked; and what each costs in use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headtohead.model.budget import cache_bytes, flops
from headtohead.study.page import Arm, Page
from headtohead.study.tables import decimal, layers

COST_INPUT, COST_OUTPUT = 1024, 1024
"""Tokens for which the cost of use is given: the published setting."""


@dataclass(frozen=True)
class Cell:
    """One quantity of one arm in the ledger; `mark` says how it differs from what most arms have, or is
    empty.
    """

    text: str
    mark: str = ""


@dataclass(frozen=True)
class LedgerRow:
    """One quantity over all shown arms. `declared`: the study said beforehand that arms may differ in it."""

    name: str
    cells: tuple[Cell, ...]
    declared: bool = False


@dataclass(frozen=True)
class Cost:
    """Cost of use of one arm, each with its ratio to the first arm's."""

    arm: Arm
    prefill: float
    decode: float
    cache: float
    prefill_ratio: float
    decode_ratio: float
    cache_ratio: float


def ledger(page: Page) -> list[LedgerRow]:
    """A row for each quantity, a cell for each arm that has a shown run (its lowest seed's)."""
    first = [(arm, page.of(arm)[0]) for arm in page.arms_shown]
    if not first:
        return []
    declared = set(page.study.get("declared_differences", {}))
    declared.update(name for contrast in page.study["contrasts"] for name in contrast.get("declares", ()))
    rows = []
    for name, dimension, write, find in _ROWS:
        values = [find(arm, line) for arm, line in first]
        if any(value is not None for value in values):
            cells = _marked(values, write)
            rows.append(LedgerRow(name, cells, dimension in declared and any(cell.mark for cell in cells)))
    times = [page.seconds(arm) for arm, _ in first]
    if any(times):
        means = tuple(Cell(f"{sum(found) / len(found):,.0f} s" if found else "–") for found in times)
        rows.append(LedgerRow("time of a run, mean", means))
    return rows


def costs(arms: Sequence[Arm]) -> list[Cost]:
    """Cost of use at the published lengths, beside the first arm's."""
    found: list[Cost] = []
    for arm in arms:
        work = flops(arm.architecture, COST_INPUT, COST_OUTPUT)
        cache = float(cache_bytes(arm.architecture, COST_INPUT, COST_OUTPUT))
        prefill, decode = float(work["prefill"]), float(work["decode_per_token"])
        base = found[0] if found else Cost(arm, prefill, decode, cache, 1.0, 1.0, 1.0)
        ratios = (prefill / base.prefill, decode / base.decode, cache / base.cache)
        found.append(Cost(arm, prefill, decode, cache, *ratios))
    return found


# --------------------------------------------------------------------------------------------------------
# The ledger's rows: name, the dimension a study declares it under, how it is written, where it is found.

Value = Any


def _norms(arm: Arm) -> str:
    norms = arm.architecture.norms
    letters = {"Q": norms.query_key, "K": norms.query_key, "V": norms.value, "output": norms.output}
    return " ".join(name for name, there in letters.items() if there) or "none"


def _widths(arm: Arm) -> str:
    widths = sorted({layer.d_ff for stream in arm.architecture.streams for layer in stream.layers})
    return ", ".join(map(str, widths))


def _consumed(name: str) -> Callable[[Arm, Mapping[str, Any]], Value]:
    return lambda arm, line: line["ledger"].get(name)


def _averaged(line: Mapping[str, Any]) -> str | None:
    found = line.get("averaged")
    return f"mean of {len(found['steps'])}" if found else None


Write = Callable[[Value], str]
Find = Callable[[Arm, Mapping[str, Any]], Value]

_ROWS: list[tuple[str, str, Write, Find]] = [
    ("parameters", "parameters", "{:,}".format, lambda arm, line: line["parameters"]),
    (
        "layers",
        "depth",
        str,
        lambda arm, line: layers(arm.architecture).removesuffix("s").removesuffix(" layer"),
    ),
    ("feed-forward width", "d_ff", str, lambda arm, line: _widths(arm)),
    ("extra norms", "norms", str, lambda arm, line: _norms(arm)),
    (
        "loss on",
        "supervision",
        str,
        lambda arm, line: {"all": "every token"}.get(arm.supervise, arm.supervise),
    ),
    ("learning rate", "learning_rate", "{:g}".format, lambda arm, line: line["learning_rate"]),
    ("optimizer", "optimizer", str, lambda arm, line: line.get("recipe", {}).get("optimizer")),
    ("schedule", "schedule", str, lambda arm, line: line.get("recipe", {}).get("schedule")),
    ("scored weights", "recipe", str, lambda arm, line: _averaged(line)),
    ("steps", "recipe", "{:,}".format, _consumed("steps")),
    ("documents seen", "documents", "{:,}".format, _consumed("documents_seen")),
    ("examples", "examples", "{:,}".format, _consumed("examples")),
    ("bytes shown", "bytes", decimal, _consumed("bytes_shown")),
    ("tokens shown", "tokens_shown", decimal, _consumed("tokens_shown")),
    ("tokens supervised", "tokens_supervised", decimal, _consumed("tokens_supervised")),
    ("padding", "tokens_padding", decimal, _consumed("tokens_padding")),
    ("visible pairs", "visible_pairs", decimal, _consumed("visible_pairs")),
    ("training FLOPs", "flops", decimal, _consumed("flops")),
]


def _marked(values: Sequence[Value], write: Callable[[Value], str]) -> tuple[Cell, ...]:
    """The values as cells, those that aren't the usual one marked: with the ratio to it where they are
    numbers.
    """
    (usual, _), *_ = Counter(values).most_common(1)
    cells = []
    for value in values:
        if value is None:
            cells.append(Cell("–"))
        elif value == usual:
            cells.append(Cell(write(value)))
        elif isinstance(value, int | float) and isinstance(usual, int | float) and usual:
            change = value / usual - 1
            mark = f"{change:+.1%}" if abs(change) < 1 else f"× {value / usual:.2f}"
            cells.append(
                Cell(write(value), mark.replace("-", "−") if f"{abs(change):.1%}" != "0.0%" else "≠")
            )
        else:
            cells.append(Cell(write(value), "≠"))
    return tuple(cells)
