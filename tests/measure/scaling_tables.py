"""Tables of runs whose law is known, for the tests of the fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headtohead.measure.scaling.solver import log_law

Array = NDArray[np.float64]

CHINCHILLA: Array = np.array([np.log(1.8), np.log(400.0), 0.34, np.log(2000.0), 0.37])
"""The solver's parameters: e, then a and alpha of N, b and beta of D."""
POWER: Array = np.array([np.log(1.8), np.log(400.0), 0.34])


def ladder(sizes: int, budgets: int, repeats: int = 1) -> Array:
    """(2, n) logs of N and D: sizes from 30M to 3B, each at 3 to 100 tokens per parameter."""
    n, ratio = np.meshgrid(np.geomspace(3e7, 3e9, sizes), np.geomspace(3, 100, budgets))
    return np.tile(np.log(np.stack([n.ravel(), (n * ratio).ravel()])), (1, repeats))


def steps(points: int) -> Array:
    """(1, n) logs of one variable from 10M to 10B."""
    return np.log(np.geomspace(1e7, 1e10, points))[None]


def losses(law: Array, x: Array, noise: float, seed: int = 0) -> Array:
    """(n,) logs of the losses under the law, with normal noise of the log."""
    return log_law(law, x) + np.random.default_rng(seed).normal(0, noise, x.shape[1])


def write(path: Path, columns: Mapping[str, Sequence[object] | Array]) -> Path:
    """A CSV file of these columns."""
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def chinchilla_table(
    path: Path, noise: float = 0.005, seed: int = 0, sizes: int = 8, law: Array = CHINCHILLA
) -> Path:
    """A file of N, D and loss."""
    x = ladder(sizes, 8)
    y = losses(law, x, noise, seed)
    return write(path, {"N": np.exp(x[0]), "D": np.exp(x[1]), "loss": np.exp(y)})
