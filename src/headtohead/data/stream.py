"""Training from sharded data: what `headtohead shard` made, mapped lazily, in an order that is a function of the seed.

The interface:

    data = Sharded.open(folder)                          # reads shards.json alone, and looks at the files' sizes
    data.row, data.side, data.vocabulary, data.objectives, data.tokenizer(), data.identity
    store = data.store("train" | "validation", objective=None)     # a ShardedStore: len(), store[i] -> Example
    rows = StreamRows(data, seed=…, rows_per_step=…, row=None, side=None, objective=None)
    rows.at(step, rank=0, world=1) -> list[tuple[Example, ...]]    # what `Layout.batch` takes
    rows.counts(step) -> {source: {"examples": …, "epochs": …}}    # consumed before this step

Places of the order are numbered from 0 without an end. `Mixture` says which source a place belongs to; a source that
is exhausted begins again, in the order of its next epoch, whatever the others do. Within an epoch a source's examples
are in the order of a permutation that is computed place by place (`permuted`), so nothing walks the corpus. Places are
packed into rows in stretches of `STRETCH`: a row never holds examples of two stretches, and every place is in exactly
one row. Rows depend on the lengths of all objectives, so every arm sees the same windows at the same step.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from headtohead.data.blocks import PARTS
from headtohead.data.mixture import Mixture
from headtohead.data.packing import plan_rows
from headtohead.data.shards import Example, ExampleStore, mix
from headtohead.data.tokenizers import Tokenizer, load_tokenizer
from headtohead.data.writing import NAMES
from headtohead.errors import UserError
from headtohead.files import read_json, sha256_of

FORMAT = 1
MANIFEST = "shards.json"
PLAN = "plan.json"


STRETCH = 2048
"""Places that are packed into rows at a time."""

Numbers = npt.NDArray[np.int64]


class Sharded:
    """A folder of sharded data, by its description. Examples are read by `store`, training rows by `StreamRows`."""

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.folder = folder
        self.description = description
        settings = description["settings"]
        self.row: int = settings["row"]
        self.side: int = settings["side"]
        self.vocabulary: int = description["vocabulary"]
        self.objectives: tuple[str, ...] = tuple(description["objectives"])
        """The keys of the objectives that the windows were cut by, the first being the default."""
        self.cut_by: Mapping[str, Mapping[str, Any]] = dict(
            zip(self.objectives, settings["objectives"], strict=True)
        )
        """Each of these objectives as a table."""
        self.sources: tuple[str, ...] = tuple(source["name"] for source in description["sources"])
        self.weights: tuple[float, ...] = tuple(source["weight"] for source in description["sources"])

    @classmethod
    def open(cls, folder: Path) -> Sharded:
        """Read the description and look at the size of every file; contents are checked by `verify`.

        Raises:
            UserError: no sharded data, unfinished, damaged, of another version, or a file that is missing or cut short.
        """
        path, again = folder / MANIFEST, "run headtohead shard again"
        if not path.is_file():
            kind = "is unfinished" if (folder / PLAN).is_file() else "holds no sharded data"
            raise UserError(f"{folder} {kind}: there is no {MANIFEST}; {again}")
        description = read_json(path, "the description of the shards")
        try:
            if description["format"] != FORMAT:
                raise UserError(f"{path} was written by another version of headtohead: {again}")
            found = cls(folder, description)
            for shard in found._shards():
                for key in found.objectives:
                    for kind, size in shard["stores"][key]["sizes"].items():
                        file = folder / shard["name"] / f"{key}.{kind}"
                        there = file.stat().st_size if file.is_file() else None
                        if there is None:
                            raise UserError(f"{file} is missing: {again}")
                        if there != size:
                            raise UserError(f"{file} has {there} bytes where {size} were written: {again}")
        except (KeyError, TypeError, AttributeError, IndexError):
            raise UserError(f"{path} is damaged: {again}") from None
        return found

    def _shards(self) -> Iterator[Mapping[str, Any]]:
        return (
            shard
            for source in self.description["sources"]
            for part in PARTS
            for shard in source["parts"][part]["shards"]
        )

    def verify(self) -> None:
        """Read every file and compare checksums. Raises UserError naming the first file that was altered."""
        tokenizer = self.folder / "tokenizer.json"
        if not tokenizer.is_file() or sha256_of(tokenizer) != self.description["tokenizer_sha256"]:
            raise UserError(f"{tokenizer} is missing or has been altered: run headtohead shard again")
        for shard in self._shards():
            for key in self.objectives:
                for kind, wanted in shard["stores"][key]["sha256"].items():
                    file = self.folder / shard["name"] / f"{key}.{kind}"
                    if sha256_of(file) != wanted:
                        raise UserError(
                            f"{file} has been altered since it was written: run headtohead shard again"
                        )

    @property
    def identity(self) -> dict[str, str]:
        """What makes a run on these data this run: the checksums of the text and the tokenizer."""
        return {key: self.description[key] for key in ("corpus_sha256", "tokenizer_sha256")}

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the shards were made with. Raises UserError where it is missing or damaged."""
        return load_tokenizer(self.folder / "tokenizer.json")

    def store(
        self, part: str = "train", objective: str | None = None, source: str | None = None
    ) -> ShardedStore:
        """The examples of a part, as an objective cut them, of one source or of all, one after another.

        Raises:
            UserError: no such objective or source.
        """
        key = self.objectives[0] if objective is None else objective
        for word, known, what in ((key, self.objectives, "objective"), (source, self.sources, "source")):
            if word is not None and word not in known:
                raise UserError(f"{self.folder} has no {what} {word!r}: it has {', '.join(known)}")
        taken: list[tuple[Mapping[str, Any], int]] = []
        documents = 0
        for one in self.description["sources"]:
            for shard in one["parts"][part]["shards"]:
                if source in (None, one["name"]):
                    taken.append((shard, documents))
                documents += shard["documents"]
        return ShardedStore(self.folder, key, taken)


class ShardedStore(Sequence[Example]):
    """Examples of many shards as one sequence; a shard is opened when it is first read.

    `Example.document` counts the documents of the part over all sources; `name_of` says what one is called.
    """

    def __init__(self, folder: Path, key: str, shards: Sequence[tuple[Mapping[str, Any], int]]) -> None:
        self._folder, self._key = folder, key
        self._shards = [folder / shard["name"] for shard, _ in shards]
        self._documents = [first for _, first in shards]
        self._starts = [0, *accumulate(shard["examples"] for shard, _ in shards)]
        self._edges = np.array(self._starts, np.int64)
        self._open: dict[int, ExampleStore] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def _shard(self, number: int) -> ExampleStore:
        if number not in self._open:
            self._open[number] = ExampleStore.open(self._shards[number], self._key, verify=False)
        return self._open[number]

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._starts, index) - 1
        return self._shard(number).example(index - self._starts[number], self._documents[number])

    def held(self, indices: Numbers) -> tuple[Numbers, Numbers]:
        """`Example.held` of the examples of these indices: inputs and outputs, in tokens."""
        lengths = np.empty((2, len(indices)), np.int64)
        shards = np.searchsorted(self._edges, indices, "right") - 1
        for number in np.unique(shards).tolist():
            here = shards == number
            lengths[:, here] = self._shard(number).held_at(indices[here] - self._starts[number])
        return lengths[0], lengths[1]

    def name_of(self, document: int) -> str:
        """What the document of that number is called: its file, and line or row."""
        number = bisect_right(self._documents, document) - 1
        names = read_json(self._shards[number] / NAMES, "the names of the documents")
        return names[document - self._documents[number]]


class StreamRows:
    """The rows of every step: a function of (seed, step) and of nothing else; ranks share them out.

    Args:
        data: opened.
        seed: of the order.
        rows_per_step: over all ranks.
        row, side: tokens of a row, see `plan_rows`; None: those the windows were cut for.
        objective: by which the examples that are given out were cut; rows are the same for all of them.
        weights: for each source of `data`, in place of those in its description.

    Raises:
        UserError: no training examples, or rows too short for the windows (when a row with one is reached).
    """

    def __init__(
        self,
        data: Sharded,
        *,
        seed: int,
        rows_per_step: int,
        row: int | None = None,
        side: int | None = None,
        objective: str | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.data, self.seed, self.rows_per_step = data, seed, rows_per_step
        self.row, self.side = row or data.row, side or data.side
        self._stores = [[data.store("train", key, name) for key in data.objectives] for name in data.sources]
        self._given = [data.store("train", objective, name) for name in data.sources]
        sizes = [len(store) for store in self._given]
        empty = [name for name, size in zip(data.sources, sizes, strict=True) if not size]
        if empty:
            raise UserError(f"the source {empty[0]} of {data.folder} holds no training examples")
        self.sizes = tuple(sizes)
        self.mixture = Mixture(data.weights if weights is None else weights, seed)
        self._rows_before = [0]
        self._planned = lru_cache(maxsize=4)(self._plan)

    def place(self, places: Numbers) -> tuple[Numbers, Numbers]:
        """Which source, and which of its examples, stands at these places of the order."""
        sources, turns = self.mixture.at(places)
        found = np.empty_like(turns)
        for source, size in enumerate(self.sizes):
            here = sources == source
            epochs, within = np.divmod(turns[here], size)
            own = np.empty_like(within)
            for epoch in np.unique(epochs).tolist():
                at = epochs == epoch
                own[at] = permuted(within[at], size, self.seed, epoch, source)
            found[here] = own
        return sources, found

    def _plan(self, stretch: int) -> list[list[tuple[int, int]]]:
        """The rows of a stretch, each of (source, example)."""
        places = np.arange(stretch * STRETCH, (stretch + 1) * STRETCH, dtype=np.int64)
        sources, found = self.place(places)
        held = np.zeros((2, STRETCH), np.int64) - 1
        for source, stores in enumerate(self._stores):
            here = sources == source
            for store in stores if here.any() else ():
                held[:, here] = np.maximum(held[:, here], store.held(found[here]))
        rows = plan_rows(held[0].tolist(), held[1].tolist(), range(STRETCH), row=self.row, side=self.side)
        return [[(int(sources[i]), int(found[i])) for i in row] for row in rows]

    def numbers(self, step: int) -> list[list[tuple[int, int]]]:
        """The rows of a step, counted from 0, over all ranks: (source, number of the example in it)."""
        first = step * self.rows_per_step
        while self._rows_before[-1] < first + self.rows_per_step:
            self._rows_before.append(self._rows_before[-1] + len(self._planned(len(self._rows_before) - 1)))
        found: list[list[tuple[int, int]]] = []
        for number in range(first, first + self.rows_per_step):
            stretch = bisect_right(self._rows_before, number) - 1
            found.append(self._planned(stretch)[number - self._rows_before[stretch]])
        return found

    def at(self, step: int, rank: int = 0, world: int = 1) -> list[tuple[Example, ...]]:
        """The rows of a step that are this rank's: rank after rank they are the step's rows, in their order.

        Shares differ by one row at most.
        """
        rows = self.numbers(step)
        mine = rows[len(rows) * rank // world : len(rows) * (rank + 1) // world]
        return [tuple(self._given[source][i] for source, i in row) for row in mine]

    def counts(self, step: int) -> dict[str, dict[str, float]]:
        """What the steps before this one have consumed of each source: examples, and epochs of it."""
        taken = [0] * len(self.sizes)
        if step:
            last = self.numbers(step - 1)
            rows = step * self.rows_per_step
            stretch = bisect_right(self._rows_before, rows - 1) - 1
            del last
            taken = self.mixture.counts(stretch * STRETCH)
            for row in self._planned(stretch)[: rows - self._rows_before[stretch]]:
                for source, _ in row:
                    taken[source] += 1
        return {
            name: {"examples": count, "epochs": count / size}
            for name, count, size in zip(self.data.sources, taken, self.sizes, strict=True)
        }

    @cached_property
    def rows_in_epoch(self) -> int:
        """About how many rows show every source once, at the density of the first stretch."""
        places = max(size / share for size, share in zip(self.sizes, self.mixture.shares, strict=True))
        return max(1, round(places * len(self._planned(0)) / STRETCH))


def permuted(places: Numbers, size: int, seed: int, epoch: int, source: int = 0) -> Numbers:
    """What stands at these places of a permutation of 0 … size - 1 that seed, epoch and source choose.

    A Feistel network of four rounds over the least even number of bits that holds `size`, walked on from numbers
    outside until one is inside (Black and Rogaway 2002): every place is computed by itself, in constant memory.
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = np.uint64((1 << half) - 1)
    key = np.array([(seed * 0x9E3779B97F4A7C15 + epoch * 0xD1B54A32D192ED03 + source) % 2**64], np.uint64)
    keys = [mix(key + np.uint64(number)) for number in range(4)]

    def once(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        left, right = x >> np.uint64(half), x & low
        for each in keys:
            left, right = right, left ^ (mix(right ^ each) & low)
        return (left << np.uint64(half)) | right

    found = once(np.asarray(places).astype(np.uint64))
    while (outside := found >= np.uint64(size)).any():
        found[outside] = once(found[outside])
    return found.astype(np.int64)
