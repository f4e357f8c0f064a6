"""Mixtures: which of several sources stands at each place of the one order.

A weight is a source's share of the examples (windows of nearly equal bytes, so nearly its share of the text). Of any
first n places each source has its share to within one, at the ends of `BLOCK`s; within a block the places are shuffled.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from headtohead.data.shards import mix
from headtohead.errors import UserError
from headtohead.files import read_text
from headtohead.model.parts import Frozen, Listed
from headtohead.validation import validated

BLOCK = 1024
LEAST = 1 / 512
"""The least share: so that every source has a place in every block."""

Numbers = npt.NDArray[np.int64]


class Mixture:
    """The source of every place, and how many places of that source come before it; any place, at once.

    Raises:
        UserError: a weight that is no positive number, or less than 1/512 of all.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        if not weights or not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise UserError(f"the weights of a mixture should be positive numbers, not {list(weights)}")
        total = math.fsum(weights)
        self.shares = tuple(weight / total for weight in weights)
        if min(self.shares) < LEAST:
            raise UserError(
                f"the weight {weights[self.shares.index(min(self.shares))]} of a mixture is less than 1/512 of all: "
                "leave that source out, or raise it"
            )
        self._ends = [math.fsum(self.shares[: i + 1]) for i in range(len(weights) - 1)]
        self._seed = seed
        self._block = lru_cache(maxsize=16)(self._shuffled)

    def counts(self, places: int) -> list[int]:
        """How many of the first `places`, a multiple of BLOCK, each source has: rounded so that they add up."""
        edges = [0, *(math.floor(end * places + 0.5) for end in self._ends), places]
        return [after - before for before, after in pairwise(edges)]

    def _shuffled(self, block: int) -> tuple[Numbers, Numbers]:
        before, after = self.counts(block * BLOCK), self.counts((block + 1) * BLOCK)
        taken = [b - a for a, b in zip(before, after, strict=True)]
        sources = np.repeat(np.arange(len(taken)), taken)
        stream = mix(np.array([(self._seed * 0x9E3779B97F4A7C15 + block + 0x632BE5AB) % 2**64], np.uint64))
        sources = sources[np.argsort(mix(np.arange(BLOCK, dtype=np.uint64) ^ stream), kind="stable")]
        turns = np.empty(BLOCK, np.int64)
        for source, first in enumerate(before):
            here = sources == source
            turns[here] = first + np.arange(int(here.sum()))
        return sources, turns

    def at(self, places: Numbers) -> tuple[Numbers, Numbers]:
        """For each place its source, and how often that source came before."""
        if len(self.shares) == 1:
            return np.zeros(len(places), np.int64), places
        sources, turns = np.empty((2, len(places)), np.int64)
        blocks, within = np.divmod(places, BLOCK)
        for block in np.unique(blocks).tolist():
            here = blocks == block
            own, before = self._block(block)
            sources[here], turns[here] = own[within[here]], before[within[here]]
        return sources, turns


class MixtureSource(Frozen):
    """One `[[sources]]` of a mixture file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,60}$")]
    weight: Annotated[float, Field(gt=0)] = 1.0
    text: Listed[str] = ()
    """Files and folders, relative to the mixture file."""
    dataset: str | None = None
    split: str | None = None
    field: str = "text"


class MixtureFile(Frozen):
    """A mixture file: a list of sources with weights."""

    sources: Annotated[Listed[MixtureSource], Field(min_length=1)]


def read_mixture(path: Path) -> tuple[MixtureSource, ...]:
    """The sources of a mixture file, with the paths of their texts made whole.

    Raises:
        UserError: not readable, not TOML, an unknown key, a source without text or with both, two of one name.
    """
    try:
        table = tomllib.loads(read_text(path, "the mixture"))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"the mixture {path} is not TOML: {error}") from None
    found = validated(MixtureFile, table, str(path)).sources
    for source in found:
        if bool(source.text) == (source.dataset is not None):
            raise UserError(
                f"{path}: the source {source.name} should have either text = [...] or dataset = ..."
            )
        if [other.name for other in found].count(source.name) > 1:
            raise UserError(f"{path}: two sources are called {source.name}: name them apart")
    Mixture([source.weight for source in found], 0)
    here = path.parent
    return tuple(
        source.model_copy(update={"text": tuple(str(here / text) for text in source.text)})
        for source in found
    )
