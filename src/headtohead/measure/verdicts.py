"""From a study's results to what may be said: one sentence for each contrast and region, one outcome for
each claim.

`judge` takes the lines of `results.jsonl` and the study as `plan.json` holds it, and says nothing that
`statistics` does not bear out. The rules under which a claim stands or falls are `RULES`, written to be
printed beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headtohead.errors import UserError
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
from headtohead.measure.power import PRIOR, smallest_detectable_effect
from headtohead.measure.statistics import (
    Comparison,
    Contrast,
    Level,
    Scores,
    decide,
    estimate,
    gate,
    levels,
)
from headtohead.measure.variance import Components
from headtohead.measure.wording import decimals, sentence

Result = Mapping[str, Any]

GATED = "visibility"
"""The factor whose contrasts are judged only where the input is used enough."""


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


@dataclass(frozen=True)
class Judgement:
    """All that may be said.

    final: no planned full run is still to come. Before that, verdicts are for looking at: whoever stops a
    study when it looks good sees differences that aren't there. No claim is decided before.
    edges: verdicts on what two contrasts of a claim make together. levels: each arm's own bits per byte by
    region.
    """

    final: bool
    verdicts: tuple[Verdict, ...]
    edges: tuple[Verdict, ...]
    claims: tuple[ClaimVerdict, ...]
    levels: Mapping[str, tuple[Level, ...]]


@dataclass(frozen=True)
class _Planned:
    contrast: Contrast
    factor: str
    phrase: str
    edge: bool


def judge(
    results: Sequence[Result],
    study: Mapping[str, Any],
    refused: Mapping[str, str] | None = None,
    searched: Mapping[str, Any] | None = None,
) -> Judgement:
    """What the finished full runs among `results` allow to be said about `study`.

    A contrast is judged in the regions that both its arms are scored in.

    Holm's family is all contrasts of the study, with the edges its claims need, in all regions. Contrasts
    of factor "visibility" pass the gate of the input's value (`statistics.gate`).

    Args:
        results: lines of results.jsonl. Rehearsals and stopped runs are never judged.
        study: arms, seeds, contrasts, claims, margin and data.regions, as in plan.json's "study".
        refused: contrast to reason, for contrasts whose arms differ in something the study did not declare.
        searched: the search of the arms' learning rates, whose runs tell how steadily an arm trains.

    Raises:
        UserError: runs that were scored on different text; a claim whose rule doesn't fit its contrasts.
    """
    margin: float = study["margin"]
    regions: list[str] = judged_regions(study)
    arms: list[str] = [arm["key"] for arm in study["arms"]]
    full = {(r["arm"], r["seed"]): r for r in results if r.get("rung") == "full"}
    finished = {key: r for key, r in full.items() if r.get("status") == "finished"}
    final = all((arm, seed) in full for arm in arms for seed in study["seeds"])
    planned = _planned(study)
    scores = {region: _scores(finished, arms, study["seeds"], region) for region in regions}

    estimates: list[Comparison] = []
    owners: list[tuple[str, _Planned]] = []
    for region in regions:
        table, here = scores[region], [p for p in planned if _scored_in(p, region, study)]
        owners += [(region, p) for p in here]
        if table is None:
            reason = "no full run has finished yet, and a rehearsal does not tell which arm is better"
            estimates += [Comparison(p.contrast, "no verdict", reason, (), 0) for p in here]
        else:
            estimates += estimate(table, [p.contrast for p in here], _kinds(finished))
    for i, e in enumerate(estimates):
        why = _refusal(e.contrast.name, refused or {}, study)
        if why:
            estimates[i] = Comparison(e.contrast, "no verdict", why, (), 0)
    tables = [scores[region] for region, _ in owners]
    decided = decide(estimates, [t.bytes if t else np.ones(1) for t in tables], margin)

    verdicts = [
        _verdict(comparison, p, region, finished, margin, final)
        for (region, p), comparison in zip(owners, decided, strict=True)
    ]
    edge_names = {p.contrast.name for p in planned if p.edge}
    return Judgement(
        final=final,
        verdicts=tuple(v for v in verdicts if v.name not in edge_names),
        edges=tuple(v for v in verdicts if v.name in edge_names),
        claims=tuple(
            _claim(claim, verdicts, regions, margin, final, study, searched)
            for claim in study.get("claims", ())
        ),
        levels={region: tuple(levels(t)) if t else () for region, t in scores.items()},
    )


def detectable_before(study: Mapping[str, Any], documents: int, components: Components = PRIOR) -> float:
    """The smallest difference, in bits per byte, that the study will find with power 0.8: before it runs.

    For the family that `judge` corrects for, and so many documents. See `smallest_detectable_effect`.
    """
    return smallest_detectable_effect(
        components,
        arms=len(study["arms"]),
        seeds=len(study["seeds"]),
        documents=documents,
        comparisons=sum(
            _scored_in(p, region, study) for p in _planned(study) for region in judged_regions(study)
        ),
    )


RISE = "rise"
"""Judged as a region: what the longest of the lengths that runs are scored at costs more than the training length."""


def judged_regions(study: Mapping[str, Any]) -> list[str]:
    """The study's regions, and the rise where lengths are scored."""
    regions = list(study["data"]["regions"])
    return [*regions, RISE] if study.get("evaluation", {}).get("lengths") else regions


# -- from results to tables


def _planned(study: Mapping[str, Any]) -> list[_Planned]:
    """The study's contrasts, then the edges its claims need."""
    by_name = {c["name"]: c for c in study["contrasts"]}
    planned = [
        _Planned(Contrast(c["name"], c["from"], c["to"]), c["factor"], c["sentence"].rstrip(" ."), False)
        for c in study["contrasts"]
    ]
    for claim in study.get("claims", ()):
        if claim.get("rule") != "edge-goes-away":
            continue
        chain = [by_name[name] for name in claim["contrasts"]]
        if len(chain) != 2 or chain[0]["to"] != chain[1]["from"]:
            raise UserError(
                f"claim '{claim['key']}': rule 'edge-goes-away' needs two contrasts, the second going on "
                "from the arm the first goes to"
            )
        contrast = Contrast(_edge(claim), chain[0]["from"], chain[1]["to"])
        if contrast.name not in {p.contrast.name for p in planned}:
            first, more = (c["sentence"].rstrip(" .") for c in chain)
            phrase = f"{first}, together with {more[:1].lower()}{more[1:]}"
            planned.append(_Planned(contrast, " and ".join(c["factor"] for c in chain), phrase, True))
    return planned


def _scored_in(planned: _Planned, region: str, study: Mapping[str, Any]) -> bool:
    ends = (planned.contrast.arm_from, planned.contrast.arm_to)
    own = [arm.get("regions") for arm in study["arms"] if arm["key"] in ends]
    region = "continuation" if region == RISE else region
    return all(regions is None or region in regions for regions in own)


def _edge(claim: Mapping[str, Any]) -> str:
    return " + ".join(claim["contrasts"])


def _refusal(name: str, refused: Mapping[str, str], study: Mapping[str, Any]) -> str:
    """Why a contrast is refused, empty if it isn't; an edge is refused with either of its parts."""
    parts = [
        name,
        *(part for claim in study.get("claims", ()) if _edge(claim) == name for part in claim["contrasts"]),
    ]
    return "; ".join(dict.fromkeys(refused[part] for part in parts if part in refused))


def _scores(
    finished: Mapping[tuple[str, int], Result], arms: Sequence[str], seeds: Sequence[int], region: str
) -> Scores | None:
    """The table of one region, None while there is no run. Documents of one group are added up."""
    found = {key: about for key, r in finished.items() if (about := _documents(r, region)) is not None}
    if not found:
        return None
    first_key, about = next(iter(found.items()))
    names, sizes = about["names"], np.array(about["bytes"][region], dtype=np.float64)
    groups = about.get("groups", names)
    clusters = list(dict.fromkeys(groups))
    member = np.array([[g == cluster for g in groups] for cluster in clusters], dtype=np.float64)
    bits = np.full((len(arms), len(seeds), len(clusters)), math.nan)
    for (arm, seed), there in found.items():
        if there["names"] != names or there["bytes"][region] != about["bytes"][region]:
            raise UserError(
                f"the runs of {arm} (seed {seed}) and {first_key[0]} (seed {first_key[1]}) were scored on "
                f"different {region} text: they cannot be compared"
            )
        if arm in arms and seed in seeds:
            bits[list(arms).index(arm), list(seeds).index(seed)] = member @ np.array(there["bits"][region])
    whole = member @ sizes
    kept = whole > 0
    return Scores(
        tuple(arms),
        tuple(seeds),
        tuple(c for c, keep in zip(clusters, kept, strict=True) if keep),
        bits[:, :, kept],
        whole[kept],
    )


def _documents(result: Result, region: str) -> Mapping[str, Any] | None:
    """What a run needed for each document of a region; None where it isn't scored there. Of the rise, stretches of text
    are the documents.
    """
    if region != RISE:
        return result["documents"] if region in result["documents"]["bytes"] else None
    found = result.get("length_blocks")
    if found is None or len(found["bits"]) < 2:
        return None
    lengths = sorted(found["bits"], key=float)
    one, longest = (found["bits"][length] for length in (lengths[0], lengths[-1]))
    names = [f"stretch {number}" for number in range(1, len(one) + 1)]
    rise = [after - before for before, after in zip(one, longest, strict=True)]
    return {"names": names, "bytes": {RISE: found["bytes"]}, "bits": {RISE: rise}}


def _kinds(finished: Mapping[tuple[str, int], Result]) -> dict[str, str]:
    """Arms by the number of their streams: known before the run, and what a threshold in training hangs
    on.
    """
    return {arm: f"{len(r['description']['streams'])} stacks" for (arm, _), r in finished.items()}


def _value_of_input(finished: Mapping[tuple[str, int], Result], arm: str, region: str) -> float:
    values = [
        r["value_of_input"][region]
        for (a, _), r in finished.items()
        if a == arm and region in r["value_of_input"]
    ]
    return float(np.mean(values)) if values else math.nan


# -- from tables to sentences


def _verdict(
    comparison: Comparison,
    planned: _Planned,
    region: str,
    finished: Mapping[tuple[str, int], Result],
    margin: float,
    final: bool,
) -> Verdict:
    arms = (planned.contrast.arm_from, planned.contrast.arm_to)
    values = [_value_of_input(finished, arm, region) for arm in arms]
    value = float(np.mean(values))
    cautions = [*comparison.notes]
    if comparison.outcome != "no verdict":
        if planned.factor == GATED:
            comparison = gate(comparison, value)
        if comparison.outcome != "not judged":
            cautions += [
                f"{arm} by itself hardly uses its input yet: it is worth {decimals(v)} bits per byte to it"
                for arm, v in zip(arms, values, strict=True)
                if v < 5 * comparison.smallest_detectable
            ]
    text = sentence(planned.phrase, region, comparison, margin)
    if not final and comparison.outcome != "no verdict":
        text = f"So far, with runs still to come: {text}"
    return Verdict(planned.contrast.name, planned.factor, region, comparison, value, text, tuple(cautions))


# -- from sentences to claims


def _claim(
    claim: Mapping[str, Any],
    verdicts: Sequence[Verdict],
    regions: Sequence[str],
    margin: float,
    final: bool,
    study: Mapping[str, Any],
    searched: Mapping[str, Any] | None,
) -> ClaimVerdict:
    rule = claim.get("rule")
    regions = [region for region in regions if not claim.get("regions") or region in claim["regions"]]
    if rule not in RULES:
        text = "the study states no decision rule for it"
        found = [RegionFinding(region, "undecided", text) for region in regions]
        return ClaimVerdict(
            claim["key"], claim["sentence"], "", "undecided", tuple(found), f"Undecided: {text}."
        )
    found = _findings(claim, rule, verdicts, regions, margin, study, searched)
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
    margin: float,
    study: Mapping[str, Any],
    searched: Mapping[str, Any] | None,
) -> list[RegionFinding]:
    """How the claim stands in each region, or as a whole where its rule speaks of all at once."""
    names = claim["contrasts"]
    if rule == "steadier":
        by_name = {c["name"]: c for c in study["contrasts"]}
        return [steadier([_steadiness(by_name[name], searched) for name in names])]
    if rule == "keeps-where-other-loses":
        keeps, loses = ([v for v in verdicts if v.name == name and v.region in regions] for name in names)
        where = " and ".join(dict.fromkeys(v.region for v in (*keeps, *loses)))
        return [
            keeps_where_other_loses(
                where, [v.comparison for v in keeps], [v.comparison for v in loses], margin
            )
        ]
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
            found.append(edge_goes_away(region, cells[0], here[_edge(claim)], margin))
    return found


def _steadiness(contrast: Mapping[str, Any], searched: Mapping[str, Any] | None) -> Steadiness:
    trials = [
        ((searched or {}).get("arms") or {}).get(contrast[end], {}).get("trials", ())
        for end in ("from", "to")
    ]
    steady = [{(t["learning_rate"], t["seed"]): not t["unsteady"] for t in of} for of in trials]
    return steadiness(contrast["name"], *steady)
