"""From documents to stores of examples, under one objective or several in turn; and examples with a wrong input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from headtohead.data.corpora import Document, Pair
from headtohead.data.objectives.base import Codes, Objective
from headtohead.data.objectives.text import Answer
from headtohead.data.objectives.windows import windows
from headtohead.data.shards import Example, ExampleStore
from headtohead.data.tokenizers import Tokenizer
from headtohead.errors import UserError

SWAP_REACH = 256  # how far in order of length a swap is looked for, before an input is used twice


@dataclass(frozen=True)
class _Piece:
    """Text that becomes one example under each of `objectives`: a window of a document, or a pair already cut."""

    document: int
    objectives: tuple[Objective, ...]
    text: str

    @property
    def cuts(self) -> list[tuple[Objective, str, tuple[str, ...]]]:
        return [(objective, self.text, objective.texts(self.text)) for objective in self.objectives]

    def halves(self) -> list[_Piece]:
        return [
            replace(self, text=half) for half in windows(self.text, max(4, -(-len(self.text.encode()) // 2)))
        ]


class _PairAsItIs(Answer):
    """A pair of the user's, which is cut already."""

    pair: Pair

    def cut(self, window: str) -> tuple[str, str]:
        return self.pair.input, self.pair.output


@dataclass(frozen=True)
class _PairPiece:
    """A pair of the user's: already cut, and not to be cut further."""

    document: int
    pair: Pair

    @property
    def cuts(self) -> list[tuple[Objective, str, tuple[str, ...]]]:
        return [(_PairAsItIs(pair=self.pair), "", (self.pair.input, self.pair.output))]

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


def aligned(
    documents: Sequence[Document],
    plans: Sequence[Sequence[Objective]],
    tokenizer: Tokenizer,
    window_bytes: int,
    fits: Fits | None = None,
) -> list[ExampleStore]:
    """A store for each plan, whose n-th examples are of one window: a plan is an objective, or several that
    take windows in turn. A window is cut smaller until its example of every plan fits.
    """

    def pieces() -> Iterator[_Piece]:
        turn = 0
        for d, document in enumerate(documents):
            for window in windows(document.text, window_bytes):
                yield _Piece(d, tuple(plan[turn % len(plan)] for plan in plans), window)
                turn += 1

    names = [d.name for d in documents]
    found = list(_made(pieces(), names, tokenizer, fits, together=True))
    return [
        ExampleStore.build((of[k] for of in found), names, tokenizer.vocabulary) for k in range(len(plans))
    ]


def pair_examples(pairs: Sequence[Pair], tokenizer: Tokenizer) -> ExampleStore:
    """One Example a pair: the user's own inputs and outputs."""
    pieces = (_PairPiece(i, pair) for i, pair in enumerate(pairs))
    return _tokenize(pieces, [p.name for p in pairs], tokenizer, None)


def _tokenize(
    pieces: Iterable[_Piece | _PairPiece], names: Sequence[str], tokenizer: Tokenizer, fits: Fits | None
) -> ExampleStore:
    found = (example for of_piece in _made(pieces, names, tokenizer, fits) for example in of_piece)
    return ExampleStore.build(found, names, tokenizer.vocabulary)


def _made(
    pieces: Iterable[_Piece | _PairPiece],
    names: Sequence[str],
    tokenizer: Tokenizer,
    fits: Fits | None,
    together: bool = False,
) -> Iterator[list[Example]]:
    """The examples of each piece, one for each of its objectives. `together`: a row has room for the longest
    input and the longest output of them.
    """
    codes = Codes(tokenizer)
    waiting = iter(pieces)
    while block := list(islice(waiting, 1024)):
        cuts = [piece.cuts for piece in block]
        texts = [text for cut in cuts for _, _, parts in cut for text in parts]
        ids = iter(tokenizer.encode_many(texts))
        for piece, cut in zip(block, cuts, strict=True):
            found = [
                objective.make(window, [next(ids) for _ in parts], codes).example(
                    piece.document, objective.region
                )
                for objective, window, parts in cut
            ]
            sizes = [e.held for e in found]
            if together:
                sizes = [tuple(map(max, zip(*sizes, strict=True)))]
            if fits is None or all(fits(n, m) for n, m in sizes):
                yield found
            elif len(halves := piece.halves()) > 1:
                yield from _made(halves, names, tokenizer, fits, together)
            else:
                longest = max(found, key=lambda e: sum(e.held))
                raise UserError(
                    f"a window of {names[piece.document]} that can be cut no smaller has "
                    f"{longest.held[0]} input and {longest.held[1]} output tokens, more than a row "
                    "holds: set data.row and data.side higher"
                )


def tokenizer_texts(
    documents: Sequence[Document], objectives: Sequence[Objective], window_bytes: int
) -> Iterator[str]:
    """The training text as the objectives cut it, for `train_tokenizer`: the inputs and outputs of a run."""
    for piece in _pieces(documents, objectives, window_bytes, every_region=False):
        for _, _, parts in piece.cuts:
            yield from parts


def wrong_inputs(examples: Sequence[Example]) -> list[Example]:
    """The same examples, each with the input of another: what is the input worth?

    Within a mode, inputs are exchanged between different documents at the nearest length, every input used
    once where that can be done (a derangement); where one document holds more than half of them, the rest
    take the nearest input of another. Deterministic. Lengths change, so rows have to be planned anew. An
    empty input stays. Where holes are answered, what is seen beside them becomes another's, repeated or cut to
    length. Raises UserError where there is no other document, or all inputs of a mode are the same.
    """
    found = list(examples)
    for mode in sorted({e.mode for e in examples}):
        own = [i for i, e in enumerate(examples) if e.mode == mode and len(e.input)]
        own.sort(key=lambda i: (len(examples[i].input), i))
        for i, giver in zip(own, _exchange([examples[i] for i in own]), strict=True):
            found[i] = _with_input(examples[i], examples[own[giver]])
    return found


def _with_input(example: Example, other: Example) -> Example:
    if not example.in_place:
        where = example.where
        if where is not None:  # blanks stand no further than the wrong input goes
            where = np.minimum(where, max(0, len(other.input) - 1))
        return replace(example, input=other.input, input_bytes=other.input_bytes, where=where)
    assert example.where is not None
    wrong = np.resize(other.input, len(example.input))
    holes = example.where[example.where < len(example.input)]
    wrong[holes] = example.input[holes]
    return replace(example, input=wrong)


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
