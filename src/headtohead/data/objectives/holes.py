"""Holes answered in place: masked language modelling (BERT, RoBERTa, whole words), and UniLM's mixture of masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from headtohead.data.objectives.base import MASK, Codes, Draws, Made, Manner, Objective
from headtohead.data.objectives.spans import Rate
from headtohead.data.objectives.words import is_word, words

LONG_HOLES = 0.2
"""UniLM: how often two or three tokens in a row are hidden together (arXiv 1905.03197, 2.3)."""


def hidden(ids: Sequence[int], holes: Sequence[int], replace: str, draws: Draws, codes: Codes) -> list[int]:
    """The text with its holes: each <mask>, or with `replace` = "bert" in 8 of 10 cases; in one of the others a
    random token of text, in the other the token itself (Devlin et al., arXiv 1810.04805, 3.1).

    Worked example: ``a b c d`` with holes 1 and 3 is ``a <mask> c <mask>``; the output is ``b d``, which stands for 1
    and 3.
    """
    found = list(ids)
    first, end = codes.text
    for hole in holes:
        chance = draws.uniform() if replace == "bert" else 0.0
        if chance < 0.8:
            found[hole] = codes[MASK]
        elif chance < 0.9:
            found[hole] = first + draws.below(end - first)
    return found


class MaskedLM(Objective):
    """Tokens of a text are hidden, and told from all the others.

    `rate` of the tokens; `replace`: "bert", 80 % by <mask>, 10 % by a random token, 10 % not at all, or "mask",
    all of them. `whole_words`: all tokens of a word or none (Chinese by words of `jieba`), words in any order
    until there are enough.
    """

    kind: Literal["masked"] = "masked"
    rate: Rate = 0.15
    replace: Literal["bert", "mask"] = "bert"
    whole_words: bool = False
    seed: int = 0

    @property
    def region(self) -> str:
        return "holes"

    @property
    def in_place(self) -> bool:
        return True

    @property
    def conserves(self) -> str:
        return "the answers put at their places give the window"

    def specials(self, window_bytes: int) -> tuple[str, ...]:
        return ("<fill>", MASK)

    def manner(self, codes: Codes) -> Manner:
        return Manner(codes["<fill>"])

    def make(self, window: str, ids: Sequence[list[int]], codes: Codes) -> Made:
        draws, text = Draws(self.seed, window), ids[0]
        wanted = max(1, round(self.rate * len(text)))
        by_words = self.whole_words
        holes = (
            _word_holes(window, text, wanted, draws, codes) if by_words else draws.sample(len(text), wanted)
        )
        seen = hidden(text, holes, self.replace, draws, codes)
        output = [text[hole] for hole in holes]
        sizes = codes.bytes_of(text) - codes.bytes_of(output), codes.bytes_of(output)
        return Made(seen, output, codes["<fill>"], False, *sizes, where=holes, in_place=True)


def _word_holes(window: str, ids: Sequence[int], wanted: int, draws: Draws, codes: Codes) -> list[int]:
    """Tokens of whole words, about `wanted`: words are taken in any order, one that would be too many is left.

    A token belongs to the word that its last byte is in (one begins with the space before its word).
    """
    owner = np.concatenate([np.full(len(w.encode()), i) for i, w in enumerate(words(window))])
    last = np.cumsum(codes.sizes[np.asarray(ids, np.int64)]) - 1
    of_token = owner[last]
    pieces = words(window)
    groups = [np.flatnonzero(of_token == i).tolist() for i, piece in enumerate(pieces) if is_word(piece)]
    groups = [group for group in groups if group] or [[i] for i in range(len(ids))]
    found: list[int] = []
    for group in draws.shuffled(groups):
        if not found or len(found) + len(group) <= wanted:
            found += group
        if len(found) >= wanted:
            break
    return sorted(found)


class UniLM(Objective):
    """UniLM's mixture of masks (Dong et al., arXiv 1905.03197): holes in a text that is seen in one of four ways.

    A third of the windows are seen whole (all input), a third as a pair (input and output part, the second
    seen from the left), a sixth from the left alone and a sixth from the right alone (all output; from the
    right is the text reversed). The holes are BERT's, a fifth of them two or three tokens long, and answered in
    place. A network with a prefix view sees what the mask of each way says; the mode token tells which it is.
    """

    kind: Literal["unilm"] = "unilm"
    rate: Rate = 0.15
    seed: int = 0
    weights: tuple[float, float, float, float] = Field(default=(2.0, 2.0, 1.0, 1.0), strict=False)

    MODES: ClassVar[tuple[str, ...]] = ("<whole>", "<pair-holes>", "<forward>", "<backward>")

    @property
    def region(self) -> str:
        return "holes"

    @property
    def in_place(self) -> bool:
        return True

    @property
    def conserves(self) -> str:
        return "the answers put at their places give the window (reversed where it is seen from the right)"

    def specials(self, window_bytes: int) -> tuple[str, ...]:
        return (*self.MODES, MASK)

    def manner(self, codes: Codes) -> Manner:
        """The text is seen whole."""
        return Manner(codes[self.MODES[0]])

    def make(self, window: str, ids: Sequence[list[int]], codes: Codes) -> Made:
        draws, text = Draws(self.seed, window), ids[0]
        way = draws.choice(self.weights)
        mode = self.MODES[way]
        if mode == "<backward>":
            text = text[::-1]
        holes = self._holes(len(text), draws)
        seen = hidden(text, holes, "bert", draws, codes)
        output = [text[hole] for hole in holes]
        split = {"<whole>": len(text), "<pair-holes>": len(text) // 2}.get(mode, 0)
        sizes = codes.bytes_of(text) - codes.bytes_of(output), codes.bytes_of(output)
        rest: dict[str, Any] = {"shown": seen[split:], "where": holes, "in_place": True}
        return Made(seen[:split], output, codes[mode], False, *sizes, **rest)

    def _holes(self, length: int, draws: Draws) -> list[int]:
        wanted, found = max(1, round(self.rate * length)), set[int]()
        while len(found) < wanted:
            start = draws.below(length)
            size = 2 + draws.below(2) if draws.uniform() < LONG_HOLES else 1
            found |= set(range(start, min(length, start + size, start + wanted - len(found))))
        return sorted(found)
