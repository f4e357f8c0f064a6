"""From a study's results to what may be said: one sentence for each contrast and region, one outcome for
each claim.

`judge` takes the lines of `results.jsonl` and the study as `plan.json` holds it, and says nothing that
`statistics` does not bear out. The rules under which a claim stands or falls are `claims.RULES`, written to be
printed beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headtohead.errors import UserError
from headtohead.measure.deciding import ClaimVerdict, Verdict, claim_verdict, edge_name
from headtohead.measure.power import PRIOR, smallest_detectable_effect
from headtohead.measure.scored import (
    RISE,
    Result,
    Runs,
    arms_scored,
    given_up,
    judged_regions,
    kinds,
    lengths_of,
    scores_of,
    value_of_input,
)
from headtohead.measure.statistics import (
    Comparison,
    Contrast,
    Level,
    decide,
    estimate,
    gate,
    levels,
)
from headtohead.measure.variance import Components
from headtohead.measure.wording import decimals, sentence

GATED = "visibility"
"""The factor whose contrasts are judged only where the input is used enough."""


@dataclass(frozen=True)
class Judgement:
    """All that may be said.

    final: no planned full run is still to come, or to be done again. Before that, verdicts are for looking at:
    whoever stops a study when it looks good sees differences that aren't there. No claim is decided before.
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
    ended = [key for key, r in full.items() if not given_up(r)]
    diverged = [key for key in ended if key not in finished]
    final = all((arm, seed) in ended for arm in arms for seed in study["seeds"])
    planned = _planned(study)
    scores = {region: scores_of(finished, study, region) for region in regions}

    estimates: list[Comparison] = []
    owners: list[tuple[str, _Planned]] = []
    for region in regions:
        table, here = scores[region], [p for p in planned if _scored_in(p, region, study)]
        owners += [(region, p) for p in here]
        if table is None:
            reason = "no full run has finished yet, and a rehearsal does not tell which arm is better"
            estimates += [Comparison(p.contrast, "no verdict", reason, (), 0) for p in here]
        else:
            estimates += estimate(table, [p.contrast for p in here], kinds(finished))
    for i, (e, (region, _)) in enumerate(zip(estimates, owners, strict=True)):
        why = _refusal(e.contrast.name, refused or {}, study) or _too_short(
            e.contrast, region, finished, study
        )
        if why:
            estimates[i] = Comparison(e.contrast, "no verdict", why, (), 0)
    tables = [scores[region] for region, _ in owners]
    decided = decide(estimates, [t.bytes if t else np.ones(1) for t in tables], margin)

    verdicts = [
        _verdict(comparison, p, region, finished, diverged, margin, final)
        for (region, p), comparison in zip(owners, decided, strict=True)
    ]
    edge_names = {p.contrast.name for p in planned if p.edge}
    return Judgement(
        final=final,
        verdicts=tuple(v for v in verdicts if v.name not in edge_names),
        edges=tuple(v for v in verdicts if v.name in edge_names),
        claims=tuple(
            claim_verdict(claim, verdicts, diverged, final, study, searched, refused or {})
            for claim in study.get("claims", ())
        ),
        levels={region: tuple(levels(t)) if t else () for region, t in scores.items()},
    )


def detectable_before(study: Mapping[str, Any], documents: int, components: Components = PRIOR) -> float:
    """The smallest difference, in bits per byte, that the study will find with power 0.8: before it runs.

    For the family that `judge` corrects for, and so many documents, in the region with the fewest arms to pool over.
    Infinite where nothing is compared. See `smallest_detectable_effect`.
    """
    regions = judged_regions(study)
    comparisons = sum(_scored_in(p, region, study) for p in _planned(study) for region in regions)
    if not comparisons:
        return math.inf
    return max(
        smallest_detectable_effect(
            components,
            arms=len(arms_scored(study, region)),
            seeds=len(study["seeds"]),
            documents=documents,
            comparisons=comparisons,
        )
        for region in regions
        if any(_scored_in(p, region, study) for p in _planned(study))
    )


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
        contrast = Contrast(edge_name(claim), chain[0]["from"], chain[1]["to"])
        if contrast.name not in {p.contrast.name for p in planned}:
            first, more = (c["sentence"].rstrip(" .") for c in chain)
            phrase = f"{first}, together with {more[:1].lower()}{more[1:]}"
            planned.append(_Planned(contrast, " and ".join(c["factor"] for c in chain), phrase, True))
    return planned


def _scored_in(planned: _Planned, region: str, study: Mapping[str, Any]) -> bool:
    return {planned.contrast.arm_from, planned.contrast.arm_to} <= set(arms_scored(study, region))


def _refusal(name: str, refused: Mapping[str, str], study: Mapping[str, Any]) -> str:
    """Why a contrast is refused, empty if it isn't; an edge is refused with either of its parts."""
    parts = [
        name,
        *(
            part
            for claim in study.get("claims", ())
            if edge_name(claim) == name
            for part in claim["contrasts"]
        ),
    ]
    return "; ".join(dict.fromkeys(refused[part] for part in parts if part in refused))


def _too_short(contrast: Contrast, region: str, finished: Runs, study: Mapping[str, Any]) -> str:
    """Why there is no rise of a contrast whose runs have finished; empty where there is one."""
    if region != RISE:
        return ""
    longest = f"{lengths_of(study)[-1]:g}"
    for arm in (contrast.arm_from, contrast.arm_to):
        own = [r for (a, _), r in finished.items() if a == arm]
        if own and not any(longest in r.get("length_blocks", {}).get("bits", ()) for r in own):
            return f"{arm} was not scored at {longest} times its training length"
    return ""


# -- from tables to sentences


def _verdict(
    comparison: Comparison,
    planned: _Planned,
    region: str,
    finished: Runs,
    diverged: Sequence[tuple[str, int]],
    margin: float,
    final: bool,
) -> Verdict:
    arms = (planned.contrast.arm_from, planned.contrast.arm_to)
    values = [value_of_input(finished, arm, region) for arm in arms]
    value = float(np.mean(values))
    cautions = [
        *comparison.notes,
        *(f"{arm} did not end under seed {seed}" for arm, seed in diverged if arm in arms),
    ]
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
