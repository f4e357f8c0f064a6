"""The variance of a difference of two arms, when seeds and documents are both drawn at random.

Bits per byte of a run are a ratio, all its bits over all its bytes. Runs are paired: a seed and a document
mean the same for every arm. The model is

    bits per byte[arm, seed, document] = arm + seed + document + arm×document + arm×seed + noise

What the arms share (seed, document) cancels in a difference. Its variance over S seeds and D documents is

    V = V_seeds + V_documents - V_both          (never below the larger of the first two)

V_seeds      2 × the mean square of what remains of the arms × seeds table after arm and seed effects, over S,
             pooled over the arms: (A-1)(S-1) degrees of freedom, 8 for 5 arms × 3 seeds.
V_documents  the ratio estimator's variance by linearisation: how much the seeds' mean of the paired
             difference varies from document to document.
V_both       what the two count twice: the noise of a single document in a single run, which is in both.

This is the analysis of two crossed random factors (Cochran, Sampling Techniques, 1977, chapter 6, for the
ratio; Obuchowski & Rockette 1995 for readers × cases), with Satterthwaite's degrees of freedom. numpy and
scipy only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

Array = NDArray[np.float64]

UNEVEN = 0.05
"""Level of the check for arms that spread further than the others."""
ALIKE, SURELY_UNLIKE = 0.25, 0.01
"""Levels of the check that kinds of arms vary alike: below the first they may not, below the second they
don't.
"""


@dataclass(frozen=True)
class Part:
    """One part of a variance: its size and the degrees of freedom it was estimated with."""

    variance: float
    df: float


@dataclass(frozen=True)
class Components:
    """Standard deviations, in bits per byte, of what makes a difference of two arms vary.

    seed      of one run about its arm, after the effect its seed has on all arms.
    document  of the true difference of the two arms, from document to document.
    noise     of the difference in one document of one pair of runs, beyond the two above.
    """

    seed: float
    document: float
    noise: float = 0.0


def document_weights(bytes_: Array) -> tuple[Array, Array, float]:
    """Weights of a ratio over documents (D,), the factors of its variance (D,), and its degrees of freedom.

    With w = bytes / all bytes, the ratio is the weighted mean of the documents' rates x, and V = sum of
    f·(x - mean)² with f = w²/((1-w)² + the other w² together): unbiased for rates of equal variance, the
    usual n/(n-1) when documents have equal bytes. The degrees of freedom are Satterthwaite's for that
    quadratic form: D-1 for equal bytes, fewer when a few documents hold most of the text.
    """
    w = bytes_ / bytes_.sum()
    ww = float(w @ w)
    f = w**2 / (1.0 - 2.0 * w + ww)
    # V as a quadratic form in x is x'Mx, M = (I - 1w')' diag(f) (I - 1w'); df = tr(M)² / tr(M²), written out.
    s, fw, ff = float(f.sum()), float(f @ w), float(f @ f)
    trace = s - 2 * fw + s * ww
    trace_of_square = (
        ff
        + 2 * fw**2
        + 2 * ff * ww
        + (s * ww) ** 2
        - 4 * float((f**2) @ w)
        + 2 * s * float(f @ w**2)
        - 4 * s * ww * fw
    )
    return w, f, trace**2 / trace_of_square


def combine(seeds: Part, documents: Part, both: Part) -> Part:
    """V_seeds + V_documents - V_both with Satterthwaite's degrees of freedom, but never below either.

    A sample can have V_both above V_seeds or V_documents, which the true ones never are: then that part is
    noise alone, the other counts it already, and the larger of the two is the answer.
    """
    if both.variance >= min(seeds.variance, documents.variance):
        return max(seeds, documents, key=lambda part: part.variance)
    total = seeds.variance + documents.variance - both.variance
    spread = sum(part.variance**2 / part.df for part in (seeds, documents, both) if part.variance > 0)
    return Part(total, total**2 / spread)


def predict(
    components: Components, seeds: float, documents: float, df_seeds: float, df_documents: float
) -> Part:
    """Variance of a difference over so many seeds and documents of equal bytes, by `combine`'s formula."""
    noise = components.noise**2 / (seeds * documents)
    return combine(
        Part(2 * components.seed**2 / seeds + noise, df_seeds),
        Part(components.document**2 / documents + noise, df_documents),
        Part(noise, df_seeds * df_documents),
    )


def residual(rates: Array) -> Part | None:
    """Mean square of an arms × seeds table (A, S) after arm and seed effects; None if nothing is left.

    NaN marks a missing run: the two effects are then fitted by least squares to what is there.
    """
    arm, seed = np.nonzero(np.isfinite(rates))
    y = rates[arm, seed]
    design = np.zeros((len(y), sum(rates.shape)))
    design[np.arange(len(y)), arm] = 1.0
    design[np.arange(len(y)), rates.shape[0] + seed] = 1.0
    fit, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    df = len(y) - int(rank)
    if df < 1:
        return None
    return Part(float(np.sum((y - design @ fit) ** 2)) / df, float(df))


def _spread(rates: Array) -> Array:
    """(…, A) sums of squares of each arm about its mean and the seeds' median effect, from (…, A, S).

    The median over arms, and not the mean: one wild arm must not lend its spread to the quiet ones.
    """
    centred = rates - rates.mean(axis=-1, keepdims=True)
    return ((centred - np.median(centred, axis=-2, keepdims=True)) ** 2).sum(axis=-1)


@lru_cache(maxsize=64)
def _spread_of_equals(arms: int, seeds: int) -> Array:
    """Largest over median of `_spread`, sorted, in 4000 tables of equal normal variances (fixed seed)."""
    ss = _spread(np.random.default_rng(0).standard_normal((4000, arms, seeds)))
    return np.sort(ss.max(axis=-1) / np.median(ss, axis=-1))


def uneven_arms(rates: Array, alpha: float) -> tuple[list[int], bool]:
    """Arms whose seeds spread further than the others' (one seed crossed a threshold, another did not).

    The statistic is the largest sum of squares over the median one (`_spread`); its distribution under equal
    variances is simulated, so the level is exact for normal seeds however few there are. Arms are taken
    out, the wildest first, until the rest pass. `rates` is (A, S), NaN where a run is missing: the check
    uses the seeds that all arms have.

    Returns: indices of those arms, and whether there was enough to check (3 arms with the same 2 seeds).
    """
    kept = [a for a in range(len(rates)) if np.isfinite(rates[a]).sum() >= 2]
    table = rates[:, np.isfinite(rates[kept]).all(axis=0)]
    if table.shape[1] < 2 or len(kept) < 3:
        return [], False
    out: list[int] = []
    while len(kept) >= 3:
        ss = _spread(table[kept])
        if not ss.max() > 0:
            break
        middle = float(np.median(ss))
        ratio = float(ss.max()) / middle if middle > 0 else math.inf
        null = _spread_of_equals(len(kept), table.shape[1])
        if (1 + len(null) - np.searchsorted(null, ratio)) / (len(null) + 1) >= alpha:
            break
        out.append(kept.pop(int(ss.argmax())))
    return sorted(out), True


@dataclass(frozen=True)
class SeedVariances:
    """How one run of an arm varies about it.

    of_arm: arm to (variance of one run, name of its pool). An arm that is not in it has no pooled
    variance: its contrasts stand on their own paired differences, but on no less than `floor`, the
    variance of one run of the arms that vary alike. note: what was found, in plain words.
    """

    of_arm: Mapping[str, tuple[Part, str]]
    floor: float
    note: str


def seed_variances(arms: tuple[str, ...], rates: Array, kinds: Mapping[str, str]) -> SeedVariances:
    """Who may be pooled with whom. `rates` is (A, S) bits per byte, NaN where a run is missing.

    1. All arms vary alike: one variance from all of them.
    2. The kinds of arms don't (Bartlett's test on their residual variances): each kind has its own, but,
       unless the test is below 0.01, none less than that of all arms.
    3. Some arms are `uneven_arms`: each kind without such an arm has its own, but none less than that of
       all even arms; the contrasts of the others stand on their own paired differences.

    The floors are there because arms that look quiet may have been lucky: 3 seeds lie close together now
    and then, far from their mean. Without them the checks themselves would call zero effects different.
    What remains: a single arm of six that varies 3 times as much as the others is noticed in one study of
    four at 3 seeds, and zero effects are then called different in 9 % of studies
    (`tests/measure/test_statistics.py`).
    """
    wild, checked = uneven_arms(rates, UNEVEN)
    everyone = residual(rates)
    if everyone is None:
        return SeedVariances({}, 0.0, "")
    groups: dict[str, list[int]] = {}
    for a, arm in enumerate(arms):
        groups.setdefault(kinds.get(arm, ""), []).append(a)
    unlike = _bartlett([part for members in groups.values() if (part := residual(rates[members]))])
    if wild:
        note = (
            f"the seeds of {' and of '.join(arms[a] for a in wild)} spread further than those of the other "
            "arms (one may have crossed a threshold where another had not)"
        )
        groups = {kind: members for kind, members in groups.items() if not set(members) & set(wild)}
        even = residual(rates[[a for a in range(len(arms)) if a not in wild]])
        floor = even.variance if even else 0.0
    elif unlike < ALIKE:
        note = "arms of different kinds vary differently from seed to seed, so each kind has its own variance"
        floor = 0.0 if unlike < SURELY_UNLIKE else everyone.variance
    else:
        note = (
            "" if checked or len(arms) < 3 else "too few runs to check that the seeds of all arms vary alike"
        )
        return SeedVariances({arm: (everyone, "all") for arm in arms}, 0.0, note)
    own = {kind: part for kind, members in groups.items() if (part := residual(rates[members]))}
    of_arm = {
        arms[a]: (Part(max(own[kind].variance, floor), own[kind].df), kind)
        for kind in own
        for a in groups[kind]
    }
    return SeedVariances(of_arm, floor, note)


def _bartlett(parts: list[Part]) -> float:
    """p of Bartlett's test (1937) that mean squares estimate one variance; 1 where there is nothing to
    test.
    """
    parts = [part for part in parts if part.variance > 0]
    if len(parts) < 2:
        return 1.0
    df = sum(part.df for part in parts)
    pooled = sum(part.variance * part.df for part in parts) / df
    statistic = df * math.log(pooled) - sum(part.df * math.log(part.variance) for part in parts)
    scale = 1 + (sum(1 / part.df for part in parts) - 1 / df) / (3 * (len(parts) - 1))
    return float(chdtrc(len(parts) - 1, statistic / scale))


def add_variances(first: tuple[Part, str], second: tuple[Part, str]) -> Part:
    """Variance of the difference of one run of each arm: twice one pool's, or two pools' sum (Welch)."""
    a, b = first[0], second[0]
    if first[1] == second[1]:
        return Part(2 * a.variance, a.df)
    total = a.variance + b.variance
    return Part(total, total**2 / (a.variance**2 / a.df + b.variance**2 / b.df) if total > 0 else a.df)
