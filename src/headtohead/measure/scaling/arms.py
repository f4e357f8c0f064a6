"""What `headtohead fit` answers: one fit, or one of each arm with the differences of their exponents."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from headtohead.errors import UserError, about
from headtohead.measure.scaling.fitting import Asked, Fitted, Tell, fit_table
from headtohead.measure.scaling.intervals import FEWEST_RESAMPLES, as_pairs, difference
from headtohead.measure.scaling.isoflop import EXPONENTS as OF_ISOFLOP
from headtohead.measure.scaling.isoflop import fit_isoflop
from headtohead.measure.scaling.laws import EXPONENTS
from headtohead.measure.scaling.table import Table

DEFAULT_X: dict[str, tuple[str, ...]] = {"chinchilla": ("N", "D"), "power": ("N",), "isoflop": ("N",)}


def fit_file(path: Path, asked: Asked, by: str | None = None, tell: Tell | None = None) -> dict[str, Any]:
    """Fit the table in `path`, as a document that JSON can hold (a figure that is no number is None).

    Without `asked.x` it is that of `DEFAULT_X`; where the table has no D but compute, N alone.
    With `by`, a column: its values are arms, each is fitted by itself, and every pair is compared.

    Raises:
        UserError: a bad file, or an arm that can't be fitted; nothing is fitted then.
    """
    check(asked)
    table = Table.read(path)
    if not asked.x:
        x = DEFAULT_X[asked.law]
        no_tokens = (
            asked.law == "chinchilla" and "D" not in table.columns and asked.compute[0] in table.columns
        )
        asked = replace(asked, x=x[:1] if no_tokens else x)
    if by is None:
        return plain(_fit(table, asked, 0, tell).told)
    tables = table.by(by)
    if len(tables) < 2:
        only = next(iter(tables))
        raise UserError(f"{path}: {by} is '{only}' in all rows; without --by they are fitted together")
    return compared(tables, asked, by, tell)[1]


def compared(
    tables: Mapping[str, Table], asked: Asked, by: str, tell: Tell | None = None
) -> tuple[dict[str, Fitted], dict[str, Any]]:
    """One fit of each table, an arm, and every pair's differences: the fits, and all of it as JSON can hold it.

    Raises:
        UserError: an arm that can't be fitted.
    """
    start = time.perf_counter()
    fits: dict[str, Fitted] = {}
    for place, (name, rows) in enumerate(tables.items()):

        def told(done: int, total: int, before: int = place) -> None:
            if tell is not None:
                tell(before * total + done, len(tables) * total)

        with about(f"{by} {name}"):
            fits[name] = _fit(rows, asked, place, told)
    answer = {
        "law": asked.law,
        "by": by,
        "arms": {name: fit.told for name, fit in fits.items()},
        "differences": [_difference(a, b, fits[a], fits[b], asked) for a, b in combinations(fits, 2)],
        "seconds": time.perf_counter() - start,
    }
    return fits, plain(answer)


def check(asked: Asked) -> None:
    """Refuse what makes no sense before a file is read.

    Raises:
        UserError: a number of columns that the law doesn't have, so few resamples that they show no interval, or
            variable projection of what it isn't for.
    """
    most = len(DEFAULT_X[asked.law])
    if len(asked.x) > most or not all(asked.x):
        default = ",".join(DEFAULT_X[asked.law])
        raise UserError(
            f"--law {asked.law} takes {most} of --x, such as --x {default}; not '{','.join(asked.x)}'"
        )
    if asked.y in asked.x or len(set(asked.x)) < len(asked.x):
        raise UserError(f"--x {','.join(asked.x)} and --y {asked.y} should be different columns")
    if 0 < asked.resamples < FEWEST_RESAMPLES:
        raise UserError(
            f"--bootstrap {asked.resamples} is too few for 95 % intervals: 0, or {FEWEST_RESAMPLES} up"
        )
    if asked.law == "isoflop" and len(asked.compute) > 1:
        raise UserError("--law isoflop takes one --compute: its values are the budgets")
    if asked.law == "isoflop" and asked.method != "huber":
        raise UserError("--method is for chinchilla and power: a parabola has no exponents to search")


def _fit(table: Table, asked: Asked, stream: int, tell: Tell | None) -> Fitted:
    if asked.law == "isoflop":
        return fit_isoflop(table, asked, stream, tell)
    return fit_table(table, asked, stream, tell)


def _difference(first: str, second: str, one: Fitted, other: Fitted, asked: Asked) -> dict[str, Any]:
    """The exponents of `second` minus those of `first`, and E, as far as both have them."""
    wanted = OF_ISOFLOP if asked.law == "isoflop" else ("E", *EXPONENTS[asked.law])
    names = [n for n in one.names if n in other.names and (n in wanted or "_opt" in n)]
    told: dict[str, Any] = {"from": first, "to": second}
    before, after = (fit.sample.pick([fit.names.index(n) for n in names]) for fit in (one, other))
    estimate, bounds = after.estimate - before.estimate, None
    if asked.resamples:
        estimate, bounds = difference(before, after)
    told["parameters"] = dict(zip(names, map(float, estimate), strict=True))
    told["intervals"] = {} if bounds is None else as_pairs(names, bounds)
    return told


def plain(value: Any) -> Any:
    """The same lists and tables, with None for a number that JSON has no word for."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
