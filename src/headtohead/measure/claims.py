"""The rules under which a claim is supported, contradicted or undecided at this scale.

A rule is written out in `RULES`, to be printed beside what it decided, and applied region by region.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from headtohead.measure.statistics import Comparison

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
        "Holm's correction with its whole 95 % interval beyond the margin, while at equal parameters "
        "the whole interval lies above minus the margin. Contradicted: in one region there is, at "
        "equal parameters, a gain that is different from zero after Holm's correction with its whole "
        "interval beyond the margin. Undecided: anything else, also where there is no edge to "
        "explain."
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
    outcomes: list[ClaimOutcome] = []
    reasons: list[str] = []
    for c in cells:
        if _silent(c):
            outcomes.append("undecided")
            reasons.append(f"{c.contrast.name}: {c.outcome}")
        elif _gains(c):
            outcomes.append("contradicted")
            reasons.append(f"{c.contrast.name}: a gain beyond the margin")
        elif c.interval[0] > -margin:
            outcomes.append("supported")
            reasons.append(f"{c.contrast.name}: no gain as large as the margin")
        else:
            outcomes.append("undecided")
            reasons.append(f"{c.contrast.name}: a gain as large as the margin is neither shown nor ruled out")
    return RegionFinding(region, together(outcomes), ", ".join(reasons))


def edge_goes_away(region: str, equal: Comparison, edge: Comparison, margin: float) -> RegionFinding:
    """RULES["edge-goes-away"] in one region."""
    if not _silent(equal) and _gains(equal):
        return RegionFinding(
            region, "contradicted", "the edge is there at equal parameters, beyond the margin"
        )
    if _silent(equal) or _silent(edge):
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
        return RegionFinding(
            region, "supported", "an edge with more parameters, none as large as the margin at equal ones"
        )
    return RegionFinding(
        region,
        "undecided",
        "an edge at equal parameters as large as the margin is neither shown nor ruled out",
    )
