"""Gap sentences: whole sentences are taken out of a text and written, as a summary of it would be.

Which ones: those that share most words with the rest (PEGASUS, Zhang et al., arXiv 1912.08777: ROUGE-1 F1, each
sentence by itself), or those that together have the longest common subsequence with the rest (T5-PEGASUS, Su
2021), chosen one after another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from rapidfuzz.distance import LCSseq

from headtohead.data.objectives.base import MASK, Codes, Made, Manner, Objective
from headtohead.data.objectives.spans import Rate
from headtohead.data.objectives.windows import cut_at
from headtohead.data.objectives.words import is_word, sentences, words


def by_rouge(pieces: Sequence[str], count: int) -> list[int]:
    """The `count` sentences whose words overlap most with the rest's, by ROUGE-1 F1; ascending.

    Worked example: of ``The cat sat.``, ``It rained.``, ``A cat sat down.`` the first has 2 words of 3 in the rest's
    6 (F1 4/9), the second none of 2, the third 2 of 4 in the rest's 5 (F1 4/9): the first is chosen, as the
    earlier of two equal ones.
    """
    bags = [Counter(_words(piece)) for piece in pieces]
    everything = sum(bags, Counter[str]())
    scores = [_f1(bag, everything - bag) for bag in bags]
    return sorted(sorted(range(len(pieces)), key=lambda i: (-scores[i], i))[:count])


def by_subsequence(pieces: Sequence[str], count: int) -> list[int]:
    """`count` sentences, each chosen so that those so far and the rest have the longest common subsequence of
    words; ascending.
    """
    split = [_words(piece) for piece in pieces]
    chosen: set[int] = set()
    while len(chosen) < count:
        lengths = {i: _common(split, chosen | {i}) for i in range(len(pieces)) if i not in chosen}
        chosen.add(max(lengths, key=lambda i: (lengths[i], -i)))
    return sorted(chosen)


def _words(piece: str) -> list[str]:
    return [word.lower() for word in words(piece) if is_word(word)]


def _f1(some: Counter[str], rest: Counter[str]) -> float:
    shared = (some & rest).total()
    return 2 * shared / max(1, some.total() + rest.total())


def _common(split: Sequence[list[str]], chosen: set[int]) -> int:
    taken = [word for i, one in enumerate(split) if i in chosen for word in one]
    rest = [word for i, one in enumerate(split) if i not in chosen for word in one]
    return LCSseq.similarity(taken, rest)


class GapSentences(Objective):
    """`rate` of the sentences are the output, one after another as they stood; the input is the rest.

    `score`: "rouge" (PEGASUS) or "lcs" (T5-PEGASUS). `blanks`: each missing sentence leaves a <mask> (PEGASUS);
    without, nothing tells where they were (T5-PEGASUS).
    """

    kind: Literal["gap-sentences"] = "gap-sentences"
    score: Literal["rouge", "lcs"] = "rouge"
    rate: Rate = 0.3
    blanks: bool = True

    @property
    def region(self) -> str:
        return "gap-sentences"

    @property
    def conserves(self) -> str:
        if self.blanks:
            return "the sentences of the output, put at the input's blanks in order, give the window"
        return "the sentences of input and output are the window's"

    def specials(self, window_bytes: int) -> tuple[str, ...]:
        return ("<summarise>", *([MASK] if self.blanks else []))

    def texts(self, window: str) -> tuple[str, ...]:
        found = sentences(window)
        if len(found) == 1:  # a window of one sentence is cut in the middle, as `PrefixLM` does
            data = window.encode()
            at = cut_at(data, len(data) // 2)
            found = [part for part in (data[:at].decode(), data[at:].decode()) if part]
        return tuple(found)

    def manner(self, codes: Codes) -> Manner:
        """The output is a sentence missing at the end of the input."""
        return Manner(codes["<summarise>"], after=(codes[MASK],) if self.blanks else ())

    def chosen(self, pieces: Sequence[str]) -> list[int]:
        """The sentences that are the output: at least one, and never all of several."""
        count = min(max(1, round(self.rate * len(pieces))), max(1, len(pieces) - 1))
        return (by_rouge if self.score == "rouge" else by_subsequence)(pieces, count)

    def make(self, window: str, ids: Sequence[list[int]], codes: Codes) -> Made:
        gone = set(self.chosen(self.texts(window)))
        blank = [codes[MASK]] if self.blanks else []
        seen = [token for i, piece in enumerate(ids) for token in (blank if i in gone else piece)]
        output = [token for i in sorted(gone) for token in ids[i]]
        sizes = codes.bytes_of(seen), codes.bytes_of(output)
        return Made(seen, output, codes["<summarise>"], True, *sizes)
