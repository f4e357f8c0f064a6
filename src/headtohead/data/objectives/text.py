"""Objectives that cut a text into an input and an output that are both text: causal and prefix language
modelling, restoration, pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar, Literal

from headtohead.data.objectives.base import Codes, Made, Manner, Objective
from headtohead.data.objectives.windows import cut_at
from headtohead.data.objectives.words import words
from headtohead.data.shards import CONTINUE, PAIR, RESTORE, TEXT
from headtohead.errors import UserError

VOWELS = "aeiouAEIOU"
_WITHOUT_VOWELS = str.maketrans("", "", VOWELS)
FEWEST_VOWELS = 0.05  # below this share of the characters, restoring vowels is nearly a copy
FEWEST_MOVED = 0.05  # and so it is where nearly every word is written in its characters' order


class TextToText(Objective):
    """An input and an output of text, each tokenized by itself."""

    mode: ClassVar[int]
    ends: ClassVar[bool] = False

    def cut(self, window: str) -> tuple[str, str]:
        """The input's text and the output's."""
        raise NotImplementedError

    def texts(self, window: str) -> tuple[str, ...]:
        return self.cut(window)

    def make(self, window: str, ids: Sequence[list[int]], codes: Codes) -> Made:
        given, output = self.cut(window)
        return Made(ids[0], ids[1], self.mode, self.ends, len(given.encode()), len(output.encode()))

    def manner(self, codes: Codes) -> Manner:
        return Manner(self.mode)


class CausalLM(TextToText):
    """All output: the input is empty.

    Worked example: the window ``of the people`` has the input nothing, the output ``of the people``.
    """

    kind: Literal["causal"] = "causal"
    mode = TEXT

    @property
    def region(self) -> str:
        return "text"

    @property
    def conserves(self) -> str:
        return "the output is the window"

    def cut(self, window: str) -> tuple[str, str]:
        return "", window

    def manner(self, codes: Codes) -> Manner:
        """All output: the input is text before it, given and not scored."""
        return Manner(self.mode, given="output")


class PrefixLM(TextToText):
    """The second part of a window given the first; cut in the middle (by bytes) or anywhere, by a stable
    hash.

    input + output is the window, exactly. The output is never empty; the input may be, for a window of one
    character.

    Worked example: ``of the people`` has 13 bytes and is cut before the space at or before the sixth: the input
    is ``of the``, the output `` people``.
    """

    kind: Literal["prefix"] = "prefix"
    split: Literal["middle", "random"] = "middle"
    seed: int = 0
    mode = CONTINUE

    @property
    def region(self) -> str:
        return "continuation"

    @property
    def conserves(self) -> str:
        return "input and output joined are the window"

    def cut(self, window: str) -> tuple[str, str]:
        data = window.encode()
        at = len(data) // 2
        if self.split == "random":
            digest = hashlib.sha256(self.seed.to_bytes(8, "little") + data).digest()
            at = min(1 + int.from_bytes(digest[:8], "little") % max(1, len(data) - 1), len(data) - 1)
        at = cut_at(data, at)
        return data[:at].decode(), data[at:].decode()


class Restoration(TextToText):
    """A window given itself with something taken out: an output that cannot be written without its input.

    `removed`: the vowels (for alphabets that write them), or the order of the characters within each word, which
    are sorted by code point (for Chinese, segmented into words).

    Worked examples: ``Every Island`` has the input ``vry slnd``; with `removed` = "order", ``我们研究语言`` of the
    words 我们 研究 语言 has the input ``们我研究言语``.
    """

    kind: Literal["restoration"] = "restoration"
    removed: Literal["vowels", "order"] = "vowels"
    mode = RESTORE
    ends = True

    @property
    def region(self) -> str:
        return "restoration"

    @property
    def conserves(self) -> str:
        return "the output is the window"

    def cut(self, window: str) -> tuple[str, str]:
        if self.removed == "vowels":
            return window.translate(_WITHOUT_VOWELS), window
        return "".join("".join(sorted(word)) for word in words(window)), window

    def check(self, texts: Sequence[str]) -> None:
        """Raises UserError where so little is taken out that the output would nearly copy the input."""
        total = sum(map(len, texts))
        if not total:
            return
        if self.removed == "vowels":
            vowels = sum(len(text) - len(text.translate(_WITHOUT_VOWELS)) for text in texts)
            if vowels < FEWEST_VOWELS * total:
                raise UserError(
                    f"the restoration objective needs text with vowels ({VOWELS[:5]}): only "
                    f"{100 * vowels / total:.1f} % of the training text's characters are vowels and at least "
                    f"{100 * FEWEST_VOWELS:.0f} % are needed; leave restoration out of the study's regions"
                )
            return
        moved = sum(a != b for text in texts for a, b in zip(*self.cut(text), strict=True))
        if moved < FEWEST_MOVED * total:
            raise UserError(
                f"the restoration objective needs words whose characters' order can be taken away: only "
                f"{100 * moved / total:.1f} % of the training text's characters would move and at least "
                f"{100 * FEWEST_MOVED:.0f} % are needed; leave restoration out of the study's regions"
            )


class Answer(TextToText):
    """The user's own pairs: the output given the input, as they stand. Windows aren't cut by it."""

    kind: Literal["pairs"] = "pairs"
    mode = PAIR
    ends = True

    @property
    def region(self) -> str:
        return "answer"

    @property
    def conserves(self) -> str:
        return "input and output are the pair's"
