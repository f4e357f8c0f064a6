"""What a ladder lets be said: the law of each arm, the differences of their exponents, who has the lower frontier.

The laws are fitted by `scaling`; here they are asked what a claim asks. numpy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headtohead.measure.claims import ClaimOutcome
from headtohead.measure.scaling.arms import compared, plain
from headtohead.measure.scaling.fitting import Asked, Fitted
from headtohead.measure.scaling.intervals import percentile
from headtohead.measure.scaling.laws import EXPONENTS, Counting, log_rows
from headtohead.measure.scaling.solver import Array, log_law
from headtohead.measure.scaling.table import Table

RULES: dict[str, str] = {
    "same-exponents": (
        "Chinchilla's law L(N, D) = E + A N^-alpha + B D^-beta is fitted to each arm's runs (Huber's loss of the log, "
        "BCa intervals from resampled runs). Supported: of both exponents the whole 95 % interval of the difference "
        "lies inside the margin. Contradicted: of one the interval leaves zero out and lies beyond the margin whole. "
        "Undecided: anything else. Each interval is for its exponent by itself."
    ),
    "lower-frontier": (
        "From the two arms' laws follows the least loss that a budget of training FLOPs buys, counted by visible "
        "pairs, at six budgets from the smallest to the largest that both arms were trained for. Supported: the "
        "second arm's loss is lower at all six, and at the largest the whole 95 % interval of the difference "
        "(percentiles over the resampled runs, arms independently) lies below zero. Contradicted: at the largest "
        "it lies above zero whole. Undecided: anything else."
    ),
}
"""Decision rules for claims about laws, as they are printed."""

POINTS = 6


@dataclass(frozen=True)
class Law:
    """One way to fit a ladder: which columns are N and D, and which counts compute."""

    name: str
    x: tuple[str, str]
    compute: str


LAWS = (
    Law("tokens shown", ("N", "D"), "FLOPs"),
    Law("tokens with loss", ("N", "D_supervised"), "FLOPs"),
)
"""The same runs under two countings of what was learnt from."""


@dataclass(frozen=True)
class Finding:
    """How a claim about laws stands, and why."""

    outcome: ClaimOutcome
    reason: str


def asked(law: Law, y: str, resamples: int) -> Asked:
    """What is asked of `scaling`; the exponents under N without embeddings are told beside."""
    return Asked(
        law="chinchilla",
        x=law.x,
        y=y,
        also=("N_non_embedding",),
        compute=(law.compute, "6ND"),
        resamples=resamples,
    )


def fits(
    tables: Mapping[str, Table], law: Law, y: str, resamples: int
) -> tuple[dict[str, Fitted], dict[str, Any]]:
    """Every arm's law, and all differences, see `scaling.arms.compared`.

    Raises:
        UserError: an arm of too few runs or sizes.
    """
    return compared(tables, asked(law, y, resamples), "arm")


def frontiers(
    tables: Mapping[str, Table], found: Mapping[str, Fitted], law: Law, points: int = POINTS
) -> dict[str, Any]:
    """The least loss for a budget of FLOPs that all arms were trained for, by each arm's law, and every arm's
    difference to the first with its interval where the runs were resampled.

    Returns:
        "C": the budgets; "loss": arm to values; "intervals": arm to pairs; "difference" and "difference_intervals":
        of every other arm, to the first. A value is None where the law has no least loss (an exponent is not above
        zero), a bound where those of too many resamples have none.
    """
    compute = {arm: table.positive(law.compute, "--compute") for arm, table in tables.items()}
    low = max(float(c.min()) for c in compute.values())
    high = min(float(c.max()) for c in compute.values())
    budgets = np.geomspace(low, high, points)
    loss: dict[str, Array] = {}
    drawn: dict[str, Array] = {}
    for arm, table in tables.items():
        x = log_rows([table.positive(name, "--x") for name in law.x])
        counting = Counting.of_column(law.compute, x, compute[arm]) or Counting("C = 6ND")
        sample = found[arm].sample
        loss[arm] = _least(counting, sample.estimate[None, :5], budgets)[0]
        drawn[arm] = _least(counting, sample.draws[:, :5], budgets)
    first, *others = tables
    told: dict[str, Any] = {
        "C": budgets.tolist(),
        "loss": {arm: values.tolist() for arm, values in loss.items()},
        "intervals": {arm: bounds_of(draws) for arm, draws in drawn.items()},
        "first": first,
        "difference": {arm: (loss[arm] - loss[first]).tolist() for arm in others},
        "difference_intervals": {},
    }
    for arm in others:
        count = min(len(drawn[arm]), len(drawn[first]))
        told["difference_intervals"][arm] = bounds_of(drawn[arm][:count] - drawn[first][:count])
    return plain(told)


def _least(counting: Counting, figures: Array, budgets: Array) -> Array:
    """(R, m) the loss at the optimum of each budget, of laws (R, 5) as E, A, B, alpha, beta."""
    if not len(figures):
        return np.empty((0, len(budgets)))
    e, a, b, alpha, beta = figures.T
    # A term that is nothing has a log of -inf, and a law without a least loss a NaN, which is told as None.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        parameters = np.stack([np.log(e), np.log(a), alpha, np.log(b), beta], axis=1)
        best = counting.optimum(parameters, budgets)  # (R, 2, m)
        return np.stack(
            [np.exp(log_law(parameters[r], best[r])) for r in range(len(parameters))]
        )  # one law at a time: each has points of its own


def bounds_of(draws: Array) -> list[list[float]]:
    """The 95 % interval (percentiles) of each column of draws (R, m); empty without draws.

    A draw that is not a number could lie anywhere: it counts as beyond either bound.
    """
    if not len(draws):
        return []
    unknown = np.isnan(draws)
    low = percentile(np.where(unknown, -np.inf, draws))[0]
    high = percentile(np.where(unknown, np.inf, draws))[1]
    return np.stack([low, high], axis=1).tolist()


# --------------------------------------------------------------------------------------------------------
# Claims


def same_exponents(told: Mapping[str, Any], first: str, second: str, margin: float) -> Finding:
    """RULES["same-exponents"] of a document of `fits`."""
    pair = next(
        (d for d in told["differences"] if {d["from"], d["to"]} == {first, second}),
        {"intervals": {}, "parameters": {}},
    )
    sign = 1 if pair.get("from") == first else -1
    outcomes: list[ClaimOutcome] = []
    reasons: list[str] = []
    for name in EXPONENTS["chinchilla"]:
        bounds = pair["intervals"].get(name)
        if bounds is None or None in bounds:
            return Finding("undecided", "there are no intervals yet")
        low, high = sorted(sign * bound for bound in bounds)
        if -margin < low and high < margin:
            outcomes.append("supported")
        elif low >= margin or high <= -margin:
            outcomes.append("contradicted")
        else:
            outcomes.append("undecided")
        reasons.append(
            f"{name}: {_signed(sign * pair['parameters'][name])} ({_signed(low)} to {_signed(high)})"
        )
    if "contradicted" in outcomes:
        outcome: ClaimOutcome = "contradicted"
    else:
        outcome = "supported" if set(outcomes) == {"supported"} else "undecided"
    return Finding(outcome, "; ".join(reasons))


def lower_frontier(frontier: Mapping[str, Any], first: str, second: str) -> Finding:
    """RULES["lower-frontier"] of what `frontiers` gave, one of the two being its first arm."""
    sign = 1 if frontier["first"] == first else -1
    other = second if sign == 1 else first
    differences = frontier["difference"][other]
    if not all(map(_known, differences)):
        without = [arm for arm in (first, second) if not all(map(_known, frontier["loss"][arm]))]
        reasons = [f"the fitted law of {arm} has no least loss for a budget" for arm in without]
        return Finding("undecided", "; ".join(reasons))
    intervals = frontier["difference_intervals"][other]
    if not intervals:
        return Finding("undecided", "there are no intervals yet")
    if not all(map(_known, intervals[-1])):
        return Finding(
            "undecided",
            f"in too many resamples the law of {first} or of {second} has no least loss for a budget, so the "
            "difference has no interval",
        )
    differences = [sign * value for value in differences]
    low, high = sorted(sign * bound for bound in intervals[-1])
    reason = (
        f"at {frontier['C'][-1]:.2g} FLOPs {_signed(differences[-1])} bits per byte ({_signed(low)} to "
        f"{_signed(high)}); lower at {sum(d < 0 for d in differences)} of {len(differences)} budgets"
    )
    if high < 0 and all(d < 0 for d in differences):
        return Finding("supported", reason)
    return Finding("contradicted" if low > 0 else "undecided", reason)


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def decide(
    claims: Sequence[Mapping[str, Any]], told: Mapping[str, Any], frontier: Mapping[str, Any], margin: float
) -> list[Finding]:
    """How each claim of a ladder stands."""
    found = []
    for claim in claims:
        if claim["rule"] == "same-exponents":
            found.append(same_exponents(told, claim["from"], claim["to"], margin))
        else:
            found.append(lower_frontier(frontier, claim["from"], claim["to"]))
    return found


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
