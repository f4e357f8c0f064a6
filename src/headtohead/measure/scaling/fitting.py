"""Fit a law to a table: parameters with their bounds and intervals, the largest size held out, the frontier."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headtohead.errors import UserError
from headtohead.measure.scaling.intervals import Sample, as_pairs, bca, draw_weights, percentile
from headtohead.measure.scaling.laws import (
    EXPONENTS,
    NAMES,
    Counting,
    LawName,
    decades,
    figures,
    frontier_points,
    log_rows,
)
from headtohead.measure.scaling.projection import grid_starts, project
from headtohead.measure.scaling.solver import DELTA, Array, Solved, log_law, solve
from headtohead.measure.scaling.table import FLOPS_PER_PARAMETER_AND_TOKEN, Table

Method = Literal["huber", "projection"]
Tell = Callable[[int, int], None]

SAME_SIZE = 0.05
"""Sizes within this share of the largest are held out with it."""
FLAT = 0.01
"""An exponent under this hardly differs from a constant: its term and the irreducible loss can't be told apart."""


@dataclass(frozen=True)
class Asked:
    """What to fit and how.

    x: columns: N and D for chinchilla (N alone: D is then compute / 6 N), any one for power, N for isoflop.
    also: other columns that count what the first of x counts. compute: columns of training FLOPs.
    resamples: 0 for no intervals. drop_largest: how many rows of the largest y are left out.
    """

    law: LawName
    x: tuple[str, ...]
    y: str = "loss"
    also: tuple[str, ...] = ()
    compute: tuple[str, ...] = ("C",)
    method: Method = "huber"
    resamples: int = 1000
    seed: int = 0
    drop_largest: int = 0


@dataclass(frozen=True)
class Points:
    """Runs as the fit sees them: x (K, n) and log_y (n,), logs; compute: (n,) FLOPs by column, as far as the
    table tells.
    """

    x: Array
    log_y: Array
    compute: dict[str, Array] = field(default_factory=dict)

    def keep(self, rows: NDArray[np.bool_]) -> Points:
        """The rows of a mask only."""
        return Points(self.x[:, rows], self.log_y[rows], {k: c[rows] for k, c in self.compute.items()})


@dataclass(frozen=True)
class Fitted:
    """One fit. names: the figures of `sample`: parameters first, then a frontier's exponents. told: as JSON."""

    names: tuple[str, ...]
    sample: Sample
    told: dict[str, Any]


def fit_table(table: Table, asked: Asked, stream: int = 0, tell: Tell | None = None) -> Fitted:
    """Fit `asked.law` to all rows of a table but the ones left out.

    Args:
        stream: number of the arm, so that arms are resampled independently of one another.
        tell: called with how many resamples are done, of how many.

    Raises:
        UserError: a column that is missing, a cell that is no number, too few points or too few sizes.
    """
    start = time.perf_counter()
    kept, dropped = table.without_largest(asked.y, asked.drop_largest)
    points, notes = _points(kept, asked, asked.x)
    _check(points, asked, str(table.path))
    countings = _countings(points, asked, notes)
    rng = np.random.default_rng([asked.seed, stream])
    total = asked.resamples * (2 + len(asked.also))
    so_far = 0

    def after(done: int) -> None:
        if tell is not None:
            tell(so_far + done, total)

    full, sample, draws = fit_points(points, asked, countings, rng, after)
    names = _names(asked.law, countings)
    told: dict[str, Any] = {
        "law": asked.law,
        "method": asked.method,
        "columns": {"x": list(asked.x), "y": asked.y},
        "points": len(points.log_y),
        "left_out_lines": list(dropped),
        **_figures(asked, full, sample),
    }
    width = len(NAMES[asked.law])
    if asked.method == "huber":
        told["delta"] = DELTA
    residual = log_law(full.parameters[0], points.x) - points.log_y
    told["rms_log_residual"] = float(np.sqrt(np.mean(residual**2)))
    so_far += asked.resamples
    told["held_out"] = _held_out(points, asked, rng, after)
    if asked.law == "chinchilla":
        told["frontier"] = {}
        for k, counting in enumerate(countings):
            pair = sample.pick([width + 2 * k, width + 2 * k + 1])
            told["frontier"][counting.name] = {
                "exponents": dict(zip(("N", "D"), map(float, pair.estimate), strict=True)),
                "intervals": as_pairs(("N", "D"), bca(pair)) if asked.resamples else {},
                "points": frontier_points(
                    counting, full.parameters[0], draws, decades(_own_compute(points, counting))
                ),
            }
    told["countings"] = {asked.x[0]: _exponents(asked, names, sample)}
    for column in asked.also:
        so_far += asked.resamples
        other, _ = _points(kept, asked, (column, *asked.x[1:]))
        _check(other, asked, str(table.path))
        told["countings"][column] = _exponents(
            asked, names, fit_points(other, asked, _countings(other, asked, []), rng, after)[1]
        )
    notes += _warnings(asked, full, sample, told["parameters"])
    told["notes"] = notes
    told["seconds"] = time.perf_counter() - start
    return Fitted(names, sample, told)


def fit_points(
    points: Points,
    asked: Asked,
    countings: Sequence[Counting],
    rng: np.random.Generator,
    tell: Callable[[int], None] | None = None,
) -> tuple[Solved, Sample, Array]:
    """The fit from many starts, then from there the fits to resamples and with each point left out.

    Returns the fit itself, its figures, and the (R, P) parameters of the resamples as the solver has them.
    """
    n = len(points.log_y)
    starts = grid_starts(points.x, points.log_y)
    full = _solve(points, asked.method, np.ones((1, n)), starts, None)
    draws = np.empty((0, full.parameters.shape[1]))
    left_out = np.empty((0, full.parameters.shape[1]))
    if asked.resamples:
        again = _restarts(full.parameters, points.log_y)
        draws = _solve(points, asked.method, draw_weights(n, asked.resamples, rng), again, tell).parameters
        left_out = _solve(points, asked.method, 1 - np.eye(n), again, None).parameters

    def all_figures(parameters: Array) -> Array:
        along = [counting.exponents(parameters) for counting in countings]
        return np.concatenate([figures(asked.law, parameters), *along], axis=-1)

    sample = Sample(
        all_figures(full.parameters[0]),
        all_figures(draws),
        all_figures(left_out),
        spent=full.parameters.shape[1] if asked.method == "projection" else 0,
    )
    return full, sample, draws


def _solve(
    points: Points, method: Method, weights: Array, starts: Array, tell: Callable[[int], None] | None
) -> Solved:
    if method == "huber":
        return solve(points.x, points.log_y, weights, starts, tell=tell)
    return project(points.x, points.log_y, weights, starts, tell=tell)


def _restarts(parameters: Array, log_y: Array) -> Array:
    """The fit as a start for its resamples; an irreducible loss at its bound starts a little above it, so that
    a resample may find one.
    """
    again = parameters.copy()
    again[:, ::2][:, :1] = np.maximum(again[:, :1], log_y.min() + np.log(1e-2))
    again[:, 1::2] = np.maximum(again[:, 1::2], -700.0)
    return again


def _points(table: Table, asked: Asked, x: tuple[str, ...]) -> tuple[Points, list[str]]:
    """The runs of a table, and what had to be worked out for them."""
    notes: list[str] = []
    columns: list[Array] = []
    for name in x:
        if asked.law == "power" and name in asked.compute and name not in table.columns:
            columns.append(table.compute(name))
            notes.append(f"{name} is 6 N D: the table has no column {name}")
        else:
            columns.append(table.positive(name, "--also" if name in asked.also else "--x"))
    if asked.law == "chinchilla" and len(x) == 1:
        flops = table.positive(asked.compute[0], "--compute")
        columns.append(flops / (FLOPS_PER_PARAMETER_AND_TOKEN * columns[0]))
        notes.append(f"D is {asked.compute[0]} / (6 {x[0]})")
    compute = {
        name: table.positive(name, "--compute")
        for name in asked.compute
        if name in table.columns or asked.compute != ("C",)
    }
    return Points(log_rows(columns), np.log(table.positive(asked.y, "--y")), compute), notes


def _check(points: Points, asked: Asked, where: str) -> None:
    """Raises UserError where the law has no single best fit to so few points."""
    count, needed = len(points.log_y), len(NAMES[asked.law]) + 2
    if count < needed:
        raise UserError(
            f"{where}: {count} points are too few for {len(NAMES[asked.law])} parameters: give {needed}"
        )
    names = asked.x if len(asked.x) == len(points.x) else (*asked.x, "D")
    for name, values in zip(names, points.x, strict=True):
        different = len(np.unique(np.round(values, 6)))
        if different < 3:
            raise UserError(f"{where}: {name} has {different} different values; a power law with E needs 3")
    if len(points.x) == 2:
        apart = points.x - points.x.mean(axis=1, keepdims=True)
        if np.linalg.matrix_rank(apart, tol=1e-6 * float(np.abs(apart).max()) * count**0.5) < 2:
            raise UserError(
                f"{where}: {names[0]} and {names[1]} grow together in all rows, so nothing tells their terms apart"
            )


def _countings(points: Points, asked: Asked, notes: list[str]) -> list[Counting]:
    if asked.law != "chinchilla":
        return []
    countings = [Counting("C = 6ND")]
    for name, compute in points.compute.items():
        counting = Counting.of_column(name, points.x, compute)
        if counting is not None:
            countings.append(counting)
            if counting.error > 0.05:
                notes.append(f"{name} is a product of powers of N and D only to within {counting.error:.0%}")
    return countings


def _own_compute(points: Points, counting: Counting) -> Array:
    if counting.name in points.compute:
        return points.compute[counting.name]
    return np.exp(counting.constant + points.x.sum(axis=0))


def _names(law: LawName, countings: Sequence[Counting]) -> tuple[str, ...]:
    along = [f"{which} in {counting.name}" for counting in countings for which in ("N_opt", "D_opt")]
    return (*NAMES[law], *along)


def _figures(asked: Asked, full: Solved, sample: Sample) -> dict[str, Any]:
    """The part of the answer that every reader looks for."""
    names, width = NAMES[asked.law], len(NAMES[asked.law])
    told: dict[str, Any] = {
        "parameters": dict(zip(names, map(float, sample.estimate[:width]), strict=True)),
        "intervals": {},
        "percentile_intervals": {},
        "resamples": asked.resamples,
        "at_bound": ["E"] if np.isneginf(full.parameters[0, 0]) else [],
        "objective": float(full.objective[0]),
        "converged": bool(full.converged[0]),
    }
    if asked.resamples:
        told["intervals"] = as_pairs(names, bca(sample)[:, :width])
        told["percentile_intervals"] = as_pairs(names, percentile(sample.draws)[:, :width])
        told["share_of_resamples_at_bound"] = {"E": float(np.mean(sample.draws[:, 0] == 0))}
    return told


def _exponents(asked: Asked, names: Sequence[str], sample: Sample) -> dict[str, Any]:
    """The exponents alone, of one way of counting."""
    ours = [place for place, name in enumerate(names) if name in EXPONENTS[asked.law] or " in " in name]
    shown = [names[place] for place in ours]
    bounds = as_pairs(shown, bca(sample)[:, ours]) if asked.resamples else {}
    return {
        "exponents": {n: float(sample.estimate[p]) for n, p in zip(shown, ours, strict=True)},
        "intervals": bounds,
    }


def _held_out(
    points: Points, asked: Asked, rng: np.random.Generator, tell: Callable[[int], None]
) -> dict[str, Any] | None:
    """Fit without the runs of the largest size, and predict them. None where what is left can't be fitted."""
    size = np.exp(points.x[0])
    largest = size >= size.max() * (1 - SAME_SIZE)
    rest, last = points.keep(~largest), points.keep(largest)
    try:
        _check(rest, asked, "what is left")
    except UserError:
        return None
    full, _, draws = fit_points(rest, asked, [], rng, tell)
    error = log_law(full.parameters[0], last.x) - last.log_y
    told: dict[str, Any] = {
        "variable": asked.x[0],
        "from": float(np.exp(last.x[0].min())),
        "points": int(largest.sum()),
        "observed": float(np.exp(last.log_y.mean())),
        "predicted": float(np.exp((error + last.log_y).mean())),
        "mean_log_error": float(error.mean()),
        "rms_log_error": float(np.sqrt(np.mean(error**2))),
    }
    if len(draws):
        predicted = log_law(draws, last.x).mean(axis=1, keepdims=True)
        told["interval"] = [float(bound) for bound in np.exp(percentile(predicted)[:, 0])]
    return told


def _warnings(asked: Asked, full: Solved, sample: Sample, parameters: dict[str, float]) -> list[str]:
    notes: list[str] = []
    if np.isneginf(full.parameters[0, 0]):
        notes.append("E is at its bound, zero: these points show no irreducible loss")
    elif asked.resamples and np.mean(sample.draws[:, 0] == 0) > 0.025:
        share = float(np.mean(sample.draws[:, 0] == 0))
        notes.append(f"E is at its bound, zero, in {share:.0%} of the resamples")
    for name in EXPONENTS[asked.law]:
        if parameters[name] < -FLAT:
            notes.append(f"{name} is below zero: the loss grows where it should fall")
        elif parameters[name] < FLAT:
            notes.append(f"{name} is hardly different from zero: its term can't be told from E")
    if not full.converged[0]:
        notes.append("the search ran out of steps before it settled")
    return notes
