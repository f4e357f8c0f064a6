"""IsoFLOP profiles: a parabola of the loss in log N for each budget of compute, and a power law through their
lowest points (Hoffmann et al. 2022, arXiv 2203.15556, section 3.2).

It needs no law of the loss. Even without noise its exponents are somewhat off where sizes are tried far from the
best one, or unevenly about it, for the true profile is no parabola; no interval shows that. numpy and scipy only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from headtohead.errors import UserError
from headtohead.measure.scaling.fitting import Asked, Fitted, Tell
from headtohead.measure.scaling.intervals import Sample, as_pairs, percentile, widening
from headtohead.measure.scaling.solver import Array
from headtohead.measure.scaling.table import FLOPS_PER_PARAMETER_AND_TOKEN, Table

SAME_BUDGET = 0.10
"""Runs whose compute is within this share of the smallest one's are of one budget."""
FEWEST = 4
"""Runs of a budget: three make a parabola, whatever they are."""
NAMES = ("N_exponent", "N_coefficient", "D_exponent", "D_coefficient")
EXPONENTS = ("N_exponent", "D_exponent")


@dataclass(frozen=True)
class Profile:
    """The runs of one budget. size, tokens: logs (n,). loss (n,). compute: their geometric mean."""

    compute: float
    size: Array
    tokens: Array
    loss: Array

    @property
    def design(self) -> Array:
        """(n, 3) columns of the parabola, about the mean size."""
        z = self.size - self.size.mean()
        return np.stack([np.ones_like(z), z, z * z], axis=1)

    def lowest(self, coefficients: Array) -> Array:
        """(R,) log N where the parabolas (R, 3) are lowest; NaN where they are not hollow."""
        _, slope, bend = coefficients.T
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(bend > 0, self.size.mean() - slope / (2 * bend), np.nan)

    def tokens_at(self, size: Array) -> Array:
        """(R,) log D at these log N, along the line through the runs: where C = 6 N D, C / (6 N) itself."""
        z = self.size - self.size.mean()
        slope = z @ self.tokens / (z @ z)
        return self.tokens.mean() + slope * (size - self.size.mean())


def fit_isoflop(table: Table, asked: Asked, stream: int = 0, tell: Tell | None = None) -> Fitted:
    """Fit parabolas and the power laws of N_opt and D_opt in C; arguments as for `fitting.fit_table`.

    Intervals (percentile): residuals of all parabolas, each over sqrt(1 - leverage) and as a share of its
    budget's loss, are drawn anew on the sizes that were tried, so that no draw lacks a size.

    Raises:
        UserError: a bad cell, or fewer than 2 budgets with a lowest point among their sizes.
    """
    start = time.perf_counter()
    kept, dropped = table.without_largest(asked.y, asked.drop_largest)
    total = asked.resamples * (1 + len(asked.also))
    told: dict[str, Any] = {}
    sample = Sample(np.empty(0), np.empty((0, 4)), np.empty((0, 4)))
    countings: dict[str, Any] = {}
    for place, column in enumerate((asked.x[0], *asked.also)):
        rng = np.random.default_rng([asked.seed, stream, place])
        profiles, notes = _profiles(kept, asked, column)
        one, one_told = _fit(profiles, asked, rng, str(table.path))
        countings[column] = {
            "exponents": {name: one_told["parameters"][name] for name in EXPONENTS},
            "intervals": {name: one_told["intervals"][name] for name in EXPONENTS} if asked.resamples else {},
        }
        if place == 0:
            sample, told = one, one_told
            told["notes"] = notes + told["notes"]
        if tell is not None:
            tell(asked.resamples * (place + 1), total)
    told = {
        "law": asked.law,
        "method": "parabolas by least squares",
        "columns": {"x": list(asked.x), "y": asked.y, "compute": asked.compute[0]},
        "points": len(kept),
        "left_out_lines": list(dropped),
        **told,
        "countings": countings,
        "seconds": time.perf_counter() - start,
    }
    return Fitted(NAMES, sample, told)


def _profiles(table: Table, asked: Asked, column: str) -> tuple[list[Profile], list[str]]:
    """The budgets with enough runs, from the smallest, and a note of the ones without."""
    compute = table.compute(asked.compute[0])
    size = table.positive(column, "--x" if column == asked.x[0] else "--also")
    loss = table.positive(asked.y, "--y")
    worked_out = compute / (FLOPS_PER_PARAMETER_AND_TOKEN * size)
    tokens = table.positive("D", "--x") if "D" in table.columns else worked_out
    groups: list[list[int]] = []
    for row in np.argsort(compute, kind="stable"):
        if groups and compute[row] <= compute[groups[-1][0]] * (1 + SAME_BUDGET):
            groups[-1].append(int(row))
        else:
            groups.append([int(row)])
    enough = [g for g in groups if len(g) >= FEWEST and len(np.unique(np.round(np.log(size[g]), 6))) >= 3]
    notes = []
    if len(enough) < len(groups):
        few = len(groups) - len(enough)
        runs = len(table) - sum(map(len, enough))
        notes.append(f"{few} budgets ({runs} runs) have fewer than {FEWEST} runs or 3 sizes and are left out")
    made = [
        Profile(float(np.exp(np.log(compute[g]).mean())), np.log(size[g]), np.log(tokens[g]), loss[g])
        for g in enough
    ]
    return made, notes


def _fit(
    profiles: list[Profile], asked: Asked, rng: np.random.Generator, where: str
) -> tuple[Sample, dict[str, Any]]:
    notes: list[str] = []
    good: list[Profile] = []
    parabolas: list[Array] = []
    points: list[dict[str, Any]] = []
    squares = 0.0
    for profile in profiles:
        coefficients = np.linalg.pinv(profile.design) @ profile.loss
        lowest = profile.lowest(coefficients[None])[0]
        inside = bool(profile.size.min() <= lowest <= profile.size.max())
        point: dict[str, Any] = {"C": profile.compute, "runs": len(profile.size), "used": inside}
        if inside:
            good.append(profile)
            parabolas.append(coefficients)
            squares += float(np.sum((profile.design @ coefficients - profile.loss) ** 2))
            tokens = float(np.exp(profile.tokens_at(lowest)))
            z = lowest - profile.size.mean()
            point |= {"N": float(np.exp(lowest)), "D": tokens, "loss": float(coefficients @ [1, z, z * z])}
        points.append(point)
    if len(good) < len(profiles):
        notes.append(
            f"{len(profiles) - len(good)} budgets are lowest beyond the sizes that were tried and are not used"
        )
    if len(good) < 2:
        raise UserError(
            f"{where}: {len(good)} budgets have a lowest loss among at least {FEWEST} runs; "
            f"a power law of the best size needs 2"
        )
    compute = np.log([profile.compute for profile in good])
    ends = np.array([p.lowest(c[None]) for p, c in zip(good, parabolas, strict=True)]).T
    estimate = _laws(good, compute, ends)[0]
    told: dict[str, Any] = {
        "parameters": dict(zip(NAMES, map(float, estimate), strict=True)),
        "intervals": {},
        "resamples": asked.resamples,
        "objective": squares,
    }
    sample = Sample(estimate, np.empty((0, 4)), np.empty((0, 4)))
    told["held_out"] = None
    drawn = np.empty((0, len(good)))
    if asked.resamples:
        drawn, freedom = _draws(good, parabolas, asked.resamples, rng)
        sample = Sample(estimate, _laws(good, compute, drawn), np.empty((0, 4)), freedom)
        told["intervals"] = as_pairs(NAMES, percentile(sample.draws))
        flat = float(np.isnan(drawn).mean())
        if flat > 0.01:
            notes.append(f"{flat:.0%} of the parabolas of the resamples are not hollow and are not used")
    if len(good) >= 3:
        told["held_out"] = _held_out(good, compute, ends, drawn)
    told["budgets"] = points
    told["notes"] = notes
    return sample, told


def _laws(profiles: list[Profile], compute: Array, sizes: Array) -> Array:
    """(R, 4) `NAMES` from the best log sizes (R, budgets): lines of log N and log D in log C. NaN sizes count
    for nothing; all NaN where fewer than two are left.
    """
    tokens = np.stack([p.tokens_at(column) for p, column in zip(profiles, sizes.T, strict=True)], axis=1)
    there = np.isfinite(sizes)
    count = there.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        middle = (there * compute).sum(axis=1) / count
        away = np.where(there, compute - middle[:, None], 0.0)
        result = np.empty((len(sizes), 4))
        for place, values in ((0, sizes), (2, tokens)):
            filled = np.where(there, values, 0.0)
            slope = (away * filled).sum(axis=1) / (away**2).sum(axis=1)
            result[:, place] = slope
            result[:, place + 1] = np.exp(filled.sum(axis=1) / count - slope * middle)
    return result


def _draws(
    profiles: list[Profile], parabolas: list[Array], resamples: int, rng: np.random.Generator
) -> tuple[Array, int]:
    """(R, budgets) best log sizes under residuals drawn anew. They are as much larger as Student's t is wider
    than the normal distribution, for their spread is known from few runs; also its degrees of freedom.
    """
    left: list[Array] = []
    for profile, coefficients in zip(profiles, parabolas, strict=True):
        design = profile.design
        leverage = np.einsum("ij,ji->i", design, np.linalg.pinv(design))
        residual = profile.loss - design @ coefficients
        free = leverage < 1 - 1e-9  # a run that its parabola passes through shows no noise
        left.append(residual[free] / np.sqrt(1 - leverage[free]) / profile.loss.mean())
    pool = np.concatenate(left)
    freedom = max(len(pool) - 3 * len(profiles), 1)
    pool = (pool - pool.mean()) * widening(freedom)
    columns: list[Array] = []
    for profile, coefficients in zip(profiles, parabolas, strict=True):
        noise = rng.choice(pool, size=(resamples, len(profile.loss))) * profile.loss.mean()
        columns.append(
            profile.lowest((profile.design @ coefficients + noise) @ np.linalg.pinv(profile.design).T)
        )
    return np.stack(columns, axis=1), freedom


def _held_out(profiles: list[Profile], compute: Array, ends: Array, drawn: Array) -> dict[str, Any]:
    """The best size of the largest budget, predicted from the smaller ones."""

    def predicted(sizes: Array) -> Array:
        laws = _laws(profiles[:-1], compute[:-1], sizes[:, :-1])
        with np.errstate(divide="ignore"):  # a draw so steep that its coefficient is nothing
            return np.log(laws[:, 1]) + laws[:, 0] * compute[-1]

    told: dict[str, Any] = {
        "variable": "C",
        "from": float(np.exp(compute[-1])),
        "observed": float(np.exp(ends[0, -1])),
        "predicted": float(np.exp(predicted(ends)[0])),
        "mean_log_error": float(predicted(ends)[0] - ends[0, -1]),
    }
    if len(drawn):
        told["interval"] = [float(np.exp(bound)) for bound in percentile(predicted(drawn)[:, None])[:, 0]]
    return told
