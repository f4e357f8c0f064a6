"""Examples on disk: a memory-mapped file of tokens with an index, and one deterministic order for every arm.

A store is four files in a folder, all written atomically, the JSON last:

    NAME.tokens   the tokens of every example: input, shown, output; uint16, or int32 if ids outgrow it
    NAME.where    int32, `Example.where` of the examples that have it
    NAME.index    one row of int64 per example (the columns are `COLUMNS`)
    NAME.json     shapes, documents, regions and the sha256 of the files above

Runs open it read-only; a file cut short or altered is refused by name.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from headtohead.errors import UserError
from headtohead.files import read_json, sha256_of, write_atomic

# Ids of the special tokens, the same for every tokenizer. Text never contains them.
PAD, START, END, CONTINUE, RESTORE, TEXT, PAIR = range(7)
SPECIALS = ("<pad>", "<start>", "<end>", "<continue>", "<restore>", "<text>", "<pair>")

COLUMNS = ("start", "input", "output", "mode", "ends", "document", "region", "input_bytes", "output_bytes",
           "shown", "where", "in_place")  # fmt: skip
FORMAT = 2
NOWHERE = -1
SPECIAL = -1
"""In `Example.where`: the token is no text (a sentinel, a separator)."""


Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Example:
    """An input and an output as token ids, and where they came from. Knows nothing of architectures.

    The output is written after the input, token by token, unless it is `in_place`: then its tokens are the
    answers to holes in what is seen, which is the input and, as an output part, `shown` (UniLM's second
    segment; empty as a rule).

    `where`: for each token of the output the place that it stands for, counted through input and `shown`
    (a hole, a blank, the sentinel of its span), or `SPECIAL` where it is no text. None: all of it is text that
    stands for no place. `ends`: the output really ends there, so an <end> is supervised after it (and never
    scored). `document` is the index of its document in the store it came from.
    """

    input: Ids
    output: Ids
    mode: int
    ends: bool
    document: int
    region: str
    output_bytes: int
    input_bytes: int = 0
    where: Ids | None = None
    shown: Ids = field(default_factory=lambda: np.empty(0, np.int32))
    in_place: bool = False

    @property
    def held(self) -> tuple[int, int]:
        """Tokens after the mode token in the input part and after <start> in the output part, where they are
        laid out; -1 for an output part that there isn't.
        """
        if not self.in_place:
            return len(self.input), len(self.output)
        return len(self.input), len(self.shown) or -1

    @property
    def text(self) -> npt.NDArray[np.bool_]:
        """Which tokens of the output are text: those that are scored."""
        if self.where is None:
            return np.ones(len(self.output), np.bool_)
        return self.where != SPECIAL


class ExampleStore(Sequence[Example]):
    """Examples as flat arrays, in memory or mapped from disk. `store[i]` is an `Example`.

    documents: names of the documents, in the order that `Example.document` counts.
    """

    def __init__(
        self,
        tokens: npt.NDArray[np.generic],
        table: npt.NDArray[np.int64],
        documents: Sequence[str],
        regions: Sequence[str],
        where: Ids | None = None,
    ) -> None:
        self.tokens = tokens
        self.where = np.empty(0, np.int32) if where is None else where
        self.table = table
        self.documents = tuple(documents)
        self.regions = tuple(regions)

    @classmethod
    def build(cls, examples: Iterable[Example], documents: Sequence[str], vocabulary: int) -> "ExampleStore":
        """Gather examples in memory. `vocabulary` chooses the width of a token (uint16 or int32)."""
        dtype = np.uint16 if vocabulary <= 65536 else np.int32
        pieces: list[npt.NDArray[np.generic]] = []
        rows: list[tuple[int, ...]] = []
        regions: list[str] = []
        standing: list[Ids] = []
        start, stood = 0, 0
        for e in examples:
            if e.region not in regions:
                regions.append(e.region)
            n, m, shown = len(e.input), len(e.output), len(e.shown)
            sizes = (e.input_bytes, e.output_bytes)
            at = NOWHERE if e.where is None else stood
            about = (start, n, m, e.mode, int(e.ends), e.document, regions.index(e.region))
            rows.append((*about, *sizes, shown, at, int(e.in_place)))
            pieces += [part.astype(dtype) for part in (e.input, e.shown, e.output)]
            start += n + shown + m
            if e.where is not None:
                standing.append(e.where.astype(np.int32))
                stood += m
        tokens = np.concatenate(pieces) if pieces else np.empty(0, dtype)
        index = np.array(rows, np.int64).reshape(-1, len(COLUMNS))
        return cls(tokens, index, documents, regions, np.concatenate(standing) if standing else None)

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[j] for j in range(*index.indices(len(self)))]
        return self.example(index)

    def example(self, index: int, first_document: int = 0) -> Example:
        """An example; its document is counted from `first_document` on, as in a store that begins before this one."""
        (start, n, m, mode, ends, document, region, input_bytes, output_bytes, shown, at, in_place) = (
            self.table[index].tolist()
        )
        tokens = self.tokens[start : start + n + shown + m].astype(np.int32)
        where = None if at == NOWHERE else np.asarray(self.where[at : at + m], np.int32)
        about = (
            mode,
            bool(ends),
            first_document + document,
            self.regions[region],
            output_bytes,
            input_bytes,
            where,
        )
        return Example(tokens[:n], tokens[n + shown :], *about, tokens[n : n + shown], bool(in_place))

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))

    def column(self, name: str) -> npt.NDArray[np.int64]:
        """One column of the index for every example: see `COLUMNS` (lengths are in tokens)."""
        return self.table[:, COLUMNS.index(name)]

    @property
    def lengths_in(self) -> npt.NDArray[np.int64]:
        """The first of `Example.held` for every example."""
        return self.column("input")

    @property
    def lengths_out(self) -> npt.NDArray[np.int64]:
        """The second of `Example.held` for every example."""
        shown = self.column("shown")
        held = np.where(shown > 0, shown, -1)
        return np.where(self.column("in_place") > 0, held, self.column("output"))

    def held_at(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(2, n): `Example.held` of these examples; no more of the index is read."""
        table = self.table[indices]
        some = ExampleStore(self.tokens, table, (), ())
        return np.stack([some.lengths_in, some.lengths_out])

    def region_of(self, region: str) -> npt.NDArray[np.int64]:
        """Indices of the examples of one region, in order; none where the store has no such region."""
        if region not in self.regions:
            return np.empty(0, np.int64)
        return np.flatnonzero(self.column("region") == self.regions.index(region))

    def subset(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> "ExampleStore":
        """A store of these examples only, over the same tokens and document names."""
        table = self.table[np.asarray(indices, np.int64)]
        return ExampleStore(self.tokens, table, self.documents, self.regions, self.where)

    def save(self, folder: Path, name: str) -> None:
        """Write NAME.tokens, NAME.where, NAME.index and NAME.json. Raises UserError (disk full, not writable)."""
        contents = {
            "tokens": self.tokens.tobytes(),
            "where": np.ascontiguousarray(self.where, np.int32).tobytes(),
            "index": np.ascontiguousarray(self.table, np.int64).tobytes(),
        }
        for kind, content in contents.items():
            write_atomic(folder / f"{name}.{kind}", content)
        sums = {kind: hashlib.sha256(content).hexdigest() for kind, content in contents.items()}
        sizes = (len(self.tokens), len(self.where), len(self))
        write_atomic(
            folder / f"{name}.json", described(self.tokens.dtype, sizes, self.regions, self.documents, sums)
        )

    @classmethod
    def open(cls, folder: Path, name: str, verify: bool = True) -> "ExampleStore":
        """Map a saved store read-only. Raises UserError for a file missing, cut short or, with `verify`, altered."""
        path = folder / f"{name}.json"
        try:
            description = read_json(path, "the data's description")
        except UserError as error:
            raise UserError(f"{error}; delete {folder} and start again") from error
        try:
            if description["format"] != FORMAT or description["columns"] != list(COLUMNS):
                raise UserError(
                    f"{path} was written by another version of headtohead: delete {folder} and start again"
                )
            dtype, tokens = np.dtype(description["dtype"]), description["tokens"]
            examples, where = description["examples"], description["where"]
            sizes = {
                "tokens": tokens * dtype.itemsize,
                "where": where * 4,
                "index": examples * len(COLUMNS) * 8,
            }
            sums, documents, regions = description["sha256"], description["documents"], description["regions"]
            wanted = {kind: sums[kind] for kind in sizes}
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path} is damaged: delete {folder} and start again") from None
        for kind, size in sizes.items():
            part = folder / f"{name}.{kind}"
            if not part.is_file():
                raise UserError(f"{part} is missing: delete {folder} and start again")
            if part.stat().st_size != size:
                raise UserError(
                    f"{part} has {part.stat().st_size} bytes where {size} were written: "
                    f"delete {folder} and start again"
                )
            if verify and sha256_of(part) != wanted[kind]:
                raise UserError(
                    f"{part} has been altered since it was written: delete {folder} and start again"
                )
        if not examples:
            return cls(np.empty(0, dtype), np.empty((0, len(COLUMNS)), np.int64), documents, regions)
        flat = np.memmap(folder / f"{name}.tokens", dtype, mode="r") if tokens else np.empty(0, dtype)
        places = np.memmap(folder / f"{name}.where", np.int32, mode="r") if where else None
        index = np.memmap(folder / f"{name}.index", np.int64, mode="r", shape=(examples, len(COLUMNS)))
        return cls(flat, index, documents, regions, places)


def described(
    dtype: np.dtype[Any],
    sizes: tuple[int, int, int],
    regions: Sequence[str],
    documents: Sequence[str],
    sums: dict[str, str],
) -> str:
    """NAME.json of a store of so many (tokens, wheres, examples), with the sha256 of its other files."""
    description = {
        "format": FORMAT,
        "dtype": str(dtype),
        "tokens": sizes[0],
        "where": sizes[1],
        "examples": sizes[2],
        "columns": list(COLUMNS),
        "regions": list(regions),
        "documents": list(documents),
        "sha256": sums,
    }
    return json.dumps(description, indent=1, ensure_ascii=False) + "\n"


def order(n: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order in which every arm of this seed reads n examples in this epoch: a permutation of 0..n-1.

    Sorts by a splitmix64 hash of (seed, epoch, index) rather than by a library's generator, so that it does
    not depend on a version.
    """
    stream = mix(np.array([(seed * 0x9E3779B97F4A7C15 + epoch) % 2**64], np.uint64))
    return np.argsort(mix(np.arange(n, dtype=np.uint64) ^ stream), kind="stable")


def mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): a bijection of 64-bit words."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
