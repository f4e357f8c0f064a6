"""From a search over learning rates to the rate that a longer run gets."""

from __future__ import annotations

import math
from collections.abc import Sequence


def tuned(grid: Sequence[float], scores: Sequence[float | None]) -> tuple[float, float]:
    """The best rate of the grid, and the optimum that the scores around it point to.

    One run a rate can't tell neighbours apart whose scores differ by noise, and a grid in steps of two would turn
    that noise into a factor of two between arms. The optimum is therefore the lowest point of the parabola through
    the best rate and its two neighbours, over the logarithm of the rate, to four digits; it lies between them. At
    an edge of the grid, or beside a run that was stopped, it is the best rate itself.

    Args:
        grid: ascending learning rates, at least one with a score.
        scores: bits per byte for each; None where the run was stopped.
    """
    found = [(score, index) for index, score in enumerate(scores) if score is not None]
    lowest, at = min(found)
    if at in (0, len(grid) - 1):
        return grid[at], grid[at]
    left, right = scores[at - 1], scores[at + 1]
    if left is None or right is None:
        return grid[at], grid[at]
    x0, x1, x2 = (math.log(rate) for rate in grid[at - 1 : at + 2])
    down, up = (left - lowest) / (x1 - x0), (right - lowest) / (x2 - x1)
    if down + up == 0:  # flat: all three alike
        return grid[at], grid[at]
    # Newton's form: the slope is -down at the middle of the left step and up at the middle of the right one.
    vertex = (x0 + x1) / 2 + down / (down + up) * (x2 - x0) / 2
    return grid[at], float(f"{math.exp(vertex):.4g}")


def for_horizon(rate: float, searched_steps: int, steps: int, exponent: float) -> float:
    """The rate of a run of `steps` from the optimum of runs of `searched_steps`, to four digits.

    A longer run wants a smaller rate: optimum ∝ (training tokens)^-exponent at one batch size, with an exponent of
    0.32 in Bjorck et al., Scaling Optimal LR Across Token Horizons (arXiv 2409.19913). Exponent 0 leaves it as it is.
    """
    return float(f"{rate * (steps / searched_steps) ** -exponent:.4g}")
