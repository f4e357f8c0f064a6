"""Claims about laws, on ladders whose laws are known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headtohead.measure import ladders
from headtohead.measure.scaling.table import Table

LAW = {"E": 0.5, "A": 30.0, "B": 60.0, "alpha": 0.35, "beta": 0.30}
SIZES, BUDGETS = (1e5, 3e5, 9e5, 2.7e6, 8e6), (1e12, 4e12, 1.6e13, 6.4e13)


def table(folder: Path, arms: dict[str, dict[str, float]], noise: float = 0.002) -> dict[str, Table]:
    """A ladder of runs of equal compute, of arms that depart from `LAW` by what is given; `work`: FLOPs for 6ND."""
    rng = np.random.default_rng(3)
    lines = ["arm,N,N_non_embedding,D,D_supervised,FLOPs,6ND,bits_per_byte"]
    for arm, change in arms.items():
        law = {**LAW, **change}
        for n in SIZES:
            for c in BUDGETS:
                d = c / (6 * n) / law.get("work", 1.0)
                loss = law["E"] + law["A"] * n ** -law["alpha"] + law["B"] * d ** -law["beta"]
                loss *= math.exp(noise * rng.standard_normal())
                lines.append(f"{arm},{n},{0.7 * n},{d},{d / 2},{c},{6 * n * d},{loss}")
    path = folder / "ladder.csv"
    path.write_text("\n".join(lines) + "\n")
    return Table.read(path).by("arm")


def found(
    folder: Path, noise: float = 0.002, **arms: dict[str, float]
) -> tuple[dict[str, Any], dict[str, Any]]:
    tables = table(folder, arms, noise)
    fits, told = ladders.fits(tables, ladders.LAWS[0], "bits_per_byte", 100)
    return told, ladders.frontiers(tables, fits, ladders.LAWS[0])


def test_the_same_law_twice(tmp_path: Path) -> None:
    told, frontier = found(tmp_path, noise=0.0005, a={}, b={})
    same = ladders.same_exponents(told, "a", "b", 0.05)
    assert same.outcome == "supported", same
    assert ladders.same_exponents(told, "a", "b", 0.0005).outcome == "undecided"
    assert ladders.lower_frontier(frontier, "a", "b").outcome == "undecided"


def test_another_exponent_and_which_way_round(tmp_path: Path) -> None:
    told, _ = found(tmp_path, noise=0.0005, a={}, b={"alpha": 0.2})
    for ends in (("a", "b"), ("b", "a")):
        assert ladders.same_exponents(told, *ends, 0.05).outcome == "contradicted"
    assert ladders.same_exponents(told, "a", "b", 0.05).reason.startswith("alpha: −0.1")
    assert ladders.same_exponents(told, "b", "a", 0.05).reason.startswith("alpha: +0.1")


def test_who_makes_more_of_a_budget(tmp_path: Path) -> None:
    """Half the FLOPs a token buy twice the tokens; at the same law that is a lower frontier."""
    _, frontier = found(tmp_path, a={"work": 1.0}, b={"work": 0.5})
    assert ladders.lower_frontier(frontier, "a", "b").outcome == "supported"
    assert ladders.lower_frontier(frontier, "b", "a").outcome == "contradicted"
    for n, c in enumerate(frontier["C"]):
        grid = np.geomspace(1e4, 1e8, 20_001)
        for arm, work in (("a", 1.0), ("b", 0.5)):
            d = c / (6 * grid * work)
            best = (LAW["E"] + LAW["A"] * grid ** -LAW["alpha"] + LAW["B"] * d ** -LAW["beta"]).min()
            assert frontier["loss"][arm][n] == pytest.approx(best, rel=0.01)


def test_without_intervals_nothing_is_decided(tmp_path: Path) -> None:
    tables = table(tmp_path, {"a": {}, "b": {}})
    fits, told = ladders.fits(tables, ladders.LAWS[0], "bits_per_byte", 0)
    frontier = ladders.frontiers(tables, fits, ladders.LAWS[0])
    assert ladders.same_exponents(told, "a", "b", 0.05).outcome == "undecided"
    assert ladders.lower_frontier(frontier, "a", "b").outcome == "undecided"


GROWS = {"B": 0.01, "beta": -0.2}
"""A law by which more tokens make the loss worse, so that no way to spend a budget is the best."""


def test_a_law_without_a_least_loss_is_no_number_and_decides_nothing(tmp_path: Path) -> None:
    _, frontier = found(tmp_path, a={}, b=GROWS)
    assert json.loads(json.dumps(frontier, allow_nan=False)) == frontier
    assert frontier["loss"]["b"] == frontier["difference"]["b"] == [None] * 6
    assert frontier["difference_intervals"]["b"] == [[None, None]] * 6
    assert None not in frontier["loss"]["a"]
    for ends in (("a", "b"), ("b", "a")):
        finding = ladders.lower_frontier(frontier, *ends)
        assert finding.outcome == "undecided" and "the fitted law of b has no least loss" in finding.reason


def test_resamples_without_a_least_loss_leave_no_interval(tmp_path: Path) -> None:
    """By the estimate size hardly matters, by many a resample a larger network is worse: those resamples could lie
    anywhere, on either side.
    """
    _, frontier = found(tmp_path, a={}, b={"A": 0.0})
    assert json.loads(json.dumps(frontier, allow_nan=False)) == frontier
    assert max(frontier["difference"]["b"]) < 0
    assert frontier["difference_intervals"]["b"][-1] == [None, None]
    for ends in (("a", "b"), ("b", "a")):
        finding = ladders.lower_frontier(frontier, *ends)
        assert finding.outcome == "undecided" and "in too many resamples" in finding.reason


@pytest.mark.parametrize("absent", [None, math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_a_bound_that_is_no_number_decides_nothing(absent: float | None, place: int) -> None:
    bounds: list[float | None] = [-0.4, -0.2]
    frontier = {
        "C": [1e12],
        "first": "a",
        "loss": {"a": [1.3], "b": [1.0]},
        "difference": {"b": [-0.3]},
        "difference_intervals": {"b": [bounds]},
    }
    assert ladders.lower_frontier(frontier, "a", "b").outcome == "supported"
    assert ladders.lower_frontier(frontier, "b", "a").outcome == "contradicted"
    bounds[place] = absent
    for ends in (("a", "b"), ("b", "a")):
        assert ladders.lower_frontier(frontier, *ends).outcome == "undecided"


def test_few_resamples_without_a_least_loss_widen_the_interval() -> None:
    draws = np.linspace(0.0, 1.0, 999)[:, None]
    (whole,) = ladders.bounds_of(draws)
    draws[:10] = math.nan
    (low, high) = ladders.bounds_of(draws)[0]
    assert low == pytest.approx(whole[0]) and whole[1] < high < 1.0
