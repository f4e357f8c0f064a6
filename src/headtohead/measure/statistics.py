"""What a handful of seeds and a few dozen documents allow to be said about the difference of two arms.

`estimate` gives each contrast its difference and how sure it is; `decide` then judges a whole family of
contrasts against the margin stated before the run. How a variance is composed is in `variance`, what would
settle an open question in `power`. numpy and scipy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import stdtr, stdtrit

from headtohead.measure.power import ALPHA, Settle, detectable, settle
from headtohead.measure.variance import (
    Array,
    Components,
    Part,
    SeedVariances,
    add_variances,
    combine,
    document_weights,
    seed_variances,
)

Outcome = Literal[
    "different",
    "different, but by less than the margin",
    "no difference",
    "undecided",
    "not judged",
    "no verdict",
]

GATE = 5.0
"""The value of the input has to be this many smallest detectable effects before visibility is judged."""


@dataclass(frozen=True)
class Contrast:
    """The difference `arm_to` minus `arm_from` in bits per byte: below zero, `arm_to` is the better one."""

    name: str
    arm_from: str
    arm_to: str


@dataclass(frozen=True)
class Scores:
    """What one region cost every run. A document is a cluster: a speech, or a group of speeches that
    belong together.

    bits  (A, S, D): bits of the region's text by arm, seed and document; all NaN where a run is missing.
    bytes (D,): UTF-8 bytes of that text; the same for all runs, since all score the same text.

    Raises:
        ValueError: shapes that don't fit, a document without bytes, a run that lacks some of its documents.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    documents: tuple[str, ...]
    bits: Array
    bytes: Array

    def __post_init__(self) -> None:
        shape = (len(self.arms), len(self.seeds), len(self.documents))
        if self.bits.shape != shape or self.bytes.shape != shape[2:]:
            raise ValueError(f"bits {self.bits.shape} and bytes {self.bytes.shape} don't fit {shape}")
        if not np.all(self.bytes > 0):
            raise ValueError("every document needs bytes to be scored on")
        finite = np.isfinite(self.bits)
        if not np.array_equal(finite.any(axis=2), finite.all(axis=2)):
            raise ValueError("a run was scored on a part of the documents only")

    @property
    def bits_per_byte(self) -> Array:
        """(A, S) bits per byte of each run, all its bits over all its bytes; NaN where it is missing."""
        return self.bits.sum(axis=2) / self.bytes.sum()


@dataclass(frozen=True)
class Comparison:
    """One contrast in one region. All figures are bits per byte; NaN where there is no verdict.

    difference: `arm_to` minus `arm_from`. interval: 95 %, for this contrast by itself.
    p: two-sided. p_holm: after Holm's correction over the family it was decided in (`comparisons` of them).
    smallest_detectable: the difference these runs would have found with power 0.8 in Holm's worst case.
    beyond_zero, inside_margin, beyond_margin: what the outcome rests on; see `decide`.
    parts: variances of the mean from seeds, documents and both. pooled: whether the first is pooled over
    arms.
    """

    contrast: Contrast
    outcome: Outcome
    reason: str
    seeds: tuple[int, ...]
    documents: int
    difference: float = math.nan
    standard_error: float = math.nan
    df: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)
    p: float = math.nan
    p_holm: float = math.nan
    comparisons: int = 0
    smallest_detectable: float = math.nan
    beyond_zero: bool = False
    inside_margin: bool = False
    beyond_margin: bool = False
    parts: tuple[Part, Part, Part] | None = None
    components: Components | None = None
    pooled: bool = True
    notes: tuple[str, ...] = ()
    settle: Settle | None = None


def estimate(
    scores: Scores, contrasts: Sequence[Contrast], kinds: Mapping[str, str] | None = None
) -> list[Comparison]:
    """Difference, standard error, degrees of freedom, interval and p of each contrast; nothing decided yet.

    The variance between seeds is pooled over all arms, as far as they vary alike; see `seed_variances`. A
    contrast uses the seeds that both its arms have. Under 2 such seeds, or under 2 documents, the outcome is
    `no verdict` with its reason.

    Args:
        kinds: arm to kind ("one stack", "two stacks"), said before the run. Without it all arms are of one
        kind.
    """
    variances = seed_variances(scores.arms, scores.bits_per_byte, kinds or {})
    return [_estimate(scores, contrast, variances) for contrast in contrasts]


def _estimate(scores: Scores, contrast: Contrast, variances: SeedVariances) -> Comparison:
    rates = scores.bits_per_byte
    ends: list[int] = []
    for arm in (contrast.arm_from, contrast.arm_to):
        if arm not in scores.arms or not np.isfinite(rates[scores.arms.index(arm)]).any():
            return Comparison(contrast, "no verdict", f"{arm} has no finished run", (), len(scores.documents))
        ends.append(scores.arms.index(arm))
    shared = np.isfinite(rates[ends]).all(axis=0)
    seeds = tuple(scores.seeds[s] for s in np.flatnonzero(shared))
    n = len(seeds)

    def no_verdict(reason: str) -> Comparison:
        return Comparison(contrast, "no verdict", reason, seeds, len(scores.documents))

    if n < 2:
        have = "one seed" if n == 1 else "no seed"
        return no_verdict(f"the two arms share {have}; it takes 2 to see how much a difference varies")
    if len(scores.documents) < 2:
        return no_verdict("one held-out document; it takes 2 to see how much a difference varies")

    # delta[s, d]: paired difference of the rates; its weighted mean over documents is the difference of
    # the ratios.
    delta = (scores.bits[ends[1]] - scores.bits[ends[0]])[shared] / scores.bytes
    w, f, df_documents = document_weights(scores.bytes)
    of_seed, of_document = delta @ w, delta.mean(axis=0)
    difference = float(of_seed.mean())
    notes = [variances.note] if variances.note else []
    ends_parts = [variances.of_arm.get(arm) for arm in (contrast.arm_from, contrast.arm_to)]
    pooled = None if None in ends_parts else add_variances(*[part for part in ends_parts if part])
    if pooled is not None:
        seed_part = Part(pooled.variance / n, pooled.df)
    else:
        seed_part = Part(max(float(of_seed.var(ddof=1)), 2.0 * variances.floor) / n, n - 1.0)
        notes.append(f"this contrast stands on its own {n} paired differences")
    document_part = Part(float(f @ (of_document - difference) ** 2), df_documents)
    left = delta - of_document - of_seed[:, None] + difference
    both_part = Part(float((f * left**2).sum()) / (n - 1) / n, df_documents * (n - 1))

    total = combine(seed_part, document_part, both_part)
    if not total.variance > (1e-12) ** 2:  # bits per byte: rounding alone leaves less
        return no_verdict("the runs don't vary at all, neither by seed nor by document: are they copies?")
    se = math.sqrt(total.variance)
    half = float(stdtrit(total.df, 1 - ALPHA / 2)) * se
    effective = 1.0 / float(w @ w)
    components = Components(
        seed=math.sqrt(max(0.0, seed_part.variance - both_part.variance) * n / 2),
        document=math.sqrt(max(0.0, document_part.variance - both_part.variance) * effective),
        noise=math.sqrt(both_part.variance * n * effective),
    )
    return Comparison(
        contrast,
        "undecided",
        "",
        seeds,
        len(scores.documents),
        difference=difference,
        standard_error=se,
        df=total.df,
        interval=(difference - half, difference + half),
        p=2.0 * float(stdtr(total.df, -abs(difference) / se)),
        parts=(seed_part, document_part, both_part),
        components=components,
        pooled=pooled is not None,
        notes=tuple(notes),
    )


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values: rejecting those below α errs anywhere with chance α at most."""
    order = np.argsort(p)
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.asarray(p, dtype=float)[order] * factors))
    return [float(value) for value in adjusted]


def decide(
    estimates: Sequence[Comparison], bytes_: Sequence[Array], margin: float, alpha: float = ALPHA
) -> list[Comparison]:
    """The outcome of each contrast, over the family of all of them (all regions of a study together).

    - different: Holm-adjusted p below alpha; "…, but by less than the margin" if the interval is inside it.
    - no difference: else, if the 95 % interval is inside ±margin. (Two one-sided tests at 2.5 % each, not
      the customary 5 %, a 90 % interval: so the interval on the page is the one that decides.)
    - undecided: else, with `settle`, the seeds or documents that would decide it.

    Intervals are for one contrast by itself (not simultaneous), while `different` is decided by Holm: an
    interval may leave zero out and the contrast be undecided, which `reason` then says. Contrasts without
    a verdict have no p-value and aren't counted in the family. `beyond_margin` is: different, and the
    whole interval on one side beyond the margin.

    Args:
        bytes_: the bytes of the documents (D,) each estimate rests on, in the same order.

    Raises:
        ValueError: a margin that isn't above zero.
    """
    if not margin > 0:
        raise ValueError("the margin has to be above zero")
    judged = [i for i, e in enumerate(estimates) if e.outcome != "no verdict"]
    decided = list(estimates)
    for i, p_holm in zip(judged, holm([estimates[i].p for i in judged]), strict=True):
        e = estimates[i]
        assert e.parts is not None and e.components is not None
        low, high = e.interval
        beyond_zero, inside = p_holm < alpha, -margin < low and high < margin
        if beyond_zero:
            outcome, reason = ("different, but by less than the margin" if inside else "different"), ""
        elif inside:
            outcome, reason = "no difference", ""
        elif low > 0 or high < 0:
            outcome = "undecided"
            reason = (
                f"the interval leaves zero out, but not after Holm's correction for {len(judged)} comparisons"
            )
        else:
            outcome, reason = "undecided", "the interval holds zero and reaches beyond the margin"
        decided[i] = replace(
            e,
            outcome=outcome,
            reason=reason,
            p_holm=p_holm,
            comparisons=len(judged),
            smallest_detectable=detectable(e.standard_error, e.df, len(judged), alpha),
            beyond_zero=beyond_zero,
            inside_margin=inside,
            beyond_margin=beyond_zero and (low >= margin or high <= -margin),
            settle=None
            if outcome != "undecided"
            else settle(
                e.components,
                e.difference,
                margin,
                seeds=len(e.seeds),
                bytes_=bytes_[i],
                df=(e.parts[0].df, e.parts[1].df),
                comparisons=len(judged),
                alpha=alpha,
            ),
        )
    return decided


def compare(
    scores: Scores,
    contrasts: Sequence[Contrast],
    margin: float = 0.01,
    kinds: Mapping[str, str] | None = None,
) -> list[Comparison]:
    """`estimate` and `decide` for one region whose contrasts are the whole family."""
    return decide(estimate(scores, contrasts, kinds), [scores.bytes] * len(contrasts), margin)


def gate(comparison: Comparison, value_of_input: float) -> Comparison:
    """No verdict about visibility where the input is hardly used: that says nothing about how to look at it.

    `value_of_input`: bits per byte with a wrong input minus with the right one, the mean of the two arms.
    Under five times the smallest detectable effect, or unknown (NaN), the outcome becomes `not judged`,
    with both numbers in `reason`.
    """
    needed = GATE * comparison.smallest_detectable
    if comparison.outcome == "no verdict" or value_of_input >= needed:
        return comparison
    return replace(
        comparison,
        outcome="not judged",
        reason=(
            "the network does not use its input enough yet: the input is worth "
            f"{value_of_input:.3f} bits per byte, and {GATE:g} times the smallest detectable effect "
            f"is {needed:.3f}"
        ),
        settle=None,
    )


@dataclass(frozen=True)
class Level:
    """Bits per byte of one arm, with a 95 % interval over seeds and documents (wide: documents differ a lot).

    `seed_sd`: standard deviation of the runs. It and the interval are NaN under 2 seeds or 2 documents.
    """

    arm: str
    seeds: int
    bits_per_byte: float
    interval: tuple[float, float]
    seed_sd: float


def levels(scores: Scores) -> list[Level]:
    """Each arm's own level. Arms are compared by `compare`, never by whether these intervals overlap.

    Variance between seeds: the arm's own, S-1 degrees of freedom; between documents: as for a difference.
    """
    w, f, df_documents = document_weights(scores.bytes)
    result: list[Level] = []
    for a, arm in enumerate(scores.arms):
        rates = scores.bits[a][np.isfinite(scores.bits[a, :, 0])] / scores.bytes
        n = len(rates)
        of_seed = rates @ w
        mean = float(of_seed.mean()) if n else math.nan
        if n < 2 or len(scores.documents) < 2:
            result.append(Level(arm, n, mean, (math.nan, math.nan), math.nan))
            continue
        of_document = rates.mean(axis=0)
        left = rates - of_document - of_seed[:, None] + mean
        part = combine(
            Part(float(of_seed.var(ddof=1)) / n, n - 1.0),
            Part(float(f @ (of_document - mean) ** 2), df_documents),
            Part(float((f * left**2).sum()) / (n - 1) / n, df_documents * (n - 1)),
        )
        half = float(stdtrit(part.df, 1 - ALPHA / 2)) * math.sqrt(part.variance)
        result.append(Level(arm, n, mean, (mean - half, mean + half), float(of_seed.std(ddof=1))))
    return result
