"""Do 95 % intervals of fits hold the truth 95 times in 100? On laws and noise that are known. Slow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.measure.scaling_tables import CHINCHILLA, POWER, Array, ladder, losses, steps, write

from headtohead.measure.scaling.fitting import Asked, Method, Points, fit_points
from headtohead.measure.scaling.intervals import bca, difference, percentile
from headtohead.measure.scaling.isoflop import fit_isoflop
from headtohead.measure.scaling.laws import Counting, LawName, figures
from headtohead.measure.scaling.solver import log_law
from headtohead.measure.scaling.table import Table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

SIMULATIONS, RESAMPLES = 500, 200
LOW, HIGH = 0.93, 0.97
"""Two standard errors of 500 simulations about 0.95."""
OTHER = np.array([np.log(1.7), np.log(700.0), 0.37, np.log(1500.0), 0.36])
"""A second arm's law: exponents that differ from `CHINCHILLA`'s by 0.03 and -0.01."""


def tell(what: str, shares: Array) -> None:
    print(what, " ".join(f"{100 * share:.1f}" for share in shares), flush=True)


@pytest.mark.parametrize(
    ("law", "truth", "other", "x", "method", "noise"),
    [
        ("chinchilla", CHINCHILLA, OTHER, ladder(8, 8), "huber", 0.005),
        ("chinchilla", CHINCHILLA, OTHER, ladder(6, 6), "huber", 0.005),
        ("chinchilla", CHINCHILLA, OTHER, ladder(8, 8), "projection", 0.005),
        ("power", POWER, np.add(POWER, [0, 0.5, 0.03]), steps(24), "huber", 0.005),
        pytest.param(
            *("power", POWER, np.add(POWER, [0, 0.5, 0.03]), steps(24), "projection", 0.005),
            marks=pytest.mark.xfail(reason="differences of E are somewhat wide: 97.6 of 100 hold the truth"),
        ),
    ],
    ids=["chinchilla-64", "chinchilla-36", "chinchilla-64-projection", "power-24", "power-24-projection"],
)
def test_intervals_of_fits_and_of_differences_hold_the_truth(
    law: LawName, truth: Array, other: Array, x: Array, method: Method, noise: float
) -> None:
    asked = Asked(law, ("N", "D")[: len(x)], method=method, resamples=RESAMPLES)
    countings = [Counting("C = 6ND")] if law == "chinchilla" else []

    def all_figures(parameters: Array) -> Array:
        return np.concatenate([figures(law, parameters), *(c.exponents(parameters) for c in countings)])

    of_fit, plain, of_difference = [], [], []
    compared = [
        0,
        *range(1 + len(x), len(all_figures(truth))),
    ]  # E and the exponents, as arms are compared by
    true, gap = all_figures(truth), all_figures(other) - all_figures(truth)
    for simulation in range(SIMULATIONS):
        rng = np.random.default_rng([7, simulation])
        first, second = (
            fit_points(Points(x, losses(one, x, noise, 2 * simulation + arm)), asked, countings, rng)[1]
            for arm, one in enumerate((truth, other))
        )
        low, high = bca(first)
        of_fit.append((low <= true) & (true <= high))
        low, high = percentile(first.draws)
        plain.append((low <= true) & (true <= high))
        low, high = difference(first, second)[1]
        of_difference.append(((low <= gap) & (gap <= high))[compared])
    name = f"{law} {method} {x.shape[1]} points:"
    tell(f"{name} fits", np.mean(of_fit, axis=0))
    tell(f"{name} differences", np.mean(of_difference, axis=0))
    tell(f"{name} fits, percentile", np.mean(plain, axis=0))
    for shares in (np.mean(of_fit, axis=0), np.mean(of_difference, axis=0)):
        assert shares.min() >= LOW and shares.max() <= HIGH


WIDE = pytest.mark.xfail(
    reason="exponents of many IsoFLOP budgets are somewhat wide: 97.2 of 100 hold the truth"
)


@pytest.mark.parametrize(
    ("budgets", "sizes", "noise"),
    [(5, 7, 0.002), (4, 5, 0.002), pytest.param(8, 9, 0.005, marks=WIDE)],
)
def test_intervals_of_isoflop_hold_the_truth(budgets: int, sizes: int, noise: float, tmp_path: Path) -> None:
    compute = np.repeat(np.geomspace(1e18, 1e20, budgets), sizes)
    best = Counting("C = 6ND").optimum(CHINCHILLA, compute)[0]
    size = best + np.tile(np.linspace(-1.2, 1.2, sizes), budgets)
    x = np.stack([size, np.log(compute / 6) - size])

    def table(noise: float, seed: int) -> Table:
        rng = np.random.default_rng([budgets, seed])
        loss = np.exp(log_law(CHINCHILLA, x) + rng.normal(0, noise, x.shape[1]))
        return Table.read(write(tmp_path / "t.csv", {"N": np.exp(size), "C": compute, "loss": loss}))

    asked = Asked("isoflop", ("N",), resamples=RESAMPLES)
    # The parabolas' own answer without noise is the truth here: how far it is from the law's is another matter.
    truth = fit_isoflop(table(0.0, 0), asked).sample.estimate[0]
    of_fit, of_difference = [], []
    for simulation in range(SIMULATIONS):
        first, second = (
            fit_isoflop(table(noise, 2 * simulation + arm), asked, stream=2 * simulation + arm)
            for arm in (0, 1)
        )
        low, high = first.told["intervals"]["N_exponent"]
        of_fit.append(low <= truth <= high)
        low, high = difference(first.sample, second.sample)[1][:, 0]
        of_difference.append(low <= 0 <= high)
    shares = np.array([np.mean(of_fit), np.mean(of_difference)], dtype=np.float64)
    tell(f"isoflop {budgets} x {sizes}, noise {noise}: fit and difference", shares)
    assert shares.min() >= LOW and shares.max() <= HIGH
