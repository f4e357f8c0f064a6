"""The laws as functions of their parameters: names, figures that follow from them, the compute-optimal frontier.

chinchilla  L(N, D) = E + A N^-alpha + B D^-beta     (Hoffmann et al. 2022, arXiv 2203.15556, equation 10)
power       L(x) = E + A x^-alpha                    (Kaplan et al. 2020, with an irreducible loss), x any of N, D, C

numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from headtohead.measure.scaling.solver import Array, log_law
from headtohead.measure.scaling.table import FLOPS_PER_PARAMETER_AND_TOKEN

LawName = Literal["chinchilla", "power", "isoflop"]
NAMES: dict[LawName, tuple[str, ...]] = {
    "chinchilla": ("E", "A", "B", "alpha", "beta"),
    "power": ("E", "A", "alpha"),
}
EXPONENTS: dict[LawName, tuple[str, ...]] = {"chinchilla": ("alpha", "beta"), "power": ("alpha",)}
_PLACES: dict[LawName, list[int]] = {"chinchilla": [0, 1, 3, 2, 4], "power": [0, 1, 2]}
_LOGS: dict[LawName, int] = {"chinchilla": 3, "power": 2}

DEPARTURE = 0.01
"""A column of compute that is nowhere further from 6 N D than this share is the same convention."""


def figures(law: LawName, parameters: Array) -> Array:
    """(…, P) the parameters in the order of `NAMES`, from the solver's logs (…, P)."""
    named = parameters[..., _PLACES[law]].copy()
    with np.errstate(over="ignore"):
        named[..., : _LOGS[law]] = np.exp(named[..., : _LOGS[law]])
    return named


@dataclass(frozen=True)
class Counting:
    """How compute is counted: log C = constant + of_size log N + of_tokens log D.

    C = 6 N D is (log 6, 1, 1). A column of the table is fitted by least squares; `error` is then the root mean
    square of what it misses of log C, as a share of C.
    """

    name: str
    constant: float = math.log(FLOPS_PER_PARAMETER_AND_TOKEN)
    of_size: float = 1.0
    of_tokens: float = 1.0
    error: float = 0.0

    @classmethod
    def of_column(cls, name: str, x: Array, compute: Array) -> Counting | None:
        """That of a column of FLOPs (n,) at the logs x (2, n) of N and D; None where it is 6 N D.

        None too where N and D don't vary apart, or the column doesn't grow with both: there is then no way to
        trade the one for the other.
        """
        log_compute = np.log(compute)
        if np.max(np.abs(log_compute - math.log(FLOPS_PER_PARAMETER_AND_TOKEN) - x.sum(axis=0))) < DEPARTURE:
            return None
        columns = np.stack([np.ones(x.shape[1]), *x], axis=1)
        solution, _, rank, _ = np.linalg.lstsq(columns - [0, *x.mean(axis=1)], log_compute, rcond=1e-8)
        if rank < 3 or min(solution[1:]) <= 0:
            return None
        constant = solution[0] - solution[1:] @ x.mean(axis=1)
        error = float(np.sqrt(np.mean((columns @ [constant, *solution[1:]] - log_compute) ** 2)))
        return cls(name, float(constant), float(solution[1]), float(solution[2]), error)

    def exponents(self, parameters: Array) -> Array:
        """(…, 2) of N and of D in compute, along the frontier of Chinchilla's law: N_opt is proportional to C^a
        with a = beta / (alpha + beta) where C = 6 N D, and D_opt to C^b with b = alpha / (alpha + beta).
        """
        alpha, beta = parameters[..., 2], parameters[..., 4]
        with np.errstate(divide="ignore", invalid="ignore"):
            total = self.of_size * beta + self.of_tokens * alpha
            return np.stack([beta / total, alpha / total], axis=-1)

    def optimum(self, parameters: Array, compute: Array) -> Array:
        """(…, 2, m) logs of the N and the D of least loss at each compute (m,).

        By Lagrange: alpha A N^-alpha / of_size = beta B D^-beta / of_tokens, on the line of equal compute.
        """
        a, alpha, b, beta = (parameters[..., i, None] for i in range(1, 5))
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = b + np.log(beta) - a - np.log(alpha) + math.log(self.of_size) - math.log(self.of_tokens)
            size = (np.log(compute) - self.constant - self.of_tokens * shift / beta) / (
                self.of_size + self.of_tokens * alpha / beta
            )
            tokens = (alpha * size + shift) / beta
        return np.stack(np.broadcast_arrays(size, tokens), axis=-2)


def frontier_points(
    counting: Counting, parameters: Array, draws: Array, compute: Array
) -> list[dict[str, object]]:
    """N, D and the loss at the optimum of each compute (m,), with percentile intervals of N and of the loss from
    `draws` (R, P) of the parameters (P,).
    """
    from headtohead.measure.scaling.intervals import percentile

    best = counting.optimum(parameters, compute)
    loss = np.exp(log_law(parameters, best))
    points: list[dict[str, object]] = []
    drawn = counting.optimum(draws, compute) if len(draws) else None
    for m, c in enumerate(compute):
        point: dict[str, object] = {
            "C": float(c),
            "N": math.exp(best[0, m]),
            "D": math.exp(best[1, m]),
            "loss": float(loss[m]),
        }
        if drawn is not None:
            there = np.stack([_log_law_rows(draws, drawn[:, :, m]), drawn[:, 0, m]], axis=1)
            low, high = np.exp(percentile(there))
            point["intervals"] = {
                "N": [float(low[1]), float(high[1])],
                "loss": [float(low[0]), float(high[0])],
            }
        points.append(point)
    return points


def _log_law_rows(parameters: Array, x: Array) -> Array:
    """(R,) log of the law, each row of parameters (R, P) at its own point of x (R, K)."""
    terms = parameters[:, 1::2] - parameters[:, 2::2] * x
    return np.logaddexp.reduce(np.concatenate([parameters[:, :1], terms], axis=1), axis=1)


def decades(compute: Array, points: int = 6) -> Array:
    """Computes from the table's smallest to ten times its largest, evenly in the log."""
    return np.geomspace(compute.min(), 10 * compute.max(), points)


def log_rows(columns: Sequence[Array]) -> Array:
    """(K, n) logs of the columns."""
    return np.log(np.stack(list(columns)))
