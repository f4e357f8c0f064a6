"""The judgements of `measure` on a study's results, put into the page's words. Nothing is judged here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headtohead.measure import verdicts
from headtohead.measure.power import Settle
from headtohead.study.charting import signed
from headtohead.study.fairness import undeclared_differences
from headtohead.study.page import Arm, Page
from headtohead.study.tables import decimal


@dataclass(frozen=True)
class Difference:
    """One contrast in one region: `second` minus `first` in bits per byte; no figures where there is no
    verdict.
    """

    name: str
    first: Arm
    second: Arm
    factor: str
    region: str
    outcome: str
    difference: float | None
    low: float | None
    high: float | None
    detectable: str
    value_of_input: float | None
    sentence: str
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """How a claim stands in one region, and why."""

    region: str
    outcome: str
    reason: str


@dataclass(frozen=True)
class Claim:
    """A claim on trial: its outcome, why in each region, the rule it was decided by.

    `evidence`: what it rests on, the regions of one pair of arms together.
    """

    key: str
    sentence: str
    source: str
    outcome: str
    findings: tuple[Finding, ...]
    rule: str
    evidence: tuple[tuple[Difference, ...], ...]


@dataclass(frozen=True)
class Judgement:
    """All that may be said."""

    final: bool
    differences: tuple[Difference, ...]
    claims: tuple[Claim, ...]
    refused: tuple[str, ...]
    levels: dict[tuple[str, str], verdicts.Level]

    def interval(self, arm: str, region: str) -> tuple[float | None, float | None]:
        """The 95 % interval of an arm's level, if there is one."""
        level = self.levels.get((arm, region))
        if level is None or math.isnan(level.interval[0]):
            return None, None
        return level.interval

    def mean(self, arm: str, region: str) -> float | None:
        """An arm's level."""
        level = self.levels.get((arm, region))
        return None if level is None or math.isnan(level.bits_per_byte) else level.bits_per_byte

    @property
    def lead(self) -> str:
        """The claims' outcomes in one sentence."""
        if not self.claims:
            return "All runs are done; the study puts no claim on trial."
        parts = []
        for outcome in ("supported", "contradicted", "undecided"):
            keys = [claim.key for claim in self.claims if claim.outcome == outcome]
            if keys:
                parts.append(f"{joined(keys)} {'is' if len(keys) == 1 else 'are'} {outcome}")
        return f"At this scale, {joined(parts)}."


def joined(words: Sequence[str]) -> str:
    """The words as a list in a sentence."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def judge(page: Page) -> Judgement:
    """What may be said of the page's results.

    Raises:
        UserError: runs that were scored on different text, or a claim whose rule doesn't fit its contrasts.
    """
    study = {
        **page.study,
        "data": {**page.study["data"], "regions": page.regions},
    }  # those of the user's pairs
    undeclared = undeclared_differences(page.results, study)
    refused: dict[str, list[str]] = {}
    for difference in undeclared:
        refused.setdefault(difference.contrast, []).append(difference.sentence)
    told = {name: "; ".join(why) for name, why in refused.items()}
    found = verdicts.judge(page.results, study, told, page.plan.get("rates"))
    differences = tuple(_difference(page, verdict) for verdict in found.verdicts)
    edges = tuple(_difference(page, verdict) for verdict in found.edges)
    claims = tuple(_claim(page, claim, (*differences, *edges)) for claim in found.claims)
    levels = {(level.arm, region): level for region, some in found.levels.items() for level in some}
    return Judgement(
        found.final, differences, claims, tuple(dict.fromkeys(u.sentence for u in undeclared)), levels
    )


def _claim(page: Page, claim: verdicts.ClaimVerdict, known: Sequence[Difference]) -> Claim:
    stated = next(c for c in page.study["claims"] if c["key"] == claim.key)
    names = list(dict.fromkeys([*stated["contrasts"], " + ".join(stated["contrasts"])]))
    evidence = (tuple(d for d in known if d.name == name) for name in names)
    findings = []
    for finding in claim.regions:
        reason = finding.reason
        for contrast in page.study["contrasts"]:  # the page names a contrast by its arms
            reason = reason.replace(f"{contrast['name']}: ", f"{contrast['from']} → {contrast['to']}: ")
        findings.append(Finding(finding.region, finding.outcome, reason))
    return Claim(
        claim.key,
        claim.claim,
        stated.get("source", ""),
        claim.outcome,
        tuple(findings),
        claim.rule,
        tuple(pair for pair in evidence if any(d.difference is not None for d in pair)),
    )


def _difference(page: Page, verdict: verdicts.Verdict) -> Difference:
    c, margin = verdict.comparison, page.study["margin"]
    judged = not math.isnan(c.difference)
    low, high = c.interval
    remarks = [c.reason, _settling(c.settle), *verdict.cautions]
    return Difference(
        name=verdict.name,
        first=page.arm(c.contrast.arm_from),
        second=page.arm(c.contrast.arm_to),
        factor=verdict.factor,
        region=verdict.region,
        outcome=c.outcome,
        difference=c.difference if judged else None,
        low=low if judged else None,
        high=high if judged else None,
        detectable=signed(c.smallest_detectable, margin).lstrip("+") if judged else "",
        value_of_input=None if math.isnan(verdict.value_of_input) else verdict.value_of_input,
        sentence=verdict.sentence,
        remarks=tuple(remark for remark in remarks if remark),
    )


def _settling(settle: Settle | None) -> str:
    """What would settle an undecided contrast, in short."""
    if settle is None:
        return ""
    ways: list[Any] = []
    if settle.seeds is not None:
        ways.append(f"{settle.seeds} seeds")
    if settle.documents is not None:
        size = f" ({decimal(settle.document_bytes)}B)" if settle.document_bytes else ""
        ways.append(f"{settle.documents:,} held-out documents{size}")
    if not ways and settle.both is not None:
        ways.append(f"{settle.both[0]} seeds with {settle.both[1]:,} held-out documents")
    return f"would settle it: {' or '.join(ways)}" if ways else "a hundred seeds would not settle it"
