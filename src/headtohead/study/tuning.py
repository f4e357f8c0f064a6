"""From a search over learning rates to the rate that a longer run gets, and how steadily its runs went.

Every arm gets the same values and as many runs. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headtohead.errors import UserError
from headtohead.study.plan import Tuning

RISE = 0.02
"""A curve that ends further above its lowest point than this share went apart on its way."""


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


def grid_of(grid: Sequence[float], by_region: Mapping[str, Sequence[float | None]]) -> dict[str, Any]:
    """What a grid of rates gave one arm: `tuned` on the mean over the regions, and whether the best is at an edge.

    Args:
        by_region: bits per byte for each rate of the grid; None where a run was stopped.
    """
    mean = [
        None if None in values else sum(v for v in values if v is not None) / len(values)
        for values in zip(*by_region.values(), strict=True)
    ]
    best, optimum = tuned(grid, mean)
    return {
        "grid": list(grid),
        "bits_per_byte": mean,
        "by_region": {region: list(values) for region, values in by_region.items()},
        "best": best,
        "optimum": optimum,
        "edge": best in (grid[0], grid[-1]),
    }


def unsteady(line: Mapping[str, Any]) -> str:
    """Why a run of a search counts as unsteady, empty where it went well.

    Its loss was not finite, stood out above those before it at some step (`train.watch.is_spike`), or was at the end
    more than 2 % above the lowest point of its curve.
    """
    if line["status"] == "stopped":
        return "not finite"
    if line.get("spikes"):
        return "spike"
    values = [_mean(point["bits_per_byte"]) for point in line["curve"]]
    return "rise" if values and values[-1] > min(values) * (1 + RISE) else ""


@dataclass(frozen=True)
class Chosen:
    """What the full runs of an arm get: the optimum of its search, and its other settings."""

    optimum: float
    settings: dict[str, Any]


def searched(
    tuning: Tuning, regions_of: Mapping[str, Sequence[str]], results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The outcome of a study's own search, as plan.json keeps it: see `grid_of` for an arm.

    A rate's score is the mean over the search's seeds; a rate of which a run was stopped has none. Of several other
    settings an arm gets those under which its best rate is lowest. `shared`: the rate of the grid with the lowest
    mean over the arms, under each arm's own settings; None where no rate has a score of every arm. `trials` has every
    run, and whether it went steadily.

    Args:
        regions_of: each arm's regions.
        results: of all runs of the search, each finished or stopped.

    Raises:
        UserError: an arm that no rate has a score for.
    """
    arms: dict[str, Any] = {}
    for arm, regions in regions_of.items():
        own = [line for line in results if line["arm"] == arm]
        tables = [
            (settings, _grid(tuning, regions, [r for r in own if _has(r, settings)]))
            for settings in tuning.combinations
        ]
        found = [(grid["lowest"], n) for n, (_, grid) in enumerate(tables) if grid is not None]
        if not found:
            raise UserError(
                f"arm '{arm}' has no learning rate that trained under every seed of [tuning]: lower its grid"
            )
        settings, grid = tables[min(found)[1]]
        assert grid is not None
        arms[arm] = {
            **{key: value for key, value in grid.items() if key != "lowest"},
            "settings": settings,
            "tried": [
                {"settings": some, "lowest": None if table is None else table["lowest"]}
                for some, table in tables
            ],
            "trials": [
                {
                    "learning_rate": line["learning_rate"],
                    "seed": line["seed"],
                    "settings": {key: line["recipe"][key] for key in tuning.settings},
                    "bits_per_byte": _mean(line["bits_per_byte"]) if line["status"] == "finished" else None,
                    "unsteady": unsteady(line),
                }
                for line in own
            ],
            "parameters": own[0]["parameters"],
        }
    return {
        "split": "tune",
        "steps": tuning.steps,
        "seeds": list(tuning.seeds),
        "arms": arms,
        "shared": shared_rate(arms),
    }


def shared_rate(arms: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The rate of the arms' grid with the lowest mean over the arms; None where no rate has a score of all."""
    grid = next(iter(arms.values()))["grid"]
    columns = [[arm["bits_per_byte"][n] for arm in arms.values()] for n in range(len(grid))]
    whole = [(sum(column) / len(column), n) for n, column in enumerate(columns) if None not in column]
    return grid[min(whole)[1]] if whole else None


def chosen(found: Mapping[str, Any]) -> dict[str, Chosen]:
    """Each arm's, from what `searched` gave."""
    return {arm: Chosen(of["optimum"], dict(of["settings"])) for arm, of in found["arms"].items()}


def _grid(
    tuning: Tuning, regions: Sequence[str], lines: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """`grid_of` for one arm and one combination of settings, with its lowest score; None where no rate has one."""
    by_region: dict[str, list[float | None]] = {region: [] for region in regions}
    for rate in tuning.grid:
        there = [line for line in lines if line["learning_rate"] == rate]
        whole = len(there) == len(tuning.seeds) and all(line["status"] == "finished" for line in there)
        for region in regions:
            scores = [line["bits_per_byte"][region] for line in there] if whole else []
            by_region[region].append(sum(scores) / len(scores) if scores else None)
    if all(score is None for score in by_region[regions[0]]):
        return None
    found = grid_of(tuning.grid, by_region)
    return {**found, "lowest": min(score for score in found["bits_per_byte"] if score is not None)}


def _has(line: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    return all(line["recipe"][key] == _as_kept(value) for key, value in settings.items())


def _as_kept(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _mean(by_region: Mapping[str, float]) -> float:
    return sum(by_region.values()) / len(by_region)
