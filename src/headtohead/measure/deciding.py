"""How a claim stands, from the verdicts on its contrasts and from the search of the learning rates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from headtohead.measure.claims import (
    RULES,
    ClaimOutcome,
    RegionFinding,
    Steadiness,
    beats,
    does_not_beat,
    edge_goes_away,
    keeps_where_other_loses,
    steadier,
    steadiness,
    together,
)
from headtohead.measure.scored import judged_regions
from headtohead.measure.statistics import Comparison


@dataclass(frozen=True)
class Verdict:
    """One contrast in one region, with the sentence that says it.

    value_of_input: the mean of the two arms in bits per byte, NaN where unknown.
    sentence: what may be said, in plain words. cautions: what a careful reader should know besides.
    """

    name: str
    factor: str
    region: str
    comparison: Comparison
    value_of_input: float
    sentence: str
    cautions: tuple[str, ...]


@dataclass(frozen=True)
class ClaimVerdict:
    """How a claim stands at this scale. `rule`: the text of its decision rule."""

    key: str
    claim: str
    rule: str
    outcome: ClaimOutcome
    regions: tuple[RegionFinding, ...]
    sentence: str


def edge_name(claim: Mapping[str, Any]) -> str:
    """Of what the two contrasts of a claim make together."""
    return " + ".join(claim["contrasts"])


def claim_verdict(
    claim: Mapping[str, Any],
    verdicts: Sequence[Verdict],
    diverged: Sequence[tuple[str, int]],
    final: bool,
    study: Mapping[str, Any],
    searched: Mapping[str, Any] | None,
    refused: Mapping[str, str],
) -> ClaimVerdict:
    """How one claim of a study stands, by its rule; undecided until the study is `final`, and where runs diverged.

    Args:
        verdicts: on all contrasts and edges, in all regions.
        diverged: arm and seed of the full runs that stopped at a step of their own.
        searched, refused: as for `verdicts.judge`.
    """
    rule = claim.get("rule")
    regions = [r for r in judged_regions(study) if not claim.get("regions") or r in claim["regions"]]
    if rule not in RULES:
        text = "the study states no decision rule for it"
        found = [RegionFinding(region, "undecided", text) for region in regions]
        return ClaimVerdict(
            claim["key"], claim["sentence"], "", "undecided", tuple(found), f"Undecided: {text}."
        )
    if rule == "steadier":
        found = [_steadier(claim, study, searched, refused)]
    else:
        found = _findings(claim, rule, verdicts, regions, study)
        ends = {
            c[end] for c in study["contrasts"] for end in ("from", "to") if c["name"] in claim["contrasts"]
        }
        if lost := [(arm, seed) for arm, seed in diverged if arm in ends]:
            # The runs that are left are those that went well: what they say is not what the arm does.
            why = ", ".join(f"{arm} did not end under seed {seed}" for arm, seed in lost)
            found = [replace(f, outcome="undecided", reason=why) for f in found]
    if not final:
        found = [replace(f, outcome="undecided", reason="the study is not finished") for f in found]
    outcome = together([f.outcome for f in found])
    if final:
        details = "; ".join(f"{f.region}: {f.outcome} ({f.reason})" for f in found)
        text = f"{outcome.capitalize()} at this scale. {details[0].upper()}{details[1:]}."
    else:
        text = "Undecided: the study is not finished."
    return ClaimVerdict(claim["key"], claim["sentence"], RULES[rule], outcome, tuple(found), text)


def _findings(
    claim: Mapping[str, Any],
    rule: str,
    verdicts: Sequence[Verdict],
    regions: Sequence[str],
    study: Mapping[str, Any],
) -> list[RegionFinding]:
    """How the claim stands in each region, or as a whole where its rule speaks of all at once."""
    names, margin = claim["contrasts"], study["margin"]
    if rule == "keeps-where-other-loses":
        keeps, loses = ([v for v in verdicts if v.name == name and v.region in regions] for name in names)
        where = " and ".join(dict.fromkeys(v.region for v in (*keeps, *loses)))
        if keeps and loses:
            kept, lost = ([v.comparison for v in side] for side in (keeps, loses))
            return [keeps_where_other_loses(where, kept, lost, margin)]
        return [_nowhere(regions)]
    found: list[RegionFinding] = []
    for region in regions:
        here = {v.name: v.comparison for v in verdicts if v.region == region}
        cells = [here[name] for name in names if name in here]
        if len(cells) < len(names):
            continue  # no region of this claim's arms
        if rule == "does-not-beat":
            found.append(does_not_beat(region, cells, margin))
        elif rule == "beats":
            found.append(beats(region, cells, margin))
        else:
            found.append(edge_goes_away(region, cells[0], cells[1], here[edge_name(claim)], margin))
    return found or [_nowhere(regions)]


def _nowhere(regions: Sequence[str]) -> RegionFinding:
    where = " and ".join(regions) or "all regions"
    return RegionFinding(where, "undecided", "its contrasts are not scored there")


def _steadier(
    claim: Mapping[str, Any],
    study: Mapping[str, Any],
    searched: Mapping[str, Any] | None,
    refused: Mapping[str, str],
) -> RegionFinding:
    """Of the search's runs, which are paired by learning rate, seed and whatever else was searched."""
    arms = (searched or {}).get("arms") or {}
    found: list[Steadiness] = []
    for contrast in (c for c in study["contrasts"] if c["name"] in claim["contrasts"]):
        if why := refused.get(contrast["name"]):
            return RegionFinding("training", "undecided", f"{contrast['name']}: {why}")
        steady = [
            {
                (t["learning_rate"], t["seed"], json.dumps(t.get("settings", {}), sort_keys=True)): not t[
                    "unsteady"
                ]
                for t in arms.get(contrast[end], {}).get("trials", ())
            }
            for end in ("from", "to")
        ]
        found.append(steadiness(contrast["name"], *steady))
    return steadier(found)
