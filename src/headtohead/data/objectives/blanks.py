"""GLM's blank infilling: spans are taken out, one blank is left for each, and the spans are written in any order.

Du et al., arXiv 2103.10360. A network knows which blank it fills from two-dimensional positions alone, so it
must have them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from headtohead.data.objectives.base import END_OF_BLANK, MASK, Codes, Draws, Made, Manner, Objective
from headtohead.data.objectives.spans import Rate, Span
from headtohead.data.objectives.words import sentences
from headtohead.data.shards import SPECIAL

MEAN_SPAN = 3.0
"""The Poisson mean of a span's length."""
SHORTEST_SHARE = 0.5
"""Of the one long span of "document"."""


def blanked(
    ids: Sequence[int], spans: Sequence[Span], order: Sequence[int], mask: int, end: int
) -> tuple[list[int], list[int], list[int]]:
    """Input, output and `where`: the spans (ascending) in the given order, with `end` between two.

    GLM ends each span with an end token as a target and begins the next with a start token as what is seen;
    here one token is both, so that the output is one sequence like any other.

    Worked example: ``a b c d e f``, the spans (2, 3) and (4, 6), the second first: the input is
    ``a b <mask> d <mask>``, the output ``e f <end> c``, which stands for the places 4 4 - 2.
    """
    shown: list[int] = []
    blanks: list[int] = []
    at = 0
    for start, after in spans:
        shown += [*ids[at:start], mask]
        blanks.append(len(shown) - 1)
        at = after
    shown += ids[at:]
    output: list[int] = []
    where: list[int] = []
    for number in order:
        start, after = spans[number]
        if output:
            output.append(end)
            where.append(SPECIAL)
        output += ids[start:after]
        where += [blanks[number]] * (after - start)
    return shown, output, where


class BlankInfilling(Objective):
    """GLM's objective. `spans`: "short" (lengths from a Poisson distribution, `rate` of the tokens), "sentences"
    (whole sentences, about that), or "document" (one span of 50 to 100 % of the text).
    """

    kind: Literal["glm"] = "glm"
    spans: Literal["short", "sentences", "document"] = "short"
    rate: Rate = 0.15
    seed: int = 0

    @property
    def region(self) -> str:
        return "blanks"

    @property
    def conserves(self) -> str:
        return "the spans of the output, put at the blanks they stand for, give the window"

    def specials(self, window_bytes: int) -> tuple[str, ...]:
        return ("<infill>", MASK, END_OF_BLANK)

    def texts(self, window: str) -> tuple[str, ...]:
        return tuple(sentences(window)) if self.spans == "sentences" else (window,)

    def make(self, window: str, ids: Sequence[list[int]], codes: Codes) -> Made:
        draws, text = Draws(self.seed, window), [token for piece in ids for token in piece]
        spans = self._chosen(ids, draws)
        order = draws.shuffled(range(len(spans)))
        shown, output, where = blanked(text, spans, order, codes[MASK], codes[END_OF_BLANK])
        sizes = codes.bytes_of(shown), codes.bytes_of(output)
        return Made(shown, output, codes["<infill>"], True, *sizes, where)

    def manner(self, codes: Codes) -> Manner:
        """The output is a blank at the end of the input."""
        return Manner(codes["<infill>"], after=(codes[MASK],))

    def _chosen(self, pieces: Sequence[list[int]], draws: Draws) -> list[Span]:
        length = sum(map(len, pieces))
        if self.spans == "document":
            size = max(1, round(length * (SHORTEST_SHARE + (1 - SHORTEST_SHARE) * draws.uniform())))
            start = draws.below(length - size + 1)
            return [(start, start + size)]
        wanted = max(1, round(self.rate * length))
        if self.spans == "sentences":
            return _sentence_spans(pieces, wanted, draws)
        sizes: list[int] = []
        while sum(sizes) < wanted:
            sizes.append(min(max(1, draws.poisson(MEAN_SPAN)), wanted - sum(sizes)))
        # A token at least is kept between two blanks.
        while len(sizes) - 1 > length - sum(sizes):
            sizes[-2:] = [sizes[-2] + sizes[-1]]
        spare = length - sum(sizes) - (len(sizes) - 1)
        gaps = [part - 1 for part in draws.parts(spare + len(sizes) + 1, len(sizes) + 1)]
        spans, at = [], 0
        for number, size in enumerate(sizes):
            at += gaps[number] + (number > 0)
            spans.append((at, at + size))
            at += size
        return spans


def _sentence_spans(pieces: Sequence[list[int]], wanted: int, draws: Draws) -> list[Span]:
    """Whole sentences in any order until there are enough tokens, but never all; neighbours are one blank each."""
    ends = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
    chosen: list[int] = []
    for number in draws.shuffled([i for i, piece in enumerate(pieces) if piece]):
        chosen.append(number)
        if sum(len(pieces[i]) for i in chosen) >= wanted or len(chosen) == len(pieces) - 1:
            break
    return [(ends[i] - len(pieces[i]), ends[i]) for i in sorted(chosen)]
