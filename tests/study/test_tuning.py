"""From the scores of a search to the rate of a longer run."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headtohead.study.tuning import for_horizon, tuned

GRID = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)


def test_a_parabola_in_the_logarithm_is_found_exactly() -> None:
    scores = [2.0 + 0.01 * math.log(rate / 5e-3) ** 2 for rate in GRID]
    best, optimum = tuned(GRID, scores)
    assert best == 4e-3
    assert optimum == pytest.approx(5e-3)


def test_two_equal_neighbours_leave_the_best_where_it_is() -> None:
    assert tuned(GRID, [2.2, 2.1, 2.0, 2.1, 2.2]) == (4e-3, pytest.approx(4e-3))


@pytest.mark.parametrize("scores", [[1.0, 2.0, 3.0, 4.0, 5.0], [None, 1.0, 3.0, 4.0, None]])
def test_at_an_edge_or_beside_a_stopped_run_the_best_itself(scores: list[float | None]) -> None:
    lowest = min(score for score in scores if score is not None)
    best, optimum = tuned(GRID, scores)
    assert best == optimum == GRID[scores.index(lowest)]


@given(st.lists(st.floats(1, 3), min_size=5, max_size=5))
def test_the_optimum_lies_within_half_a_step_of_the_best(scores: list[float]) -> None:
    best, optimum = tuned(GRID, scores)
    assert best / math.sqrt(2) * 0.999 <= optimum <= best * math.sqrt(2) * 1.001


def test_a_longer_run_gets_a_smaller_rate() -> None:
    assert for_horizon(4e-3, 600, 2400, 0.5) == pytest.approx(2e-3)
    assert for_horizon(4e-3, 600, 2400, 0.0) == 4e-3
    assert for_horizon(4e-3, 600, 2400, 0.32) == 0.002567
