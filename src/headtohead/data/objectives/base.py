"""What every objective is: a description that turns a window of text into an `Example`.

Chance is a function of the window and the objective's seed alone (`Draws`), so a window is corrupted in one
way whoever reads it, and in what order.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from headtohead.data.shards import SPECIAL, SPECIALS, Example, Ids
from headtohead.data.tokenizers import FIRST, Tokenizer
from headtohead.model.parts import Frozen

T = TypeVar("T")


Given = Literal["input", "output", "both"]


def shares(given: Given, text: Sequence[T]) -> tuple[Sequence[T], Sequence[T]]:
    """What of an input's text stands in the input part, and what in the output part."""
    return [] if given == "output" else text, [] if given == "input" else text


@dataclass(frozen=True)
class Manner:
    """How a network that learnt by an objective is used to see any input and output.

    mode: the mode token before the input. after: ids after the input's text. start: ids that begin the output,
    given and not scored. given: where the input's text stands: as the input, at the beginning of the output (after
    `start`, given too), or in both.
    """

    mode: int
    after: tuple[int, ...] = ()
    start: tuple[int, ...] = ()
    given: Given = "input"

    def framed(self, text: Sequence[int]) -> tuple[list[int], list[int]]:
        """What the input part holds after the mode token, and what is given of the output part, for an input's ids."""
        shown, begun = shares(self.given, text)
        return [*shown, *self.after], [*self.start, *begun]


MASK = "<mask>"
END_OF_BLANK = "<blank-end>"


def sentinels(count: int) -> tuple[str, ...]:
    """T5's names of the tokens that stand for spans."""
    return tuple(f"<extra_id_{i}>" for i in range(count))


class Codes:
    """What an objective knows of a tokenizer: its special tokens' ids, and how many bytes each token is."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.sizes = tokenizer.sizes
        extra = tokenizer.vocabulary - len(tokenizer.extra)
        self._ids = {name: i for i, name in enumerate(SPECIALS)} | {
            name: extra + i for i, name in enumerate(tokenizer.extra)
        }
        self.text = (FIRST, extra)
        """The first id that is text, and the first after it that isn't."""

    @cached_property
    def sentinels(self) -> list[int]:
        """The ids of `<extra_id_0>` and those after it."""
        return [self._ids[name] for name in sentinels(len(self._ids)) if name in self._ids]

    def __getitem__(self, name: str) -> int:
        """The id of a special token. Raises KeyError for one that the vocabulary was made without."""
        return self._ids[name]

    def bytes_of(self, ids: Sequence[int] | npt.NDArray[np.integer]) -> int:
        """Bytes of text in tokens; special ones are none."""
        return int(self.sizes[np.asarray(ids, np.int64)].sum())


class Draws:
    """Chance that depends on what it is seeded with alone, and on no library's version: all of it comes from
    the 53 bits of `random.random`, which Python keeps as they are.
    """

    def __init__(self, seed: int, window: str) -> None:
        digest = hashlib.sha256(seed.to_bytes(8, "little") + window.encode()).digest()
        self.uniform = random.Random(int.from_bytes(digest[:8], "little")).random

    def below(self, n: int) -> int:
        """One of 0 … n - 1."""
        return min(n - 1, int(self.uniform() * n))

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in any order (Fisher and Yates)."""
        found = list(items)
        for i in range(len(found) - 1, 0, -1):
            j = self.below(i + 1)
            found[i], found[j] = found[j], found[i]
        return found

    def sample(self, n: int, k: int) -> list[int]:
        """`k` different ones of 0 … n - 1, ascending."""
        return sorted(self.shuffled(range(n))[:k])

    def poisson(self, mean: float) -> int:
        """A Poisson number (Knuth's product of uniforms; for small means)."""
        limit, product, count = math.exp(-mean), self.uniform(), 0
        while product > limit:
            product *= self.uniform()
            count += 1
        return count

    def parts(self, total: int, count: int) -> list[int]:
        """`total` as a sum of `count` whole numbers from 1 up, all such sums equally likely."""
        cuts = [0, *(1 + cut for cut in self.sample(total - 1, count - 1)), total]
        return [after - before for before, after in pairwise(cuts)]

    def choice(self, weights: Sequence[float]) -> int:
        """An index, by weights."""
        left = self.uniform() * sum(weights)
        for i, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return i
        return len(weights) - 1


@dataclass(frozen=True)
class Made:
    """An example in the making: the fields of `Example` that an objective decides."""

    input: Sequence[int] | Ids
    output: Sequence[int] | Ids
    mode: int
    ends: bool
    input_bytes: int
    output_bytes: int
    where: Sequence[int] | None = None
    shown: Sequence[int] | Ids = ()
    in_place: bool = False

    def example(self, document: int, region: str) -> Example:
        return Example(
            np.array(self.input, np.int32),
            np.array(self.output, np.int32),
            self.mode,
            self.ends,
            document,
            region,
            self.output_bytes,
            self.input_bytes,
            None if self.where is None else np.array(self.where, np.int32),
            np.array(self.shown, np.int32),
            self.in_place,
        )


class Objective(Frozen):
    """How one window becomes an input and an output.

    A window is cut in `texts`, which are tokenized each by itself, and `make` gets their ids. Objectives that
    work on words, sentences or parts cut the text; those that work on tokens take the window as it is.
    """

    @property
    def region(self) -> str:
        """What the output is called where it is scored."""
        raise NotImplementedError

    @property
    def in_place(self) -> bool:
        """Whether holes are answered where they are, instead of an output being written."""
        return False

    @property
    def conserves(self) -> str:
        """What is promised of input and output together, in words."""
        raise NotImplementedError

    def specials(self, window_bytes: int) -> tuple[str, ...]:
        """The extra special tokens that it needs for windows of at most so many bytes."""
        return ()

    def texts(self, window: str) -> tuple[str, ...]:
        return (window,)

    def make(self, window: str, ids: Sequence[list[int]], codes: Codes) -> Made:
        """The example of a window, with the ids of each of its `texts`."""
        raise NotImplementedError

    def manner(self, codes: Codes) -> Manner:
        """How a network that learnt by this objective is used to see any input and output."""
        raise NotImplementedError

    def present(self, example: Example, codes: Codes) -> Example:
        """Any input and output, in this objective's manner: the same text, of which the same tokens are scored.
        Holes that are answered in place stay as they were made.
        """
        if example.in_place:
            return example
        manner = self.manner(codes)
        shown, begun = manner.framed(example.input.tolist())
        where = example.where
        if begun or len(shown) != len(example.input):
            place = max(0, len(shown) - 1)
            where = np.array([*[SPECIAL] * len(begun), *[place] * len(example.output)], np.int32)
        output = np.array([*begun, *example.output], np.int32)
        return replace(example, input=np.array(shown, np.int32), output=output, mode=manner.mode, where=where)

    def check(self, texts: Sequence[str]) -> None:
        """Raises UserError where the training text isn't one that this objective can learn from."""
