"""Studies with known effects, for the tests of the statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headtohead.measure.statistics import Contrast, Scores

ARMS: tuple[str, ...] = ("all-tokens", "causal", "prefix", "two-causal", "two-full", "double")
KINDS: dict[str, str] = dict(zip(ARMS, ("one", "one", "one", "two", "two", "two"), strict=True))
CONTRASTS = [
    Contrast("visibility-one", "causal", "prefix"),
    Contrast("visibility-two", "two-causal", "two-full"),
    Contrast("sharing-causal", "causal", "two-causal"),
    Contrast("sharing-full", "prefix", "two-full"),
    Contrast("parameters", "two-full", "double"),
]


@dataclass(frozen=True)
class World:
    """What the true figures are: effects by arm, and standard deviations, all in bits per byte.

    seed_shared, document_shared: the same for all arms. seed: of a run about its arm (`seed_by_arm`:
    factors on it).
    document: of an arm in a document. noise: of one document in one run. unequal: lognormal bytes per
    document.
    """

    effects: tuple[float, ...] = (0.0,) * 6
    seeds: int = 3
    documents: int = 20
    seed_shared: float = 0.002
    seed: float = 0.003
    seed_by_arm: tuple[float, ...] = (1.0,) * 6
    document_shared: float = 0.05
    document: float = 0.01
    noise: float = 0.0
    unequal: bool = False

    def truth(self, contrast: Contrast) -> float:
        return self.effects[ARMS.index(contrast.arm_to)] - self.effects[ARMS.index(contrast.arm_from)]

    def studies(self, count: int, seed: int) -> list[Scores]:
        rng = np.random.default_rng(seed)
        shape = (count, len(ARMS), self.seeds, self.documents)
        a, s, d = shape[1:]
        level = np.asarray(self.effects)[:, None, None]
        runs = rng.normal(0, self.seed, (count, a, s, 1)) * np.asarray(self.seed_by_arm)[:, None, None]
        rates = (
            1.6
            + level
            + rng.normal(0, self.seed_shared, (count, 1, s, 1))
            + rng.normal(0, self.document_shared, (count, 1, 1, d))
            + rng.normal(0, self.document, (count, a, 1, d))
            + runs
            + rng.normal(0, self.noise, shape)
        )
        sizes = np.full((count, d), 20_000.0)
        if self.unequal:
            sizes = rng.lognormal(np.log(20_000), 0.6, (count, d)).round()
        names = tuple(f"speech {i}" for i in range(d))
        return [
            Scores(ARMS, tuple(range(s)), names, rate * size, size)
            for rate, size in zip(rates, sizes, strict=True)
        ]


def without(scores: Scores, missing: Sequence[tuple[str, int]]) -> Scores:
    """The same study with runs (arm, seed) that never finished."""
    bits = scores.bits.copy()
    for arm, seed in missing:
        bits[scores.arms.index(arm), scores.seeds.index(seed)] = np.nan
    return Scores(scores.arms, scores.seeds, scores.documents, bits, scores.bytes)
