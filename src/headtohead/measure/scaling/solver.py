"""Many fits of one law at once: minimise the Huber loss of log residuals, for every resample side by side.

A law is a sum of power terms over an irreducible loss, in log-sum-exp form (Hoffmann et al. 2022, arXiv
2203.15556, appendix D.3):

    log L = log( exp(e) + sum_k exp(a_k - alpha_k x_k) ),     x_k = log of the k-th variable

and a fit minimises sum_i w_i Huber(log L(x_i) - log y_i). What makes the resamples of a bootstrap differ is
their weights w alone, so all of them share x and y, and the sums over points of gradient and Hessian are
products of matrices. Each fit takes Newton steps with the exact Hessian, made positive by its eigenvalues and
damped as by Levenberg and Marquardt: a step is taken only when it lowers the loss. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DELTA = 1e-3
"""Where Huber's loss turns from a square to a line, in log loss: Hoffmann et al.'s."""
CHUNK = 60_000
"""Points times fits that are worked on together: as many as stay in a core's cache."""
MOST_STEPS = 300
SHORT_WAY, FINALISTS = 40, 4
"""Steps from every start, and how many go on from there."""
ROUNDING = 1e-13
"""Residuals of the log that are none: points that lie on the law, as computed in float64."""
LEAST_SHARE = 1e-8
"""An irreducible loss under this share of the smallest loss is none: see `solve`."""


@dataclass(frozen=True)
class Solved:
    """Fits side by side. parameters (R, 1 + 2K): e, then a_k and alpha_k of each term; e is -inf where the
    irreducible loss is at its bound, zero. objective (R,): the loss, summed over the points. converged (R,):
    False where steps ran out first.
    """

    parameters: Array
    objective: Array
    converged: NDArray[np.bool_]


def huber(residual: Array, delta: float) -> Array:
    """Half the square up to `delta`, a line beyond: delta (|r| - delta / 2)."""
    size = np.abs(residual)
    return np.where(size <= delta, 0.5 * size * size, delta * (size - 0.5 * delta))


def log_law(parameters: Array, x: Array) -> Array:
    """(…, n) log of the law at the points x (K, n) under parameters (…, 1 + 2K)."""
    terms = parameters[..., 1::2, None] - parameters[..., 2::2, None] * x
    e = np.broadcast_to(parameters[..., :1, None], (*terms.shape[:-2], 1, terms.shape[-1]))
    return np.logaddexp.reduce(np.concatenate([e, terms], axis=-2), axis=-2)


def solve(
    x: Array,
    log_y: Array,
    weights: Array,
    starts: Array,
    delta: float = DELTA,
    tell: Callable[[int], None] | None = None,
) -> Solved:
    """Fit each row of `weights` from each of its starts, and keep the best.

    The irreducible loss is never below zero. Where it heads there, the law without it is fitted too, and taken
    when it is no worse: `e` is then -inf.

    Args:
        x: (K, n) logs of the variables.
        log_y: (n,) logs of the losses, or (R, n) of each fit's own.
        weights: (R, n) how often each point counts.
        starts: (S, 1 + 2K) for all fits, or (R, S, 1 + 2K) for each.
        tell: called with the number of fits that are done, chunk by chunk.
    """
    fits, points = weights.shape
    starts = np.broadcast_to(starts, (fits, *starts.shape[-2:]))
    each = max(1, CHUNK // points // starts.shape[1])
    parameters, objective = np.empty((fits, starts.shape[2])), np.empty(fits)
    converged = np.empty(fits, dtype=bool)
    for begin in range(0, fits, each):
        rows = slice(begin, begin + each)
        mine = log_y if log_y.ndim == 1 else log_y[rows]
        parameters[rows], objective[rows], converged[rows] = _best(
            x, mine, weights[rows], starts[rows], delta
        )
        if tell is not None:
            tell(min(begin + each, fits))
    return Solved(parameters, objective, converged)


def _best(
    x: Array, log_y: Array, weights: Array, starts: Array, delta: float
) -> tuple[Array, Array, NDArray[np.bool_]]:
    fits, count, width = starts.shape
    if count > FINALISTS:  # go a short way from every start, and on from the best places that are reached
        theta, value, _ = _from_each(x, log_y, weights, starts, delta, SHORT_WAY)
        leading = np.argsort(value.reshape(fits, count), axis=1)[:, :FINALISTS]
        starts = np.take_along_axis(theta.reshape(fits, count, width), leading[:, :, None], axis=1)
        count = FINALISTS
    theta, value, converged = _from_each(x, log_y, weights, starts, delta, MOST_STEPS)
    best = np.argmin(value.reshape(fits, count), axis=1) + np.arange(fits) * count
    theta, value, converged = theta[best], value[best], converged[best]
    low = theta[:, 0] < np.min(log_y, axis=-1) + np.log(1e-2)
    if low.any():
        bound = theta[low]
        bound[:, 0] = -np.inf
        own = log_y if log_y.ndim == 1 else log_y[low]
        bound, at_bound, settled = _descend(x, own, weights[low], bound, delta)
        gone = theta[low, 0] < np.min(own, axis=-1) + np.log(LEAST_SHARE)
        take = (at_bound <= value[low]) | (gone & (at_bound <= value[low] * (1 + 1e-9)))
        where = np.flatnonzero(low)[take]
        theta[where], value[where], converged[where] = bound[take], at_bound[take], settled[take]
    return theta, value, converged


def _from_each(
    x: Array, log_y: Array, weights: Array, starts: Array, delta: float, most: int
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """`_descend` from all starts (R, S, 1 + 2K) of all fits; the rows of what it gives are fits × starts."""
    count, width = starts.shape[1:]
    repeated = np.repeat(weights, count, axis=0)
    own = log_y if log_y.ndim == 1 else np.repeat(log_y, count, axis=0)
    return _descend(x, own, repeated, starts.reshape(-1, width), delta, most)


def _descend(
    x: Array, log_y: Array, weights: Array, theta: Array, delta: float, most: int = MOST_STEPS
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Damped Newton steps for each row of `theta`, with the logs of the variables centred meanwhile: about
    their mean, the scale and the exponent of a term are hardly correlated.
    """
    middle = x.mean(axis=1)
    theta = theta.copy()
    theta[:, 1::2] -= theta[:, 2::2] * middle
    problem = _Problem(x - middle[:, None], delta)
    value = problem.value(theta, log_y, weights)
    converged = np.zeros(len(theta), dtype=bool)
    damping = np.full(len(theta), 1e-3)
    tiny = ROUNDING**2 * weights.sum(axis=1)
    live = np.flatnonzero(np.isfinite(value))  # a start so far off that it overflows has no way down
    for _ in range(most):
        if not len(live):
            break
        y, w, here = (log_y if log_y.ndim == 1 else log_y[live]), weights[live], theta[live]
        gradient, hessian, scale = problem.derivatives(here, y, w)
        step, predicted = _newton(gradient, hessian, scale, damping[live])
        tried = here + step
        reached = problem.value(tried, y, w)
        better = reached < value[live]
        theta[live[better]] = tried[better]
        gain = np.where(better, value[live] - reached, 0.0)
        value[live[better]] = reached[better]
        good = better & (gain > 0.25 * predicted)
        damping[live] = np.where(good, damping[live] / 5, np.where(better, damping[live], damping[live] * 6))
        done = (predicted <= 1e-11 * value[live] + tiny[live]) | (damping[live] > 1e12)
        converged[live[done]] = True
        live = live[~done]
        damping = np.maximum(damping, 1e-10)
    theta[:, 1::2] += theta[:, 2::2] * middle
    return theta, value, converged


class _Problem:
    """The Huber loss of one law at its points, with first and second derivatives, for many parameters."""

    def __init__(self, x: Array, delta: float) -> None:
        self.x, self.delta = x, delta
        self.terms = len(x)
        self.powers = [np.stack([np.ones_like(v), -v, v * v], axis=1) for v in x]  # (n, 3)
        self.cross = {
            (k, m): np.stack([np.ones_like(x[0]), -x[m], -x[k], x[k] * x[m]], axis=1)
            for k in range(self.terms)
            for m in range(k)
        }

    def _parts(self, theta: Array) -> tuple[list[Array], Array, Array]:
        """The power terms, each (R, n), the irreducible loss (R, 1), and their sum (R, n)."""
        powers = [
            np.exp(theta[:, 1 + 2 * k, None] - theta[:, 2 + 2 * k, None] * v) for k, v in enumerate(self.x)
        ]
        rest = np.exp(theta[:, :1])
        return powers, rest, sum(powers, rest)

    def shares(self, theta: Array) -> tuple[list[Array], Array, Array]:
        """What each power term is of the law, what the irreducible loss is, and the law's log; each (R, n)."""
        exps, rest, total = self._parts(theta)
        return [part / total for part in exps], rest / total, np.log(total)

    def value(self, theta: Array, log_y: Array, weights: Array) -> Array:
        """(R,) the loss; inf where the parameters overflow."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            size = np.abs(np.log(self._parts(theta)[2]) - log_y)
            inside = np.minimum(size, self.delta)
            # Huber's loss is inside * (size - inside / 2): the square and the line in one.
            loss = np.einsum("rn,rn,rn->r", weights, inside, size - 0.5 * inside)
        return np.where(np.isfinite(loss), loss, np.inf)

    def derivatives(self, theta: Array, log_y: Array, weights: Array) -> tuple[Array, Array, Array]:
        """Gradient (R, P), Hessian (R, P, P), and (R, P) the diagonal of the Hessian of the squares that lie
        over Huber's loss and touch it here (those of iteratively reweighted least squares): a scale.
        """
        fits, width = theta.shape
        shares, rest, log_total = self.shares(theta)
        residual = log_total - log_y
        size = np.maximum(np.abs(residual), 1e-300)
        slope = weights * np.clip(residual, -self.delta, self.delta)
        bend = weights * (size <= self.delta)
        over = weights * np.minimum(1.0, self.delta / size)
        gradient = np.empty((fits, width))
        hessian = np.zeros((fits, width, width))
        scale = np.empty((fits, width))
        # d2 loss = bend p_k p_m + slope (p_k [k = m] - p_k p_m), times the features of k and m.
        mixed = bend - slope
        gradient[:, 0] = np.einsum("rn,rn->r", slope, rest)
        hessian[:, 0, 0] = np.einsum("rn,rn,rn->r", mixed, rest, rest) + gradient[:, 0]
        scale[:, 0] = np.einsum("rn,rn,rn->r", over, rest, rest)
        for k, share in enumerate(shares):
            a, alpha = 1 + 2 * k, 2 + 2 * k
            first = (slope * share) @ self.powers[k]
            gradient[:, a], gradient[:, alpha] = first[:, 0], first[:, 1]
            scaled = mixed * share
            second = (scaled * share) @ self.powers[k] + first
            hessian[:, a, a], hessian[:, alpha, alpha] = second[:, 0], second[:, 2]
            hessian[:, a, alpha] = hessian[:, alpha, a] = second[:, 1]
            with_rest = (scaled * rest) @ self.powers[k]
            hessian[:, 0, a] = hessian[:, a, 0] = with_rest[:, 0]
            hessian[:, 0, alpha] = hessian[:, alpha, 0] = with_rest[:, 1]
            upper = (over * share * share) @ self.powers[k]
            scale[:, a], scale[:, alpha] = upper[:, 0], upper[:, 2]
            for m in range(k):
                b, beta = 1 + 2 * m, 2 + 2 * m
                both = (scaled * shares[m]) @ self.cross[k, m]
                hessian[:, a, b] = hessian[:, b, a] = both[:, 0]
                hessian[:, a, beta] = hessian[:, beta, a] = both[:, 1]
                hessian[:, alpha, b] = hessian[:, b, alpha] = both[:, 2]
                hessian[:, alpha, beta] = hessian[:, beta, alpha] = both[:, 3]
        return gradient, hessian, scale


def _newton(gradient: Array, hessian: Array, scale: Array, damping: Array) -> tuple[Array, Array]:
    """The damped step (R, P) and the decrease (R,) it promises. Curvature below zero counts as above it, so
    that every step goes down.
    """
    root = 1.0 / np.sqrt(np.maximum(scale, 1e-12 * scale.max(axis=1, keepdims=True) + 1e-300))
    values, vectors = np.linalg.eigh(hessian * root[:, :, None] * root[:, None, :])
    curvature = np.maximum(np.abs(values), 1e-9) + damping[:, None]
    along = np.einsum("rpq,rp->rq", vectors, gradient * root)
    moved = along / curvature
    step = -root * np.einsum("rpq,rq->rp", vectors, moved)
    predicted = np.einsum("rq,rq->r", along - 0.5 * np.abs(values) * moved, moved)
    return step, predicted
