"""Span corruption and its mixtures: T5's, UL2's, T5Gemma 2's.

Spans of tokens are taken out of a text and a sentinel is left at each place; the output is the spans, each
after its sentinel. The sampler is that of T5's code (Raffel et al., arXiv 1910.10683, 3.1.4): the text is parted
into as many kept as missing spans, in turn, the first kept, all ways of parting equally likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from headtohead.data.objectives.base import Codes, Draws, Made, Manner, Objective, sentinels
from headtohead.data.shards import SPECIAL

MOST_SENTINELS = 100
"""As T5's vocabulary has."""
Rate = Annotated[float, Field(gt=0, lt=1)]
Span = tuple[int, int]
"""The first token, and the first after it."""


class Denoiser(NamedTuple):
    """How spans are chosen: their mean length in tokens, and the share of tokens in them. `at_end`: one span,
    up to the end, of a length from a uniform distribution with that mean (UL2's S-denoiser).

    `mean` may be a share of the text's length (below 1).
    """

    mean: float
    rate: float
    mode: str
    at_end: bool = False

    def spans(self, length: int, draws: Draws, most: int) -> list[Span]:
        """The missing spans of a text of `length` tokens, ascending; none of a text of one token."""
        if length < 2:
            return []
        if self.at_end:
            longest = 2 * round(self.rate * length) - 1
            missing = min(length - 1, 1 + draws.below(max(1, longest)))
            return [(length - missing, length)]
        mean = self.mean * length if self.mean < 1 else self.mean
        missing = min(max(round(length * self.rate), 1), length - 1)
        count = min(max(round(missing / mean), 1), missing, length - missing, most)
        gaps, holes = draws.parts(length - missing, count), draws.parts(missing, count)
        ends = list(accumulate(gap + hole for gap, hole in zip(gaps, holes, strict=True)))
        return [(end - hole, end) for end, hole in zip(ends, holes, strict=True)]

    def count(self, length: int) -> int:
        """The most spans that a text of up to `length` tokens has."""
        mean = self.mean * length if self.mean < 1 else self.mean
        return 1 if self.at_end else max(1, round(round(length * self.rate) / mean))


def corrupted(
    ids: Sequence[int], spans: Sequence[Span], codes: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """Input, output and `where` of a text of these ids, with `codes` as the spans' sentinels.

    Worked example: ``a b c d e f`` with the spans (1, 3) and (5, 6): the input is ``a X d e Y``, the output
    ``X b c Y f``; its tokens stand for the places of their sentinels, which are no text: - 1 1 - 4.
    """
    shown: list[int] = []
    output: list[int] = []
    where: list[int] = []
    at = 0
    for (start, end), sentinel in zip(spans, codes, strict=False):
        shown += [*ids[at:start], sentinel]
        output += [sentinel, *ids[start:end]]
        where += [SPECIAL, *[len(shown) - 1] * (end - start)]
        at = end
    return [*shown, *ids[at:]], output, where


class _Denoising(Objective):
    seed: int = 0

    @property
    def denoisers(self) -> Sequence[tuple[Denoiser, float]]:
        """Each with its weight."""
        raise NotImplementedError

    @property
    def conserves(self) -> str:
        return "the spans of the output, put at their sentinels in the input, give the window"

    def specials(self, window_bytes: int) -> tuple[str, ...]:
        most = max(denoiser.count(window_bytes) for denoiser, _ in self.denoisers)
        modes = dict.fromkeys(denoiser.mode for denoiser, _ in self.denoisers)
        return (*modes, *sentinels(min(most, MOST_SENTINELS)))

    def make(self, window: str, ids: Sequence[list[int]], codes: Codes) -> Made:
        draws = Draws(self.seed, window)
        chosen = draws.choice([weight for _, weight in self.denoisers]) if len(self.denoisers) > 1 else 0
        denoiser = self.denoisers[chosen][0]
        text = ids[0]
        spans = denoiser.spans(len(text), draws, len(codes.sentinels)) or [(0, len(text))]
        shown, output, where = corrupted(text, spans, codes.sentinels)
        sizes = codes.bytes_of(shown), codes.bytes_of(output)
        return Made(shown, output, codes[denoiser.mode], True, *sizes, where)

    def manner(self, codes: Codes) -> Manner:
        """The output is a span missing at the end of the input: UL2's S-denoiser, or the nearest to it."""
        at_end = [denoiser for denoiser, _ in self.denoisers if denoiser.at_end]
        longest = max(
            (denoiser for denoiser, _ in self.denoisers), key=lambda d: (d.rate, d.mean < 1, d.mean)
        )
        mode = codes[(at_end or [longest])[0].mode]
        sentinel = codes.sentinels[:1]
        return Manner(mode, after=tuple(sentinel), start=tuple(sentinel))


class SpanCorruption(_Denoising):
    """T5's objective: `rate` of the tokens, in spans of `mean` tokens, are written after their sentinels.

    The output ends with <end> after the last span (as in T5's code; the paper's figure has a sentinel more).
    """

    kind: Literal["span-corruption"] = "span-corruption"
    rate: Rate = 0.15
    mean: float = Field(default=3.0, ge=1)

    @property
    def region(self) -> str:
        return "spans"

    @property
    def denoisers(self) -> Sequence[tuple[Denoiser, float]]:
        return ((Denoiser(self.mean, self.rate, "<denoise>"), 1.0),)


class UL2(_Denoising):
    """UL2's mixture of seven denoisers (Tay et al., arXiv 2205.05131, table 1), equally often.

    R: short spans, few; X: long spans or many; S: one span at the end, a quarter of the text on average. The
    mode token says which: <r> (the paper's [NLU]), <x> ([NLG]), <s> ([S2S]).
    """

    kind: Literal["ul2"] = "ul2"

    @property
    def region(self) -> str:
        return "ul2"

    @property
    def denoisers(self) -> Sequence[tuple[Denoiser, float]]:
        kinds = (
            Denoiser(3, 0.15, "<r>"),
            Denoiser(8, 0.15, "<r>"),
            Denoiser(0.25, 0.25, "<s>", at_end=True),
            Denoiser(3, 0.5, "<x>"),
            Denoiser(8, 0.5, "<x>"),
            Denoiser(64, 0.15, "<x>"),
            Denoiser(64, 0.5, "<x>"),
        )
        return tuple((kind, 1.0) for kind in kinds)


class T5Gemma2Mixture(_Denoising):
    """T5Gemma 2's mixture (arXiv 2512.14856): four span corruptions, and as often as they together one span of
    three quarters of the text, 1 : 1 : 1 : 1 : 4.
    """

    kind: Literal["t5gemma2"] = "t5gemma2"

    @property
    def region(self) -> str:
        return "t5gemma2"

    @property
    def denoisers(self) -> Sequence[tuple[Denoiser, float]]:
        return (
            (Denoiser(3, 0.15, "<r>"), 1.0),
            (Denoiser(12, 0.5, "<x>"), 1.0),
            (Denoiser(32, 0.15, "<x>"), 1.0),
            (Denoiser(32, 0.5, "<x>"), 1.0),
            (Denoiser(0.75, 0.75, "<x>"), 4.0),
        )
