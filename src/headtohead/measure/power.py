"""What a study can find before it runs, and what would settle what it left open."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import nctdtr, nctdtrinc, stdtrit

from headtohead.measure.variance import Array, Components, predict

ALPHA = 0.05
POWER = 0.8
PRIOR = Components(seed=0.003, document=0.014)
"""What to reckon with before anything has run: 0.003 from seed to seed, 0.010 of each arm in a document."""
MOST_SEEDS = 100
MOST_DOCUMENTS = 100_000


def detectable(
    standard_error: float, df: float, comparisons: int, alpha: float = ALPHA, power: float = POWER
) -> float:
    """The difference found with `power` by a two-sided t test at Holm's worst case, alpha / comparisons.

    Exact under the non-central t, but for rejections on the wrong side (chance below 1e-4).
    """
    critical = float(stdtrit(df, 1 - alpha / (2 * comparisons)))
    shift = float(nctdtrinc(df, 1 - power, critical))
    if not abs(float(nctdtr(df, shift, critical)) - (1 - power)) < 1e-3:  # no convergence: the textbook sum
        shift = critical + float(stdtrit(df, power))
    return shift * standard_error


def smallest_detectable_effect(
    components: Components, *, arms: int, seeds: int, documents: int, comparisons: int, alpha: float = ALPHA
) -> float:
    """Before the run: the smallest difference, in bits per byte, that a study will find with power 0.8.

    `components` come from a rehearsal or an earlier study, or are stated; variances are taken to be equal
    in all arms (pooled), documents to have equal bytes. (The checks for uneven arms take some power
    back: about 0.75 is left of 0.8 in simulated studies.) Infinite under 2 arms, 2 seeds or 2 documents.
    """
    if arms < 2 or seeds < 2 or documents < 2:
        return math.inf
    part = predict(components, seeds, documents, (arms - 1) * (seeds - 1), documents - 1)
    return detectable(math.sqrt(part.variance), part.df, comparisons, alpha)


@dataclass(frozen=True)
class Settle:
    """What would decide an undecided contrast with power 0.8, were the true difference the one measured.

    seeds: so many seeds with the same documents; None: no number of seeds up to 100 would.
    documents, document_bytes: so many documents like these, that much text, with the same seeds; None:
    none would.
    both: (seeds, documents), grown alike, where neither alone is enough or seeds alone aren't; None: not
    even that.
    """

    seeds: int | None
    documents: int | None
    document_bytes: int | None
    both: tuple[int, int] | None


def settle(
    components: Components,
    difference: float,
    margin: float,
    *,
    seeds: int,
    bytes_: Array,
    df: tuple[float, float],
    comparisons: int,
    alpha: float = ALPHA,
) -> Settle:
    """What would settle a contrast measured with so many `seeds` on documents of so many `bytes_` (D,).

    Settled is: called different even in Holm's worst case, or the 95 % interval inside ±margin. `df` are
    the degrees of freedom of the parts for seeds and for documents; they grow with the seeds and with the
    documents.
    """
    count = len(bytes_)
    w = bytes_ / bytes_.sum()
    effective = 1.0 / (float(np.dot(w, w)) * count)  # unequal bytes make a document count for less than one
    size, room = abs(difference), margin - abs(difference)

    def settled(more_seeds: int, documents: int) -> bool:
        part = predict(
            components,
            more_seeds,
            documents * effective,
            df[0] * (more_seeds - 1) / (seeds - 1),
            df[1] * (documents - 1) / (count - 1),
        )
        se, power = math.sqrt(part.variance), float(stdtrit(part.df, POWER))
        different = (float(stdtrit(part.df, 1 - alpha / (2 * comparisons))) + power) * se <= size
        return different or (float(stdtrit(part.df, 1 - ALPHA / 2)) + power) * se <= room

    # From one more than there are: near a limit, power 0.8 can be there on paper while the contrast is open.
    more_seeds = _first(lambda s: settled(s, count), seeds + 1, MOST_SEEDS)
    documents = _first(lambda d: settled(seeds, d), count + 1, MOST_DOCUMENTS)
    both = None
    if more_seeds is None or documents is None:
        s = _first(lambda s: settled(s, math.ceil(count * s / seeds)), seeds + 1, MOST_SEEDS)
        both = None if s is None else (s, math.ceil(count * s / seeds))
    return Settle(
        more_seeds, documents, None if documents is None else round(float(bytes_.mean()) * documents), both
    )


def _first(condition: Callable[[int], bool], start: int, end: int) -> int | None:
    """The smallest number in start..end with the condition, which then holds for all above it."""
    if start > end or not condition(end):
        return None
    while start < end:
        middle = (start + end) // 2
        if condition(middle):
            end = middle
        else:
            start = middle + 1
    return start
