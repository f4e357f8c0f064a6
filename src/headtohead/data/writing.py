"""A shard on the disk: a folder of example stores that appears whole or not at all, written piece by piece.

    SHARD/KEY.tokens, .where, .index, .json   an `ExampleStore` for each objective (documents are only numbered in it)
    SHARD/names.json                          what the documents are called
    SHARD/shard.json                          counts, and the sha256 of the files above

Memory is that of one piece and of the names; the bytes are those that `ExampleStore.save` would write.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from headtohead.data.shards import COLUMNS, NOWHERE, ExampleStore, described
from headtohead.errors import UserError
from headtohead.files import explain_os_error, make_folder, read_json, sha256_of, write_atomic

RECORD = "shard.json"
NAMES = "names.json"
KINDS = ("tokens", "where", "index")


class Piece(NamedTuple):
    """The examples of some documents under one objective, as the arrays of an `ExampleStore`."""

    tokens: npt.NDArray[Any]
    where: npt.NDArray[np.int32]
    table: npt.NDArray[np.int64]
    regions: tuple[str, ...]

    @classmethod
    def of(cls, store: ExampleStore) -> Piece:
        return cls(store.tokens, store.where, store.table, store.regions)


class _StoreWriter:
    """One store, growing."""

    def __init__(self, folder: Path, key: str, vocabulary: int) -> None:
        self.folder, self.key = folder, key
        self.dtype = np.dtype(np.uint16 if vocabulary <= 65536 else np.int32)
        self.files: dict[str, IO[bytes]] = {}
        self.sums = {kind: hashlib.sha256() for kind in KINDS}
        self.sizes = dict.fromkeys(KINDS, 0)
        self.regions: list[str] = []
        for kind in KINDS:
            self.files[kind] = (folder / f"{key}.{kind}").open("wb", buffering=1 << 16)

    def add(self, piece: Piece, first_document: int) -> None:
        table = piece.table.copy()
        table[:, COLUMNS.index("start")] += self.sizes["tokens"] // self.dtype.itemsize
        where = table[:, COLUMNS.index("where")]
        where[where != NOWHERE] += self.sizes["where"] // 4
        table[:, COLUMNS.index("document")] += first_document
        self.regions += [region for region in piece.regions if region not in self.regions]
        if piece.regions:
            numbers = np.array([self.regions.index(region) for region in piece.regions], np.int64)
            table[:, COLUMNS.index("region")] = numbers[table[:, COLUMNS.index("region")]]
        arrays = (piece.tokens.astype(self.dtype), piece.where.astype(np.int32), table)
        for kind, array in zip(KINDS, arrays, strict=True):
            data = array.tobytes()
            self.files[kind].write(data)
            self.sums[kind].update(data)
            self.sizes[kind] += len(data)

    def finish(self) -> dict[str, Any]:
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        counts = (
            self.sizes["tokens"] // self.dtype.itemsize,
            self.sizes["where"] // 4,
            self.sizes["index"] // (8 * len(COLUMNS)),
        )
        sums = {kind: digest.hexdigest() for kind, digest in self.sums.items()}
        content = described(self.dtype, counts, self.regions, (), sums).encode()
        write_atomic(self.folder / f"{self.key}.json", content)
        sums["json"] = hashlib.sha256(content).hexdigest()
        return {
            "tokens": counts[0],
            "examples": counts[2],
            "sizes": {**self.sizes, "json": len(content)},
            "sha256": sums,
        }

    def close(self) -> None:
        for file in self.files.values():
            with suppress(OSError):  # what is left in its buffer has no room either; the shard is thrown away
                file.close()


class ShardWriter:
    """`add` pieces, then `finish`: only then is there a folder OUT/NAME. `discard` leaves nothing.

    Raises:
        UserError: the disk is full, or can't be written.
    """

    def __init__(self, out: Path, name: str, keys: Sequence[str], vocabulary: int) -> None:
        self.out, self.name = out, name
        self.folder = out / f".{name}.unfinished"
        self.names: list[str] = []
        self.stores: list[_StoreWriter] = []
        shutil.rmtree(self.folder, ignore_errors=True)
        make_folder(self.folder)
        try:
            for key in keys:
                self.stores.append(_StoreWriter(self.folder, key, vocabulary))
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> UserError:
        self.discard()
        return UserError(
            f"cannot write the shard {self.out / self.name}: {explain_os_error(error)}; those before it are whole: "
            "make room and start the same command again"
        )

    def add(self, names: Sequence[str], pieces: Sequence[Piece]) -> None:
        """The examples of further documents, a piece for each objective."""
        try:
            for store, piece in zip(self.stores, pieces, strict=True):
                store.add(piece, len(self.names))
        except OSError as error:
            raise self._failed(error) from error
        self.names += names

    def finish(self, about: dict[str, Any]) -> dict[str, Any]:
        """Make it whole; returns its record, `about` and what was counted."""
        try:
            made = {store.key: store.finish() for store in self.stores}
            names = (json.dumps(self.names, ensure_ascii=False, indent=0) + "\n").encode()
            write_atomic(self.folder / NAMES, names)
            record = {
                "name": self.name,
                **about,
                "documents": len(self.names),
                "examples": next(iter(made.values()))["examples"],
                "names_sha256": hashlib.sha256(names).hexdigest(),
                "stores": made,
            }
            write_atomic(self.folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
            shutil.rmtree(self.out / self.name, ignore_errors=True)
            os.rename(self.folder, self.out / self.name)
        except OSError as error:
            raise self._failed(error) from error
        except UserError:
            self.discard()
            raise
        return record

    def discard(self) -> None:
        """Throw away what is not finished."""
        for store in self.stores:
            store.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def whole(out: Path, name: str, about: dict[str, Any]) -> dict[str, Any] | None:
    """The record of a shard that is there, made with the same `about`, and whole to the last byte; else None."""
    folder = out / name
    try:
        record = read_json(folder / RECORD, "the shard")
        if any(record[key] != value for key, value in about.items()):
            return None
        if sha256_of(folder / NAMES) != record["names_sha256"]:
            return None
        for key, store in record["stores"].items():
            for kind, wanted in store["sha256"].items():
                if sha256_of(folder / f"{key}.{kind}") != wanted:
                    return None
    except (UserError, KeyError, TypeError, AttributeError):
        return None
    return record
