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
from typing import Any, Literal

import numpy as np

from headtohead.errors import UserError
from headtohead.measure.power import MOST_SEEDS, Settle
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

Result = Mapping[str, Any]
ClaimOutcome = Literal["supported", "contradicted", "undecided"]

GATED = "visibility"
"""The factor whose contrasts are judged only where the input is used enough."""

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
class RegionFinding:
    """How a claim stands in one region, and why."""

    region: str
    outcome: ClaimOutcome
    reason: str


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
    results: Sequence[Result], study: Mapping[str, Any], refused: Mapping[str, str] | None = None
) -> Judgement:
    """What the finished full runs among `results` allow to be said about `study`.

    Holm's family is all contrasts of the study, with the edges its claims need, in all regions. Contrasts
    of factor "visibility" pass the gate of the input's value (`statistics.gate`).

    Args:
        results: lines of results.jsonl. Rehearsals and stopped runs are never judged.
        study: arms, seeds, contrasts, claims, margin and data.regions, as in plan.json's "study".
        refused: contrast to reason, for contrasts whose arms differ in something the study did not declare.

    Raises:
        UserError: runs that were scored on different text; a claim whose rule doesn't fit its contrasts.
    """
    margin: float = study["margin"]
    regions: list[str] = list(study["data"]["regions"])
    arms: list[str] = [arm["key"] for arm in study["arms"]]
    full = {(r["arm"], r["seed"]): r for r in results if r.get("rung") == "full"}
    finished = {key: r for key, r in full.items() if r.get("status") == "finished"}
    final = all((arm, seed) in full for arm in arms for seed in study["seeds"])
    planned = _planned(study)
    scores = {region: _scores(finished, arms, study["seeds"], region) for region in regions}

    estimates: list[Comparison] = []
    for region in regions:
        table = scores[region]
        if table is None:
            reason = "no full run has finished yet, and a rehearsal does not tell which arm is better"
            estimates += [Comparison(p.contrast, "no verdict", reason, (), 0) for p in planned]
        else:
            estimates += estimate(table, [p.contrast for p in planned], _kinds(finished))
    for i, e in enumerate(estimates):
        why = _refusal(e.contrast.name, refused or {}, study)
        if why:
            estimates[i] = Comparison(e.contrast, "no verdict", why, (), 0)
    owners = [(region, p) for region in regions for p in planned]
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
        claims=tuple(_claim(claim, verdicts, regions, margin, final) for claim in study.get("claims", ())),
        levels={region: tuple(levels(t)) if t else () for region, t in scores.items()},
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
        contrast = Contrast(_edge(claim), chain[0]["from"], chain[1]["to"])
        if contrast.name not in {p.contrast.name for p in planned}:
            first, more = (c["sentence"].rstrip(" .") for c in chain)
            phrase = f"{first}, together with {more[:1].lower()}{more[1:]}"
            planned.append(_Planned(contrast, " and ".join(c["factor"] for c in chain), phrase, True))
    return planned


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
    if not finished:
        return None
    first_key, first = next(iter(finished.items()))
    about = first["documents"]
    names, sizes = about["names"], np.array(about["bytes"][region], dtype=np.float64)
    groups = about.get("groups", names)
    clusters = list(dict.fromkeys(groups))
    member = np.array([[g == cluster for g in groups] for cluster in clusters], dtype=np.float64)
    bits = np.full((len(arms), len(seeds), len(clusters)), math.nan)
    for (arm, seed), result in finished.items():
        there = result["documents"]
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


def _kinds(finished: Mapping[tuple[str, int], Result]) -> dict[str, str]:
    """Arms by the number of their streams: known before the run, and what a threshold in training hangs
    on.
    """
    return {arm: f"{len(r['description']['streams'])} stacks" for (arm, _), r in finished.items()}


def _value_of_input(finished: Mapping[tuple[str, int], Result], arm: str, region: str) -> float:
    values = [r["value_of_input"][region] for (a, _), r in finished.items() if a == arm]
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
                f"{arm} by itself hardly uses its input yet: it is worth {v:.3f} bits per byte to it"
                for arm, v in zip(arms, values, strict=True)
                if v < 5 * comparison.smallest_detectable
            ]
    text = sentence(planned.phrase, region, comparison, margin)
    if not final and comparison.outcome != "no verdict":
        text = f"So far, with runs still to come: {text}"
    return Verdict(planned.contrast.name, planned.factor, region, comparison, value, text, tuple(cautions))


def sentence(phrase: str, region: str, c: Comparison, margin: float) -> str:
    """One comparison in plain words, such as "A full view of the input: restoration takes 0.031 bits per
    byte less (95 % interval 0.024 to 0.038): different."

    `phrase` is what `arm_to` has and `arm_from` has not.
    """
    if c.outcome in ("no verdict", "not judged"):
        return f"{phrase}: {c.outcome} in {region}: {c.reason}."
    low, high = c.interval
    # Rounding must not make an interval inside the margin look as if it touched it.
    close = any(abs(abs(bound) - margin) < 0.0005 for bound in c.interval)
    digits = 4 if margin < 0.005 or close else 3
    limit = f"{margin:.{digits}f}"
    if c.beyond_zero:
        how, ends = ("less", (-high, -low)) if c.difference < 0 else ("more", (low, high))
        after = f"{c.outcome} of {limit}" if c.inside_margin else c.outcome
        open_question = (
            "" if c.inside_margin or c.beyond_margin else f" By more than the margin of {limit}? Undecided."
        )
        return (
            f"{phrase}: {region} takes {abs(c.difference):.{digits}f} bits per byte {how} "
            f"(95 % interval {ends[0]:.{digits}f} to {ends[1]:.{digits}f}): {after}.{open_question}"
        )
    difference, low_text, high_text = (_signed(x, digits) for x in (c.difference, low, high))
    if c.outcome == "no difference":
        return (
            f"{phrase}: no difference in {region}: {difference} bits per byte "
            f"(95 % interval {low_text} to {high_text}, inside the margin of ±{limit})."
        )
    return (
        f"{phrase}: undecided in {region}: {difference} bits per byte "
        f"(95 % interval {low_text} to {high_text}); {c.reason}. {_settling(c.settle)}"
    )


def _signed(x: float, digits: int) -> str:
    """With a sign and a true minus; a zero has none."""
    text = f"{abs(x):.{digits}f}"
    return text if float(text) == 0 else ("−" if x < 0 else "+") + text


def _settling(settle: Settle | None) -> str:
    """What would settle it, if the difference stays where it is."""
    if settle is None:
        return ""
    documents = (
        None
        if settle.documents is None
        else f"{settle.documents:,} held-out documents like these ({settle.document_bytes or 0:,} bytes)"
    )
    if settle.seeds is not None and documents:
        text = f"{settle.seeds} seeds would settle it, or {documents}"
    elif settle.seeds is not None:
        text = f"{settle.seeds} seeds would settle it; no number of held-out documents alone would"
    elif documents:
        text = f"Seeds alone would not settle it; {documents} would"
    elif settle.both:
        text = (
            "Neither more seeds nor more held-out documents alone would settle it; "
            f"{settle.both[0]} seeds with {settle.both[1]:,} documents would"
        )
    else:
        text = f"Even {MOST_SEEDS} seeds with as many times the held-out documents would not settle it"
    return f"{text}, if the difference stays where it is."


# -- from sentences to claims


def _claim(
    claim: Mapping[str, Any], verdicts: Sequence[Verdict], regions: Sequence[str], margin: float, final: bool
) -> ClaimVerdict:
    rule = claim.get("rule")
    if rule not in RULES:
        text = "the study states no decision rule for it"
        found = [RegionFinding(region, "undecided", text) for region in regions]
        return ClaimVerdict(
            claim["key"], claim["sentence"], "", "undecided", tuple(found), f"Undecided: {text}."
        )
    found = []
    for region in regions:
        here = {v.name: v.comparison for v in verdicts if v.region == region}
        cells = [here[name] for name in claim["contrasts"]]
        if rule == "does-not-beat":
            found.append(_does_not_beat(region, cells, margin))
        else:
            found.append(_edge_goes_away(region, cells[0], here[_edge(claim)], margin))
    if not final:
        found = [replace(f, outcome="undecided", reason="the study is not finished") for f in found]
    outcome = _together([f.outcome for f in found])
    if final:
        details = "; ".join(f"{f.region}: {f.outcome} ({f.reason})" for f in found)
        text = f"{outcome.capitalize()} at this scale. {details[0].upper()}{details[1:]}."
    else:
        text = "Undecided: the study is not finished."
    return ClaimVerdict(claim["key"], claim["sentence"], RULES[rule], outcome, tuple(found), text)


def _together(outcomes: Sequence[ClaimOutcome]) -> ClaimOutcome:
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


def _does_not_beat(region: str, cells: Sequence[Comparison], margin: float) -> RegionFinding:
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
    return RegionFinding(region, _together(outcomes), ", ".join(reasons))


def _edge_goes_away(region: str, equal: Comparison, edge: Comparison, margin: float) -> RegionFinding:
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
