"""BART's objective: a text is written whole, given itself with noise (Lewis et al., arXiv 1910.13461, 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from headtohead.data.objectives.base import MASK, Codes, Draws, Made, Manner, Objective
from headtohead.data.objectives.words import sentences

MEAN_SPAN = 3.0
"""The Poisson mean of an infilled span's length."""


def infilled(ids: Sequence[int], spans: Sequence[tuple[int, int]], mask: int) -> list[int]:
    """Each span (start, length) replaced by one mask; of length 0, a mask is put in before its start.

    Worked example: ``a b c d`` with the spans (1, 2) and (3, 0) is ``a <mask> <mask> d``.
    """
    found: list[int] = []
    at = 0
    for start, size in spans:
        found += [*ids[at:start], mask]
        at = start + size
    return [*found, *ids[at:]]


class Denoising(Objective):
    """The output is the window, whole; the input has noise of any of these kinds, in this order.

    `permute`: the sentences in any order. `rotate`: the text begins at any token, and what was before it comes
    last. `delete`: this share of the tokens is missing. `mask`: this share is hidden, each by a <mask>
    (`masks` = "tokens") or in spans of Poisson length with one <mask> each ("spans": text infilling; a span of no
    token puts a <mask> in). The published model has `permute` and 30 % infilled, as by default.
    """

    kind: Literal["bart"] = "bart"
    permute: bool = True
    rotate: bool = False
    delete: float = Field(default=0.0, ge=0, lt=1)
    mask: float = Field(default=0.3, ge=0, lt=1)
    masks: Literal["spans", "tokens"] = "spans"
    seed: int = 0

    @property
    def region(self) -> str:
        return "denoising"

    @property
    def conserves(self) -> str:
        return "the output is the window"

    def specials(self, window_bytes: int) -> tuple[str, ...]:
        return ("<denoise>", MASK)

    def texts(self, window: str) -> tuple[str, ...]:
        return (window, *sentences(window)) if self.permute else (window,)

    def make(self, window: str, ids: Sequence[list[int]], codes: Codes) -> Made:
        draws, output = Draws(self.seed, window), ids[0]
        seen = [token for piece in draws.shuffled(ids[1:]) for token in piece] if self.permute else output
        if self.rotate:
            start = draws.below(len(seen))
            seen = [*seen[start:], *seen[:start]]
        if self.delete:
            gone = set(draws.sample(len(seen), round(self.delete * len(seen))))
            seen = [token for i, token in enumerate(seen) if i not in gone]
        if self.mask and seen:
            seen = infilled(seen, self._masked(len(seen), draws), codes[MASK])
        sizes = codes.bytes_of(seen), codes.bytes_of(output)
        return Made(seen, output, codes["<denoise>"], True, *sizes)

    def manner(self, codes: Codes) -> Manner:
        """The input is written first, as it was shown with a mask at its end; the output is what the mask is."""
        return Manner(codes["<denoise>"], after=(codes[MASK],), given="both")

    def _masked(self, length: int, draws: Draws) -> list[tuple[int, int]]:
        """Spans that don't touch, by start and length, ascending."""
        wanted = round(self.mask * length)
        if self.masks == "tokens":
            return [(place, 1) for place in draws.sample(length, wanted)]
        sizes: list[int] = []
        while sum(sizes) < wanted:
            sizes.append(min(draws.poisson(MEAN_SPAN), wanted - sum(sizes)))
        free = length - sum(sizes)
        sizes = sizes[: free + 1]  # a token is kept between two spans
        starts = draws.sample(free + 1, len(sizes))
        found, before = [], 0
        for start, size in zip(starts, sizes, strict=True):
            found.append((start + before, size))
            before += size
        return found
