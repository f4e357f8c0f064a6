"""The rules under which a claim is supported, contradicted or undecided at this scale.

A rule is written out in `RULES`, to be printed beside what it decided, and applied region by region.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from headtohead.measure.power import ALPHA
from headtohead.measure.statistics import Comparison, holm

ClaimOutcome = Literal["supported", "contradicted", "undecided"]

RULES: dict[str, str] = {
    "does-not-beat": (
        "Each contrast goes from the plainer arm to the one that is said not to beat it. Supported: "
        "in every contrast and region the whole 95 % interval lies above minus the margin, so no gain "
        "as large as the margin is left. Contradicted: in one contrast and region the gain is "
        "different from zero after Holm's correction and its whole interval lies beyond the margin. "
        "Undecided: anything else, and wherever a contrast is not judged."
    ),
    "edge-goes-away": (
        "The first contrast is at equal parameters, the second goes on from it to more parameters; "
        "both together are the edge. Supported: in every region the edge is different from zero after "
        "Holm's correction with its whole 95 % interval beyond the margin, and so is what the second "
        "contrast gains, while at equal parameters the whole interval lies above minus the margin. "
        "Contradicted: in one region there is, at equal parameters, a gain that is different from zero "
        "after Holm's correction with its whole interval beyond the margin. Undecided: anything else, also "
        "where there is no edge to explain."
    ),
    "beats": (
        "Each contrast goes from the arm that is said to be worse to the one that is said to be better. "
        "Supported: in every contrast and region there is a gain that is different from zero after Holm's "
        "correction, with its whole 95 % interval beyond the margin. Contradicted: in one contrast and "
        "region the whole interval, each for itself, lies above minus the margin, so no gain as large as the "
        "margin is left. Undecided: anything else, and wherever a contrast is not judged."
    ),
    "keeps-where-other-loses": (
        "Both contrasts take the same thing away, the first from the network that is said to do without it, "
        "the second from the one that is said to fail. To lose is to need more bits by more than the margin. "
        "Supported: in every region of the first contrast the whole 95 % interval lies below the margin, and "
        "in every region of the second there is a loss that is different from zero after Holm's correction "
        "with its whole interval beyond the margin. Contradicted: the first contrast has such a loss in one "
        "region, or the whole interval of the second lies below the margin in one. Undecided: anything else."
    ),
    "steadier": (
        "Each contrast goes from the arm that is said to train less steadily to the steadier one. Both were "
        "trained at the same learning rates under the same seeds; a run is unsteady if its loss was not "
        "finite, stood out at some step above those before it (by more than 6 robust standard deviations and "
        "2 %), or ended more than 2 % above the lowest point of its curve. Of the pairs in which one run was "
        "steady and the other was not, McNemar's exact test asks for the direction, after Holm's correction "
        "over the claim's contrasts; it takes the pairs of one seed, which start alike, for independent. "
        "Supported: every contrast has fewer unsteady runs, with p below 0.05. "
        "Contradicted: one has more, with p below 0.05. Undecided: anything else, also where hardly a run "
        "was unsteady."
    ),
}
"""Decision rules by name, as they are printed. A difference below zero is a gain: fewer bits per byte."""


@dataclass(frozen=True)
class RegionFinding:
    """How a claim stands in one region, and why."""

    region: str
    outcome: ClaimOutcome
    reason: str


def together(outcomes: Sequence[ClaimOutcome]) -> ClaimOutcome:
    """A claim speaks of all cells: one that contradicts it is enough, and it takes all of them to support
    it.
    """
    if "contradicted" in outcomes:
        return "contradicted"
    return "supported" if outcomes and all(o == "supported" for o in outcomes) else "undecided"


def _gains(c: Comparison) -> bool:
    """`arm_to` is better, and by more than the margin."""
    return c.beyond_margin and c.difference < 0


def _silent(c: Comparison) -> bool:
    return c.outcome in ("no verdict", "not judged")


def does_not_beat(region: str, cells: Sequence[Comparison], margin: float) -> RegionFinding:
    """RULES["does-not-beat"] in one region."""
    return _of_gains(region, cells, margin, gain="contradicted", none="supported")


def beats(region: str, cells: Sequence[Comparison], margin: float) -> RegionFinding:
    """RULES["beats"] in one region."""
    return _of_gains(region, cells, margin, gain="supported", none="contradicted")


def _of_gains(
    region: str, cells: Sequence[Comparison], margin: float, *, gain: ClaimOutcome, none: ClaimOutcome
) -> RegionFinding:
    """What a `gain` beyond the margin means for the claim in one region, and what it means that `none` is left."""
    outcomes: list[ClaimOutcome] = []
    reasons: list[str] = []
    for c in cells:
        if _silent(c):
            outcome, reason = "undecided", c.outcome
        elif _gains(c):
            outcome, reason = gain, "a gain beyond the margin"
        elif c.interval[0] > -margin:
            outcome, reason = none, "no gain as large as the margin"
        else:
            outcome, reason = "undecided", "a gain as large as the margin is neither shown nor ruled out"
        outcomes.append(outcome)
        reasons.append(f"{c.contrast.name}: {reason}")
    return RegionFinding(region, together(outcomes), ", ".join(reasons))


def keeps_where_other_loses(
    region: str, keeps: Sequence[Comparison], loses: Sequence[Comparison], margin: float
) -> RegionFinding:
    """RULES["keeps-where-other-loses"]: the first contrast in its regions, the second in its own."""
    outcomes: list[ClaimOutcome] = []
    reasons: list[str] = []
    for c, may in (*((c, False) for c in keeps), *((c, True) for c in loses)):
        lost, kept = c.beyond_margin and c.difference > 0, c.interval[1] < margin
        if _silent(c) or not (lost or kept):
            outcomes.append("undecided")
            said = c.outcome if _silent(c) else "a loss as large as the margin is neither shown nor ruled out"
        else:
            outcomes.append("supported" if lost == may else "contradicted")
            said = "a loss beyond the margin" if lost else "no loss as large as the margin"
        reasons.append(f"{c.contrast.name}: {said}")
    return RegionFinding(region, together(outcomes), ", ".join(reasons))


Steady = Mapping[tuple[Any, ...], bool]
"""Whether an arm's run at a learning rate, under a seed and other settings, went steadily."""


@dataclass(frozen=True)
class Steadiness:
    """The runs of two arms at the same rates and seeds. only_first, only_second: pairs in which that arm's run alone
    was unsteady. p: McNemar's exact test, two-sided.
    """

    name: str
    runs: int
    first: int
    second: int
    only_first: int
    only_second: int
    p: float


def steadiness(name: str, first: Steady, second: Steady) -> Steadiness:
    """Count the pairs, and test the direction of those that differ against a fair coin."""
    shared = [key for key in first if key in second]
    only_first = sum(not first[key] and second[key] for key in shared)
    only_second = sum(first[key] and not second[key] for key in shared)
    n, k = only_first + only_second, min(only_first, only_second)
    p = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0
    bad_first, bad_second = (sum(not of[key] for key in shared) for of in (first, second))
    return Steadiness(name, len(shared), bad_first, bad_second, only_first, only_second, p)


def steadier(found: Sequence[Steadiness], alpha: float = ALPHA) -> RegionFinding:
    """RULES["steadier"] over the contrasts of a claim."""
    outcomes: list[ClaimOutcome] = []
    reasons: list[str] = []
    for one, p in zip(found, holm([one.p for one in found]), strict=True):
        if p >= alpha:
            outcomes.append("undecided")
        else:
            outcomes.append("supported" if one.only_first > one.only_second else "contradicted")
        reasons.append(
            f"{one.name}: unsteady {one.first} and {one.second} of {one.runs} runs; {one.only_first} pairs against "
            f"{one.only_second}, p {p:.2g}"
        )
    return RegionFinding("training", together(outcomes), ", ".join(reasons))


def edge_goes_away(
    region: str, equal: Comparison, more: Comparison, edge: Comparison, margin: float
) -> RegionFinding:
    """RULES["edge-goes-away"] in one region: at equal parameters, what more of them bring, and both together."""
    if not _silent(equal) and _gains(equal):
        return RegionFinding(
            region, "contradicted", "the edge is there at equal parameters, beyond the margin"
        )
    if _silent(equal) or _silent(more) or _silent(edge):
        return RegionFinding(region, "undecided", "no verdict on a contrast it rests on")
    if not _gains(edge):
        none = edge.interval[0] > -margin
        why = (
            "no edge to explain, even with more parameters"
            if none
            else "the edge with more parameters is not shown"
        )
        return RegionFinding(region, "undecided", why)
    if equal.interval[0] > -margin:
        if not _gains(more):
            return RegionFinding(region, "undecided", "that more parameters bring the edge is not shown")
        return RegionFinding(
            region, "supported", "an edge with more parameters, none as large as the margin at equal ones"
        )
    return RegionFinding(
        region,
        "undecided",
        "an edge at equal parameters as large as the margin is neither shown nor ruled out",
    )
