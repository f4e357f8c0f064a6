"""Text read lazily, in constant memory, from sources of any size: files, folders, JSONL, Parquet, `datasets`.

A source gives its texts in an order that depends on its contents alone: files by name, lines and rows as they stand.
A text longer than `SECTION` bytes is given in sections, each a document of its own; those of one line or row go into
the same part of a split, since they share its `key`.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

from headtohead.data.reading import SUFFIXES, TEXT_SUFFIXES, files_at, object_in, string_in
from headtohead.errors import UserError
from headtohead.files import explain_os_error

PACKED_SUFFIXES = (".jsonl.gz", ".jsonl.zst")
LARGE_SUFFIXES = (*SUFFIXES, *PACKED_SUFFIXES, ".parquet")
SECTION = 1 << 20
LONGEST_LINE = 1 << 27
"""Bytes of a line of JSONL: what is longer is taken for a file of another kind, instead of into memory."""
ROWS = 256
"""Rows of Parquet or `datasets` that are read at a time."""
WANTED = "pip install 'headtohead[data]'"


class Text(NamedTuple):
    """A document or a section of one. `key`: 64 bits of the sha256 of the whole document's text; equal texts have
    equal keys. `read`: bytes of the source that were read so far, for an estimate of the end. `goes_on`: a further
    section of the document before it.
    """

    name: str
    text: str
    key: int
    read: int
    goes_on: bool = False


@dataclass(frozen=True)
class Source:
    """What a mixture is made of. `texts()` begins from the start each time it is called.

    bytes: of the files as they lie on the disk; None where nobody knows (a stream). files: their names and sizes, for
    whether a build that goes on is of the same. weight: see `Mixture`.
    """

    name: str
    texts: Callable[[], Iterator[Text]]
    bytes: int | None
    files: tuple[tuple[str, int], ...] = ()
    weight: float = 1.0


def key_of(text: str) -> int:
    """64 bits of the sha256 of a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


# ------------------------------------------------------------------------------------------------------------ files


def files_source(
    paths: Sequence[Path], field: str = "text", name: str = "text", weight: float = 1.0
) -> Source:
    """Files and folders of .txt, .md, .jsonl (also .gz, .zst) and .parquet. Texts of lines and rows are under `field`.

    Raises:
        UserError: a path that is missing, empty or of another kind; while reading, a file that is unreadable or not
            UTF-8, a line that is no JSON object, a missing field.
    """
    found: dict[Path, tuple[str, Path]] = {}
    for path in paths:
        for file, its_name in files_at(path, len(paths) == 1, LARGE_SUFFIXES):
            found.setdefault(file.resolve(), (its_name, file))
    files = sorted(found.values())
    for (one, _), (two, _) in pairwise(files):
        if one == two:
            raise UserError(
                f"two different files would both be called {one}: rename one or give their folder"
            )
    sizes = tuple((its_name, file.stat().st_size) for its_name, file in files)

    def texts() -> Iterator[Text]:
        before = 0
        for (its_name, file), (_, size) in zip(files, sizes, strict=True):
            for text in _texts_of(file, its_name, field):
                yield text._replace(read=before + min(size, text.read))
            before += size

    return Source(name, texts, sum(size for _, size in sizes), sizes, weight)


def _texts_of(file: Path, name: str, field: str) -> Iterator[Text]:
    lower = file.name.lower()
    if lower.endswith(TEXT_SUFFIXES):
        return _file_sections(file, name)
    if lower.endswith(".parquet"):
        return _parquet(file, name, field)
    return _lines(file, name, field)


@contextmanager
def _opened(file: Path) -> Iterator[tuple[IO[bytes], Callable[[], int]]]:
    """The file's bytes, unpacked, and how many of the bytes on the disk were read."""
    lower = file.name.lower()
    try:
        with open(file, "rb") as raw:
            if lower.endswith(".gz"):
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    yield unpacked, raw.tell  # pyright: ignore[reportReturnType]
            elif lower.endswith(".zst"):
                import io

                pa = _needed("pyarrow", f"to read {file}")
                with io.BufferedReader(pa.CompressedInputStream(raw, "zstd"), SECTION) as unpacked:
                    yield unpacked, raw.tell
            else:
                yield raw, raw.tell
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{file} is damaged: {error}") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {explain_os_error(error)}") from None


def _lines(file: Path, name: str, field: str) -> Iterator[Text]:
    with _opened(file) as (lines, place):
        number = 0
        while line := lines.readline(LONGEST_LINE):
            number += 1
            where = f"{file}:{number}"
            if len(line) == LONGEST_LINE:
                raise UserError(
                    f"{where} is longer than {LONGEST_LINE >> 20} MiB: give one JSON object a line"
                )
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                decoded = line.decode()
            except UnicodeDecodeError as error:
                raise _not_utf8(where, line, error, "in the line") from None
            text = string_in(object_in(decoded, where), field, where)
            yield from _sections(f"{name}:{number:06d}", text, place())


def _not_utf8(where: object, data: bytes, error: UnicodeDecodeError, of: str, first: int = 0) -> UserError:
    place = f"byte 0x{data[error.start]:02x} at offset {first + error.start} {of}"
    return UserError(f"{where} is not UTF-8: {place}; save it as UTF-8")


def _sections(name: str, text: str, read: int) -> Iterator[Text]:
    """A text, or its sections where it is long: cut after a line end, else a space, else any character."""
    key = key_of(text)
    if len(text) <= SECTION // 4 or len(data := text.encode()) <= SECTION:
        yield Text(name, text, key, read)
        return
    start = number = 0
    while start < len(data):
        end = _cut(data[start : start + SECTION]) if len(data) - start > SECTION else len(data) - start
        yield Text(f"{name}#{number:03d}", data[start : start + end].decode(), key, read, number > 0)
        start, number = start + end, number + 1


def _cut(data: bytes) -> int:
    """Where to end a section that begins with `data`, of more than 4 bytes: see `_sections`."""
    for mark in (b"\n", b" "):
        place = data.rfind(mark, len(data) // 2) + 1
        if place:
            return place
    place = len(data) - 1
    while place > len(data) - 4 and data[place] & 0xC0 == 0x80:
        place -= 1
    return place


def _file_sections(file: Path, name: str) -> Iterator[Text]:
    """A file of text whole, or its sections, each with a key of its own, where it is longer than one."""
    with _opened(file) as (stream, _):
        left = stream.read(SECTION + 1)
        if left[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise UserError(f"{file} is not UTF-8 (it looks like UTF-16): save it as UTF-8")
        whole = len(left) <= SECTION
        number = start = 0
        while left:
            end = _cut(left[:SECTION]) if len(left) > SECTION else len(left)
            try:
                text = left[:end].decode()
            except UnicodeDecodeError as error:
                raise _not_utf8(file, left, error, "in the file", start) from None
            if number == 0:
                text = text.removeprefix("\ufeff")
            yield Text(name if whole else f"{name}#{number:06d}", text, key_of(text), start + end)
            left, start, number = left[end:], start + end, number + 1
            left += stream.read(SECTION + 1 - len(left))


# ---------------------------------------------------------------------------------------------------------- columns


def _needed(module: str, why: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{module} is needed {why}: {WANTED}") from None


def _column(values: Sequence[Any], name: str, where: str, field: str, row: int) -> Iterator[tuple[str, str]]:
    """Name and text of each row of a column; a row without text has none, and is passed over."""
    for number, value in enumerate(values, row):
        if value is not None:
            yield f"{name}:{number:06d}", string_in({field: value}, field, f"{where}, row {number}")


def _parquet(file: Path, name: str, field: str) -> Iterator[Text]:
    """The rows of a Parquet file, from 0, by batches of a row group; only the column of the text is read."""
    pa = _needed("pyarrow", f"to read {file}")
    parquet = _needed("pyarrow.parquet", f"to read {file}")
    size = file.stat().st_size
    try:
        with parquet.ParquetFile(file, buffer_size=1 << 16, pre_buffer=False) as table:
            columns = table.schema_arrow.names
            if field not in columns:
                raise UserError(f"{file} has no column {field!r}: its columns are {', '.join(columns)[:200]}")
            rows, total = 0, max(1, table.metadata.num_rows)
            for batch in table.iter_batches(ROWS, columns=[field], use_threads=False):
                values = batch.column(0).to_pylist()
                for each, text in _column(values, name, str(file), field, rows):
                    yield from _sections(each, text, size * (rows + len(values)) // total)
                rows += len(values)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{file} can't be read as Parquet: {reason[0][:200]}") from None


def dataset_source(
    dataset: str | Any,
    split: str | None = None,
    field: str = "text",
    name: str = "dataset",
    weight: float = 1.0,
) -> Source:
    """A dataset of the library `datasets`: a folder it saved, a name on the hub (streamed), or an object of it.

    Raises:
        UserError: the library is missing, nothing is found there, no such split or field.
    """
    library = _needed("datasets", "for a dataset")
    title = dataset if isinstance(dataset, str) else name
    found = _loaded(library, dataset, split) if isinstance(dataset, str) else dataset
    if hasattr(found, "keys"):
        if split is None and len(found) > 1:
            raise UserError(f"{title} has the splits {', '.join(found)}: choose one with --split")
        if split is not None and split not in found:
            raise UserError(f"{title} has no split {split!r}: it has {', '.join(found)}")
        split = split or next(iter(found))
        found = found[split]
    columns = found.column_names
    if columns is not None and field not in columns:
        raise UserError(f"{title} has no field {field!r}: its fields are {', '.join(columns)[:200]}")
    total = getattr(found, "num_rows", None)
    known = getattr(found, "dataset_size", None) if total else None
    size = known or (sum(Path(f["filename"]).stat().st_size for f in found.cache_files) if total else None)
    taken = found.select_columns([field]) if columns is not None else found
    title = Path(title).name if Path(title).exists() else title

    def texts() -> Iterator[Text]:
        rows = 0
        for batch in taken.iter(batch_size=ROWS):
            if field not in batch:
                raise UserError(f"{title} has no field {field!r}: its fields are {', '.join(batch)[:200]}")
            values = batch[field]
            read = (size or 0) * (rows + len(values)) // total if total else 0
            for each, text in _column(values, title, title, field, rows):
                yield from _sections(each, text, read)
            rows += len(values)

    return Source(name, texts, size, ((f"{title}/{split}", total or -1),), weight)


def _loaded(library: Any, name: str, split: str | None) -> Any:
    folder = Path(name)
    saved = ("dataset_dict.json", "state.json")
    try:
        if any((folder / each).is_file() for each in saved):
            return library.load_from_disk(name)
        if folder.is_dir() and not any(folder.iterdir()):
            raise UserError(f"{folder} is empty: give a folder that datasets saved, or a name on the hub")
        return library.load_dataset(name, split=split, streaming=True)
    except UserError:
        raise
    except (
        Exception
    ) as error:  # the library raises of every kind, for a network that is away as for a wrong name
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"the dataset {name} can't be loaded: {reason[:300]}") from None
