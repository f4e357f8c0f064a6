"""The judgements of `measure` on a study's results, as its page tells them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from headtohead.measure import statistics
from headtohead.study.figures import signed
from headtohead.study.page import Arm, Page


@dataclass(frozen=True)
class Difference:
    """One contrast in one region: `second` minus `first` in bits per byte; no figures where there is no verdict."""

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
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """A claim on trial, with its outcome in words and what it rests on."""

    key: str
    sentence: str
    source: str
    outcome: str
    because: str
    evidence: tuple[Difference, ...]


@dataclass(frozen=True)
class Judgement:
    """All that may be said."""

    differences: tuple[Difference, ...]
    claims: tuple[Claim, ...]
    undeclared: tuple[str, ...]
    lead: str
    method: str
    levels: dict[tuple[str, str], statistics.Level]

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


def scores(page: Page, region: str) -> statistics.Scores | None:
    """The region's bits by arm, seed and document; None before the first full run."""
    runs = [line for line in page.shown if line["rung"] == "full"]
    if not runs:
        return None
    names = runs[0]["documents"]["names"]
    arms, seeds = [arm.key for arm in page.arms], list(page.study["seeds"])
    bits = np.full((len(arms), len(seeds), len(names)), np.nan)
    for line in runs:
        bits[arms.index(line["arm"]), seeds.index(line["seed"])] = line["documents"]["bits"][region]
    return statistics.Scores(
        tuple(arms), tuple(seeds), tuple(names), bits, np.array(runs[0]["documents"]["bytes"][region], dtype=float)
    )


def judge(page: Page) -> Judgement:
    contrasts = page.study["contrasts"]
    stat = [statistics.Contrast(c["name"], c["from"], c["to"]) for c in contrasts]
    found, sources, regions, levels = [], [], [], {}
    for region in page.regions:
        s = scores(page, region)
        if s is None:
            continue
        for level in statistics.levels(s):
            levels[level.arm, region] = level
        e = statistics.estimate(s, stat)
        found += e
        sources += [s] * len(e)
        regions += [region] * len(e)
    decided = statistics.decide(found, [s.bytes for s in sources], page.study["margin"])
    by = {c["name"]: c for c in contrasts}
    differences = tuple(_difference(page, by[c.contrast.name], r, c) for c, r in zip(decided, regions, strict=True))
    claims = tuple(
        Claim(c["key"], c["sentence"], c.get("source", ""), "undecided", "…", tuple(d for d in differences if d.name in c["contrasts"]))
        for c in page.study["claims"]
    )
    return Judgement(differences, claims, (), "…", "…", levels)


def _difference(page: Page, contrast: dict[str, Any], region: str, c: statistics.Comparison) -> Difference:
    judged = not math.isnan(c.difference)
    remarks = [c.reason] if c.reason else []
    return Difference(
        contrast["name"], page.arm(contrast["from"]), page.arm(contrast["to"]), contrast["factor"], region, c.outcome,
        c.difference if judged else None, c.interval[0] if judged else None, c.interval[1] if judged else None,
        signed(c.smallest_detectable, page.study["margin"]).replace("+", "") if judged else "", (*remarks, *c.notes),
    )  # fmt: skip
