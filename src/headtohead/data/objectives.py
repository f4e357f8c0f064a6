"""Objectives: how a document is cut into Examples, each an input and an output.

A document is cut into windows on bytes (the same windows for every arm); an objective cuts a window into the
input text and the output text. Nothing here knows an architecture.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, Protocol

import numpy as np

from headtohead.data.corpora import Document, Pair
from headtohead.data.shards import CONTINUE, PAIR, RESTORE, TEXT, Example, ExampleStore
from headtohead.data.tokenizers import Tokenizer
from headtohead.errors import UserError

VOWELS = "aeiouAEIOU"
_WITHOUT_VOWELS = str.maketrans("", "", VOWELS)
FEWEST_VOWELS = 0.05  # below this share of the characters, restoring vowels is nearly a copy
SWAP_REACH = 256  # how far in order of length a swap is looked for, before an input is used twice
WORD_REACH = 16  # a cut moves back by at most this many bytes to fall before a space


class Objective(Protocol):
    """How one window becomes an input and an output. `ends`: the output really ends where the window does."""

    @property
    def region(self) -> str: ...
    @property
    def mode(self) -> int: ...
    @property
    def ends(self) -> bool: ...
    def cut(self, window: str) -> tuple[str, str]: ...
    def check(self, texts: Sequence[str]) -> None: ...


@dataclass(frozen=True)
class CausalLM:
    """All output: the input is empty."""

    region: str = "text"
    mode: int = TEXT
    ends: bool = False

    def cut(self, window: str) -> tuple[str, str]:
        return "", window

    def check(self, texts: Sequence[str]) -> None:
        """Any text will do."""


@dataclass(frozen=True)
class PrefixLM:
    """The second part of a window given the first; cut in the middle (by bytes) or anywhere, by a stable
    hash.

    input + output is the window, exactly. The output is never empty; the input may be, for a window of one
    character.
    """

    split: Literal["middle", "random"] = "middle"
    seed: int = 0
    region: str = "continuation"
    mode: int = CONTINUE
    ends: bool = False

    def cut(self, window: str) -> tuple[str, str]:
        data = window.encode()
        at = len(data) // 2
        if self.split == "random":
            digest = hashlib.sha256(self.seed.to_bytes(8, "little") + data).digest()
            at = min(1 + int.from_bytes(digest[:8], "little") % max(1, len(data) - 1), len(data) - 1)
        at = _cut_at(data, at)
        return data[:at].decode(), data[at:].decode()

    def check(self, texts: Sequence[str]) -> None:
        """Any text will do."""


@dataclass(frozen=True)
class Restoration:
    """A window given itself with its vowels removed: an output that cannot be written without its input."""

    region: str = "restoration"
    mode: int = RESTORE
    ends: bool = True

    def cut(self, window: str) -> tuple[str, str]:
        return window.translate(_WITHOUT_VOWELS), window

    def check(self, texts: Sequence[str]) -> None:
        """Raises UserError where so few characters are vowels that the output would nearly copy the input."""
        total = sum(map(len, texts))
        vowels = sum(len(text) - len(text.translate(_WITHOUT_VOWELS)) for text in texts)
        if total and vowels < FEWEST_VOWELS * total:
            raise UserError(
                f"the restoration objective needs text with vowels ({VOWELS[:5]}): only "
                f"{100 * vowels / total:.1f} % of the training text's characters are vowels and at least "
                f"{100 * FEWEST_VOWELS:.0f} % are needed; leave restoration out of the study's regions"
            )


@dataclass(frozen=True)
class Answer:
    """The user's own pairs: the output given the input, as they stand."""

    region: str = "answer"
    mode: int = PAIR
    ends: bool = True


def windows(text: str, size_bytes: int) -> list[str]:
    """Cut a text into the fewest windows of at most `size_bytes` bytes of UTF-8, of nearly equal size.

    The windows joined are the text, exactly. A cut is never inside a character, falls before a space if one
    is near, and does not part a character from the combining marks on it (unless the marks alone outgrow a
    window). `size_bytes` is at least 4, the longest character.
    """
    if size_bytes < 4:
        raise ValueError(f"windows of {size_bytes} bytes cannot hold every character: 4 is the least")
    data = text.encode()
    found: list[str] = []
    start = 0
    while start < len(data):
        left = len(data) - start
        count = -(-left // size_bytes)
        size = left if count == 1 else _cut_at(data[start : start + size_bytes + 4], -(-left // count))
        # Where no cut goes before the first character, it is a window of its own: 4 bytes at most.
        end = start + (
            size or next(n for n in range(1, 5) if start + n == len(data) or data[start + n] & 0xC0 != 0x80)
        )
        found.append(data[start:end].decode())
        start = end
    return found


def _cut_at(data: bytes, at: int) -> int:
    """The nearest place at or before `at` where UTF-8 `data` may be cut: see `windows`. May be 0."""
    here = _boundary(data, at)
    space = data.rfind(b" ", max(1, here - WORD_REACH), here + 1)
    if space > 0:
        following = data[space + 1 : space + 5].decode(errors="ignore")
        if not (following and _extends(following[0])):
            return space
    place = here
    while 0 < place < len(data) and _extends(data[place : place + 4].decode(errors="ignore")[:1]):
        place = _boundary(data, place - 1)
    return place if place > 0 else here


def _boundary(data: bytes, at: int) -> int:
    while 0 < at < len(data) and data[at] & 0xC0 == 0x80:  # a continuation byte of UTF-8
        at -= 1
    return at


def _extends(character: str) -> bool:
    """Whether a character attaches to the one before it: combining marks, variation selectors, the joiner."""
    return character != "" and (unicodedata.category(character).startswith("M") or character == "\u200d")


@dataclass(frozen=True)
class _Piece:
    """Text that becomes one example under each of `objectives`: a window of a document, or a pair already cut."""

    document: int
    objectives: tuple[Objective, ...]
    text: str

    def cut(self) -> list[tuple[Objective | Answer, str, str]]:
        return [(objective, *objective.cut(self.text)) for objective in self.objectives]

    def halves(self) -> list[_Piece]:
        return [
            replace(self, text=half) for half in windows(self.text, max(4, -(-len(self.text.encode()) // 2)))
        ]


@dataclass(frozen=True)
class _PairPiece:
    """A pair of the user's: already cut, and not to be cut further."""

    document: int
    pair: Pair

    def cut(self) -> list[tuple[Objective | Answer, str, str]]:
        return [(Answer(), self.pair.input, self.pair.output)]

    def halves(self) -> list[_PairPiece]:
        return []


Fits = Callable[[int, int], bool]
"""Whether an example of so many input and output tokens fits where it has to."""


def _pieces(
    documents: Sequence[Document], objectives: Sequence[Objective], window_bytes: int, every_region: bool
) -> Iterator[_Piece]:
    """Every window under its objective, in turn over all windows of all documents, or under every one."""
    turn = 0
    for d, document in enumerate(documents):
        for window in windows(document.text, window_bytes):
            yield _Piece(
                d, tuple(objectives) if every_region else (objectives[turn % len(objectives)],), window
            )
            turn += 1


def examples(
    documents: Sequence[Document],
    objectives: Sequence[Objective],
    tokenizer: Tokenizer,
    window_bytes: int,
    *,
    every_region: bool = False,
    fits: Fits | None = None,
) -> ExampleStore:
    """Cut documents into Examples.

    every_region False (training): a window goes to one objective, in turn, so that the mixture is balanced to
    one window and depends on nothing but the documents. True (held-out text): every window under every
    objective. A window whose examples don't all fit (text that the tokenizer knows badly) is cut in two until
    they do, each part under the window's objectives, so nothing is lost.

    Raises:
        UserError: a window that can be cut no smaller still doesn't fit.
    """
    pieces = _pieces(documents, objectives, window_bytes, every_region)
    return _tokenize(pieces, [d.name for d in documents], tokenizer, fits)


def pair_examples(pairs: Sequence[Pair], tokenizer: Tokenizer) -> ExampleStore:
    """One Example a pair: the user's own inputs and outputs."""
    pieces = (_PairPiece(i, pair) for i, pair in enumerate(pairs))
    return _tokenize(pieces, [p.name for p in pairs], tokenizer, None)


def _tokenize(
    pieces: Iterable[_Piece | _PairPiece], names: Sequence[str], tokenizer: Tokenizer, fits: Fits | None
) -> ExampleStore:
    def made(some: Iterable[_Piece | _PairPiece]) -> Iterator[Example]:
        waiting = iter(some)
        while block := list(islice(waiting, 1024)):
            cuts = [piece.cut() for piece in block]
            texts = [text for cut in cuts for _, *sides in cut for text in sides]
            ids = iter(tokenizer.encode_many(texts))
            for piece, cut in zip(block, cuts, strict=True):
                found = [_example(piece.document, *task, next(ids), next(ids)) for task in cut]
                if fits is None or all(fits(len(e.input), len(e.output)) for e in found):
                    yield from found
                elif len(halves := piece.halves()) > 1:
                    yield from made(halves)
                else:
                    longest = max(found, key=lambda e: len(e.input) + len(e.output))
                    raise UserError(
                        f"a window of {names[piece.document]} that can be cut no smaller has "
                        f"{len(longest.input)} input and {len(longest.output)} output tokens, more than a row "
                        "holds: set data.row and data.side higher"
                    )

    return ExampleStore.build(made(pieces), names, tokenizer.vocabulary)


def _example(
    document: int,
    objective: Objective | Answer,
    input: str,
    output: str,
    input_ids: list[int],
    output_ids: list[int],
) -> Example:
    return Example(
        np.array(input_ids, np.int32),
        np.array(output_ids, np.int32),
        objective.mode,
        objective.ends,
        document,
        objective.region,
        len(output.encode()),
        len(input.encode()),
    )


def tokenizer_texts(
    documents: Sequence[Document], objectives: Sequence[Objective], window_bytes: int
) -> Iterator[str]:
    """The training text as the objectives cut it, for `train_tokenizer`: the inputs and outputs of a run."""
    for piece in _pieces(documents, objectives, window_bytes, every_region=False):
        for _, *sides in piece.cut():
            yield from sides


def wrong_inputs(examples: Sequence[Example]) -> list[Example]:
    """The same examples, each with the input of another: what is the input worth?

    Within a mode, inputs are exchanged between different documents at the nearest length, every input used
    once where that can be done (a derangement); where one document holds more than half of them, the rest
    take the nearest input of another. Deterministic. Lengths change, so rows have to be planned anew. An
    empty input stays. Raises UserError where there is no other document, or all inputs of a mode are the
    same.
    """
    found = list(examples)
    for mode in sorted({e.mode for e in examples}):
        own = [i for i, e in enumerate(examples) if e.mode == mode and len(e.input)]
        own.sort(key=lambda i: (len(examples[i].input), i))
        for i, giver in zip(own, _exchange([examples[i] for i in own]), strict=True):
            other = examples[own[giver]]
            found[i] = replace(examples[i], input=other.input, input_bytes=other.input_bytes)
    return found


def _exchange(examples: Sequence[Example]) -> list[int]:
    """Which example gives each its input, in order of length: its neighbour, mended by near swaps."""
    n = len(examples)
    content = [e.input.tobytes() for e in examples]

    def differ(i: int, j: int) -> bool:
        return examples[i].document != examples[j].document and content[i] != content[j]

    def near(i: int, reach: int) -> Iterator[int]:
        return (j for step in range(1, min(n, reach)) for j in (i - step, i + step) if 0 <= j < n)

    giver = [i ^ 1 for i in range(n)]  # neighbours exchange; the last three of an odd number go round
    if n % 2:
        giver[-3:] = [n - 2, n - 1, n - 3] if n > 1 else [0]
    for i in range(n):
        if differ(i, giver[i]):
            continue
        swap = next((j for j in near(i, SWAP_REACH) if differ(i, giver[j]) and differ(j, giver[i])), None)
        if swap is not None:
            giver[i], giver[swap] = giver[swap], giver[i]
            continue
        other = next((j for j in near(i, n) if differ(i, j)), None)
        if other is None:
            raise UserError(
                f"the value of the input in the {examples[i].region} region needs held-out examples of "
                f"2 documents or more with different inputs: none of the {n} can lend another to example {i}"
            )
        giver[i] = other
    return giver
