"""The rules by which claims are decided, each on figures that it must part."""

from __future__ import annotations

import math

import pytest

from headtohead.measure.claims import beats, edge_goes_away, keeps_where_other_loses, steadier, steadiness
from headtohead.measure.statistics import Comparison, Contrast, Outcome

MARGIN = 0.01


def cell(
    low: float, high: float, outcome: Outcome = "undecided", different: bool | None = None
) -> Comparison:
    """A contrast with an interval; different from zero after Holm's correction where the interval leaves zero out,
    unless said otherwise.
    """
    away = (low > 0 or high < 0) if different is None else different
    return Comparison(
        Contrast("a-b", "a", "b"), outcome, "", (1, 2, 3), 9, difference=(low + high) / 2, interval=(low, high),
        beyond_zero=away, beyond_margin=away and (low >= MARGIN or high <= -MARGIN),
    )  # fmt: skip


GAIN, NONE, OPEN, LOSS = cell(-0.05, -0.02), cell(-0.004, 0.004), cell(-0.03, 0.02), cell(0.02, 0.05)
UNCORRECTED = cell(-0.05, -0.02, different=False)
SILENT = cell(math.nan, math.nan, "not judged", False)


@pytest.mark.parametrize(
    ("cells", "outcome"),
    [
        ([GAIN, GAIN], "supported"),
        ([GAIN, NONE], "contradicted"),
        ([GAIN, LOSS], "contradicted"),
        ([GAIN, OPEN], "undecided"),
        ([GAIN, UNCORRECTED], "undecided"),
        ([GAIN, SILENT], "undecided"),
    ],
)
def test_beats(cells: list[Comparison], outcome: str) -> None:
    assert beats("continuation", cells, MARGIN).outcome == outcome


@pytest.mark.parametrize(
    ("equal", "more", "edge", "outcome"),
    [
        (NONE, GAIN, GAIN, "supported"),
        (GAIN, GAIN, GAIN, "contradicted"),
        (NONE, NONE, NONE, "undecided"),
        (OPEN, GAIN, GAIN, "undecided"),
        (NONE, SILENT, GAIN, "undecided"),
        # Most of the edge is there at equal parameters, each part of it under the margin.
        (cell(-0.0095, -0.0085), cell(-0.003, -0.001), cell(-0.0115, -0.0105), "undecided"),
    ],
)
def test_edge_goes_away(equal: Comparison, more: Comparison, edge: Comparison, outcome: str) -> None:
    assert edge_goes_away("continuation", equal, more, edge, MARGIN).outcome == outcome


@pytest.mark.parametrize(
    ("keeps", "loses", "outcome"),
    [
        (NONE, LOSS, "supported"),
        (GAIN, LOSS, "supported"),
        (LOSS, LOSS, "contradicted"),
        (NONE, NONE, "contradicted"),
        (OPEN, LOSS, "undecided"),
        (NONE, OPEN, "undecided"),
        (NONE, SILENT, "undecided"),
        (NONE, cell(0.02, 0.05, different=False), "undecided"),
    ],
)
def test_what_one_keeps_the_other_loses(keeps: Comparison, loses: Comparison, outcome: str) -> None:
    assert keeps_where_other_loses("both", [keeps], [loses], MARGIN).outcome == outcome


def runs(unsteady: int, of: int = 20) -> dict[tuple[float, int], bool]:
    return {(1e-3, seed): seed >= unsteady for seed in range(of)}


def test_mcnemar_s_test_is_exact() -> None:
    found = steadiness("x", runs(6), runs(0))
    assert (found.runs, found.first, found.second, found.only_first, found.only_second) == (20, 6, 0, 6, 0)
    assert found.p == pytest.approx(2 / 2**6)
    both = {key: not ok for key, ok in runs(10).items()}  # ten pairs each way
    assert steadiness("x", runs(10), both).p == 1.0
    assert steadiness("x", runs(0), runs(0)).p == 1.0


def test_only_pairs_that_differ_count() -> None:
    found = steadiness("x", runs(12), runs(6))
    assert (found.only_first, found.only_second, found.p) == (6, 0, pytest.approx(2 / 2**6))


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [(6, 0, "supported"), (0, 6, "contradicted"), (5, 0, "undecided"), (0, 0, "undecided")],
)
def test_who_trains_more_steadily(first: int, second: int, outcome: str) -> None:
    """Five pairs of one kind have p 0.0625: never enough."""
    assert steadier([steadiness("x", runs(first), runs(second))]).outcome == outcome


def test_several_contrasts_of_a_claim_are_corrected() -> None:
    six, seven = (steadiness("x", runs(n), runs(0)) for n in (6, 7))
    assert steadier([six]).outcome == "supported"
    assert steadier([six, six]).outcome == "undecided"  # 0.031 twice is 0.063
    assert steadier([seven, seven]).outcome == "supported"
