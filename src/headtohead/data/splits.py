"""Splits of a corpus into training, tuning and test parts by whole groups, near-duplicates joined.

No split depends on a random generator: a group's part follows from its name.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar, cast

from headtohead.data.corpora import Document, Pair
from headtohead.data.duplicates import near_duplicates
from headtohead.errors import UserError

SMALLEST_BYTES = 1000  # shorter texts are dropped from a split, and counted
SECTION_BYTES = 4096  # a corpus of few documents is split by sections of at least this many bytes
FEWEST_GROUPS = 12  # with fewer groups than this, documents are cut into sections first
LARGEST_SHARE = 0.25  # ... or if one group holds more of the text than this
SECTIONS = 40  # as many sections are aimed at then
TUNE, TEST = 0.05, 0.08  # the usual shares


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


def split_by_group(
    documents: Sequence[T], *, tune: float = TUNE, test: float = TEST, smallest_bytes: int = SMALLEST_BYTES
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


def shares_that_hold(groups: Iterable[str], least: int) -> tuple[float, float] | None:
    """The least shares (tune, test), from the usual ones up, by which `split_by_group` keeps `least` groups or more for
    tuning, as many for testing, and one for training.

    Args:
        groups: as they are after near-duplicates were joined.

    Returns:
        None where there are too few groups, or so few in the lower half of the order that a part would be half of all.
    """
    places = sorted(map(_fraction, set(groups)))
    if len(places) <= 2 * least:
        return None
    test = max(TEST, _just_beyond(places[least - 1]))
    rest = [place for place in places if place >= test]
    if len(rest) <= least:
        return None
    tune = max(TUNE, _just_beyond(rest[least - 1] - test))
    return (tune, test) if max(tune, test) < 0.5 else None


def _just_beyond(share: float) -> float:
    """In three digits."""
    return (int(share * 1000) + 1) / 1000


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
