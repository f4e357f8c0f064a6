"""Variable projection: a law's exponents are searched, and the rest of it follows by linear least squares.

For given exponents the law L = E + sum_k A_k x_k^-alpha_k is linear in E and A, so the search is over the
exponents alone: two dimensions for Chinchilla's law, one for a power law (Golub & Pereyra 1973). E and A are
kept at zero or above exactly, by trying every set of them that may be zero. It minimises the squares of L - y,
and gives the starts for the fit by Huber's loss, whose form is not linear in anything. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from headtohead.measure.scaling.solver import CHUNK, ROUNDING, Array, Solved

GRID = np.geomspace(0.02, 2.0, 16)
"""Exponents that the search begins with: published ones of language models are 0.05 to 0.6."""
MOST_STEPS = 200


@dataclass(frozen=True)
class _Linear:
    """The best linear part for given exponents. coefficients (R, C): E and A_k, zero where at the bound.
    squares (R,). columns (R, n, C) and fitted (R, n).
    """

    coefficients: Array
    squares: Array
    columns: Array
    fitted: Array


def _linear(x: Array, y: Array, weights: Array, exponents: Array) -> _Linear:
    """Non-negative least squares on the columns 1 and exp(-alpha_k x_k), for each row of `exponents` (R, K).

    At most 4 columns, so all sets of columns above zero are tried: the best one without a negative
    coefficient is the optimum.
    """
    powers = np.exp(-exponents[:, :, None] * x)  # (R, K, n)
    columns = np.concatenate([np.ones((len(powers), 1, powers.shape[2])), powers], axis=1).swapaxes(1, 2)
    weighted = columns * weights[:, :, None]
    gram = weighted.swapaxes(1, 2) @ columns
    right = np.einsum("rnc,rn->rc", weighted, np.broadcast_to(y, weights.shape))
    fits, width = right.shape
    best, most = np.zeros((fits, width)), np.zeros(fits)
    size = np.sqrt(np.einsum("rcc->rc", gram))
    for count in range(1, width + 1):
        for members in combinations(range(width), count):
            some = list(members)
            scale = size[:, some]
            unit = gram[:, some][:, :, some] / scale[:, :, None] / scale[:, None, :]
            unit += 1e-13 * np.eye(
                count
            )  # columns that coincide (equal exponents of one variable) stay solvable
            found = np.linalg.solve(unit, (right[:, some] / scale)[:, :, None])[:, :, 0] / scale
            explained = np.einsum("rc,rc->r", found, right[:, some])
            take = (found >= 0).all(axis=1) & (explained > most)
            best[take] = 0.0
            best[np.ix_(take, some)] = found[take]
            most[take] = explained[take]
    fitted = np.einsum("rnc,rc->rn", columns, best)
    squares = np.einsum("rn,rn->r", weights, (fitted - y) ** 2)
    return _Linear(best, squares, columns, fitted)


def _pack(exponents: Array, coefficients: Array) -> Array:
    """Parameters as `solver` has them: logs of E and A, with the exponents between."""
    with np.errstate(divide="ignore"):
        logs = np.log(coefficients)
    parameters = np.empty((len(exponents), 1 + 2 * exponents.shape[1]))
    parameters[:, 0], parameters[:, 1::2], parameters[:, 2::2] = logs[:, 0], logs[:, 1:], exponents
    return parameters


def grid_starts(x: Array, log_y: Array, most: int = 24) -> Array:
    """(S, 1 + 2K) places to start a fit from: the grid's local minima first, then its best places.

    A coefficient that is zero there starts at a thousandth of the smallest loss, to be free to grow.
    """
    middle = x.mean(axis=1)
    y = np.exp(log_y)
    shape = (len(GRID),) * len(x)
    exponents = np.array(list(product(GRID, repeat=len(x))))
    weights = np.broadcast_to(
        1 / y**2, (len(exponents), len(y))
    )  # squares of relative error: near those of logs
    found = _linear(x - middle[:, None], y, weights, exponents)
    squares = np.pad(found.squares.reshape(shape), 1, constant_values=np.inf)
    around = [squares[tuple(slice(1 + s, 1 + s + len(GRID)) for s in shift)]
              for shift in product((-1, 0, 1), repeat=len(x)) if any(shift)]  # fmt: skip
    lowest = (squares[(slice(1, -1),) * len(x)] <= np.min(around, axis=0)).ravel()
    order = np.lexsort((found.squares, ~lowest))[:most]
    coefficients = np.maximum(found.coefficients[order], 1e-3 * y.min())
    starts = _pack(exponents[order], coefficients)
    starts[:, 1::2] += starts[:, 2::2] * middle
    return starts


def project(
    x: Array, log_y: Array, weights: Array, starts: Array, tell: Callable[[int], None] | None = None
) -> Solved:
    """Fit each row of `weights` by least squares of the loss itself; arguments and result as for `solver.solve`,
    but all rows share `starts` (S, 1 + 2K), of which the exponents alone matter.

    Damped Gauss-Newton steps in the exponents, with Kaufman's (1975) Jacobian of the projected residuals.
    """
    each = max(1, CHUNK // weights.shape[1] // len(starts))
    parts: list[Solved] = []
    for begin in range(0, len(weights), each):
        rows = slice(begin, begin + each)
        parts.append(_project(x, log_y if log_y.ndim == 1 else log_y[rows], weights[rows], starts))
        if tell is not None:
            tell(min(begin + each, len(weights)))
    return Solved(
        np.concatenate([part.parameters for part in parts]),
        np.concatenate([part.objective for part in parts]),
        np.concatenate([part.converged for part in parts]),
    )


def _project(x: Array, log_y: Array, weights: Array, starts: Array) -> Solved:
    fits, count = len(weights), len(starts)
    middle = x.mean(axis=1)
    centred = x - middle[:, None]
    all_weights = np.repeat(weights, count, axis=0)
    y = np.exp(log_y)
    all_y = y if y.ndim == 1 else np.repeat(y, count, axis=0)
    exponents = np.tile(starts[:, 2::2], (fits, 1))
    now = _linear(centred, all_y, all_weights, exponents)
    squares, coefficients = now.squares, now.coefficients
    damping = np.full(len(exponents), 1e-3)
    tiny = ROUNDING**2 * np.einsum("rn,rn->r", all_weights, np.broadcast_to(all_y**2, all_weights.shape))
    converged = np.zeros(len(exponents), dtype=bool)
    live = np.arange(len(exponents))
    for _ in range(MOST_STEPS):
        if not len(live):
            break
        w, mine = all_weights[live], (all_y if all_y.ndim == 1 else all_y[live])
        here = _linear(centred, mine, w, exponents[live])
        step, predicted = _step(centred, mine, w, here, damping[live])
        tried = _linear(centred, mine, w, exponents[live] + step)
        better = tried.squares < squares[live]
        at = live[better]
        exponents[at] += step[better]
        squares[at], coefficients[at] = tried.squares[better], tried.coefficients[better]
        damping[live] = np.maximum(np.where(better, damping[live] / 5, damping[live] * 6), 1e-10)
        done = (predicted <= 1e-13 * squares[live] + tiny[live]) | (damping[live] > 1e12)
        converged[live[done]] = True
        live = live[~done]
    best = np.argmin(squares.reshape(fits, count), axis=1) + np.arange(fits) * count
    parameters = _pack(exponents[best], coefficients[best])
    parameters[:, 1::2] += parameters[:, 2::2] * middle
    return Solved(parameters, squares[best], converged[best])


def _step(x: Array, y: Array, weights: Array, here: _Linear, damping: Array) -> tuple[Array, Array]:
    """The damped step in the exponents (R, K) and the decrease of the squares it promises."""
    above = here.coefficients > 0
    columns = here.columns * above[:, None, :]
    slopes = -here.columns[:, :, 1:] * here.coefficients[:, None, 1:] * x.T  # d fitted / d exponent
    weighted = columns * weights[:, :, None]
    gram = weighted.swapaxes(1, 2) @ columns
    across = weighted.swapaxes(1, 2) @ slopes
    scale = np.einsum("rcc->rc", gram) + ~above  # a column at its bound is out: its equation reads 0 = 0
    gram += np.einsum("rc,cd->rcd", np.where(above, 1e-13 * scale, 1.0), np.eye(gram.shape[1]))
    curvature = (slopes * weights[:, :, None]).swapaxes(1, 2) @ slopes
    curvature -= across.swapaxes(1, 2) @ np.linalg.solve(gram, across)
    gradient = np.einsum("rnk,rn->rk", slopes, weights * (here.fitted - y))
    diagonal = np.einsum("rkk->rk", curvature)
    floor = 1e-12 * np.einsum("rnk,rn->rk", slopes**2, weights) + 1e-300
    damped = curvature + np.einsum(
        "rk,kl->rkl", damping[:, None] * np.maximum(diagonal, floor) + floor, np.eye(gradient.shape[1])
    )
    step = -np.linalg.solve(damped, gradient[:, :, None])[:, :, 0]
    predicted = -2 * np.einsum("rk,rk->r", gradient, step) - np.einsum("rk,rkl,rl->r", step, curvature, step)
    return np.clip(step, -1.0, 1.0), predicted
