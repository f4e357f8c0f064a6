"""What is sharded: texts in blocks of one part and one shard each, duplicates left out; and the tokenizer's sample.

All of it follows from the text and the settings alone.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from headtohead.data.objectives import ObjectiveField
from headtohead.data.sources import Source, Text
from headtohead.model.parts import Frozen, Listed

PARTS = ("train", "validation")
BLOCK = 1 << 20
"""Bytes of text that a worker tokenizes at a time."""
MOST_DOCUMENTS = 1 << 16
"""Documents of one shard: their names are in memory."""
REMEMBERED = 12_000_000
"""Documents that are known again as duplicates: 128 MiB."""


class Sharding(Frozen):
    """How text becomes shards. Sizes of `row` and `side` are tokens: windows are cut until they fit (`plan_rows`)."""

    objectives: Annotated[Listed[ObjectiveField], Field(min_length=1)]
    """Every window is cut by each of them; the n-th example of all is of one window."""
    window_bytes: Annotated[int, Field(ge=16)] = 1024
    row: Annotated[int, Field(ge=8, le=2**16)] = 512
    side: Annotated[int, Field(ge=4, le=2**16)] = 512
    validation: Annotated[float, Field(ge=0, lt=0.5)] = 0.01
    """The share of documents that are held out, by the hash of their text."""
    shard_bytes: Annotated[int, Field(ge=1)] = 64 << 20
    """Bytes of text after which a shard ends, with the document that reaches them."""
    tokenizer: Literal["bpe", "bytes"] = "bpe"
    vocabulary: Annotated[int, Field(ge=1)] = 8192
    sample_bytes: Annotated[int, Field(ge=1)] = 16 << 20
    """Bytes of training text that the tokenizer is trained on."""

    @property
    def keys(self) -> tuple[str, ...]:
        """A name for each objective: its kind, numbered where two are of one."""
        kinds = [str(objective.model_dump()["kind"]) for objective in self.objectives]
        return tuple(
            kind if kinds.count(kind) == 1 else f"{kind}-{kinds[: i + 1].count(kind)}"
            for i, kind in enumerate(kinds)
        )

    @property
    def extra_tokens(self) -> tuple[str, ...]:
        """The special tokens that the objectives need at the end of the vocabulary."""
        found = (objective.specials(self.window_bytes) for objective in self.objectives)
        return tuple(dict.fromkeys(name for names in found for name in names))


class Seen:
    """Keys seen before, in a table of constant size: `add` says whether a key is new."""

    def __init__(self, slots: int = 1 << 24) -> None:
        self._slots, self._used = slots, 0
        self._table = memoryview(mmap.mmap(-1, 8 * slots)).cast("Q")

    def add(self, key: int) -> bool:
        key = key or 1  # 0 is an empty slot
        table, place = self._table, key % self._slots
        while table[place]:
            if table[place] == key:
                return False
            place = (place + 1) % self._slots
        if self._used < REMEMBERED:
            table[place] = key
            self._used += 1
        return True


@dataclass
class Block:
    """Documents of one shard that are tokenized together; the shard's last says so."""

    part: str
    number: int
    names: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    bytes: int = 0
    last: bool = False


def held_out(key: int, share: float) -> bool:
    """Whether the document of this key is in the validation part: the same in every build, whatever else is in it."""
    return key < share * 2**64


class Reader:
    """The blocks of a source, in order, and what was left out of it."""

    def __init__(self, source: Source, settings: Sharding, seen: Seen) -> None:
        self.source, self.settings, self.seen = source, settings, seen
        self.documents = self.duplicates = self.empty = self.read = 0

    def blocks(self) -> Iterator[Block]:
        open_: dict[str, Block] = {}
        filled: dict[str, tuple[int, int]] = dict.fromkeys(
            PARTS, (0, 0)
        )  # bytes and documents of the open shard
        for text in self._kept():
            part = "validation" if held_out(text.key, self.settings.validation) else "train"
            block = open_.setdefault(part, Block(part, 0))
            size = len(text.text.encode())
            block.names.append(text.name)
            block.texts.append(text.text)
            block.keys.append(text.key)
            block.bytes += size
            total, count = filled[part][0] + size, filled[part][1] + 1
            filled[part] = (total, count)
            block.last = total >= self.settings.shard_bytes or count >= MOST_DOCUMENTS
            if block.last or block.bytes >= BLOCK:
                open_[part] = Block(part, block.number + block.last)
                if block.last:
                    filled[part] = (0, 0)
                yield block
        for part, block in open_.items():
            if filled[part][1]:
                block.last = True
                yield block

    def _kept(self) -> Iterator[Text]:
        dropping = False
        for text in self.source.texts():
            self.read = text.read
            if not text.goes_on:
                dropping = True
                if not text.text.strip():
                    self.empty += 1
                elif not self.seen.add(text.key):
                    self.duplicates += 1
                else:
                    dropping = False
            if not dropping:
                self.documents += not text.goes_on
                yield text


def sample(sources: Sequence[Source], settings: Sharding) -> list[str]:
    """Training text for the tokenizer: of each source its share of `sample_bytes`, by weight, chosen by hash from all
    of it where its size is known, else its beginning.
    """
    total = sum(source.weight for source in sources)
    found: list[str] = []
    for source in sources:
        left = settings.sample_bytes * source.weight / total
        share = 1.0 if source.bytes is None else min(1.0, 1.05 * left / max(1, source.bytes))
        for text in source.texts():
            # Other bits than those that part training from validation.
            chosen = (text.key * 0x9E3779B97F4A7C15) % 2**64 < share * 2**64
            if chosen and not held_out(text.key, settings.validation):
                found.append(text.text)
                left -= len(text.text)
                if left <= 0:
                    break
    return found
