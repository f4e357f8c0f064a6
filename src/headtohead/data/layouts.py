"""Layouts: rows of examples made into the batch of an architecture, and a run's ledger.

Rows are planned once (`packing.py`) and are the same for every arm. A layout lays the examples of a row one
after another into each stream of an architecture: an example is a document of its own there, positions
restart at 0, and no label crosses from one to the next.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch

from headtohead.data.packing import Supervise, fill, plan_rows
from headtohead.data.shards import END, PAD, SPECIAL, START, Example
from headtohead.errors import UserError
from headtohead.model.architecture import Architecture, Stream
from headtohead.model.batch import Batch, Tokens
from headtohead.model.budget import places, visible_pairs
from headtohead.model.parts import TwoDimensional
from headtohead.model.reach import check_supervision
from headtohead.model.visibility import INPUT, OUTPUT, PADDING

__all__ = ["Layout", "Ledger", "Supervise", "fill", "plan_rows"]


class Layout:
    """Makes the batches of one architecture from rows of examples.

    supervise: "output" (the loss is on the output), "all" (a decoder that also predicts its input; only for
    one stream, since the input stream of two predicts nothing) or "holes" (the examples are answered in place;
    for one stream too). Examples of the other form are an error.

    Worked example, one stream with row = 12, a row of two examples: input 10 11, output 20 21 that ends (mode
    <restore>, 4), and input 12, output 22 that goes on (mode <continue>, 3). <start> is 1, <end> is 2, <pad>
    is 0:

        ids        4  10  11   1  20  21    3  12   1  22    0   0
        position   0   1   2   3   4   5    0   1   2   3    0   0
        document   0   0   0   0   0   0    1   1   1   1   -1  -1
        part       I   I   I   O   O   O    I   I   O   O    I   I      (INPUT 0, OUTPUT 1)
        step       0   0   0   1   2   3    0   0   1   2    0   0
        targets    0   0   0  20  21   2    0   0  22   0    0   0
        weights    0   0   0   1   1   1    0   0   1   0    0   0
        scored     .   .   .   x   x   .    .   .   x   .    .   .      (<end> is learnt, never scored)
        example   -1  -1  -1   0   0   0   -1  -1   1  -1   -1  -1

    With supervise = "all" the targets are 10 11 0 20 21 2  12 0 22 0  0 0, with weight 1 wherever a token is.
    Two streams with side = 6 hold the same tokens and positions, apart; targets lie along the output stream:

        input      4  10  11   3  12   0        output     1  20  21   1  22   0
        position   0   1   2   0   1   0        position   3   4   5   2   3   0
        document   0   0   0   1   1  -1        targets   20  21   2  22   0   0

    Holes answered in place (`Example.in_place`) are laid out as what is seen, with the answers as targets at
    their own places: input 10 9 12 with the hole 1 and the answer 11 (9 is <mask>, 30 the mode) is

        ids       30  10   9  12        targets    0   0  11   0        weights    0   0   1   0
    """

    def __init__(self, architecture: Architecture, supervise: Supervise, row: int, side: int) -> None:
        if supervise == "holes":
            _check_holes(architecture)
        else:
            check_supervision(architecture, supervise)
        self.architecture = architecture
        self.supervise: Supervise = supervise
        self.row = row
        self.side = side
        self._pairs: dict[tuple[int, int], int] = {}
        self._positions = np.arange(1 + max(row, 2 * side))
        self._context = architecture.context
        self._two_dimensional = isinstance(architecture.positions, TwoDimensional)

    def width(self, stream: Stream) -> int:
        """Places in a row of this stream."""
        return self.row if stream.holds == "both" else self.side

    def _check_form(self, example: Example) -> None:
        if example.in_place != (self.supervise == "holes"):
            form = "holes to be answered in place" if example.in_place else "an output to be written"
            raise UserError(
                f"{self.architecture.name} is supervised on '{self.supervise}', and an example of the region "
                f"{example.region} has {form}: set supervise = '{'holes' if example.in_place else 'output'}'"
            )

    def batch(self, rows: Sequence[Sequence[Example]]) -> Batch:
        """Rows of examples (as planned by `plan_rows`) as a batch of B = len(rows); an empty row is all
        padding.

        Raises UserError for an example of more tokens than a network with learned positions has places for.

        Shapes are static: (B, row) for a stream that holds both, (B, side) for one that holds input or
        output.
        """
        streams = {stream.name: self._tokens(stream, rows) for stream in self.architecture.streams}
        targets, weights, example, scored = self._labels(self.architecture.output_stream, rows)
        return Batch(streams, targets, weights, example, scored)

    def _tokens(self, stream: Stream, rows: Sequence[Sequence[Example]]) -> Tokens:
        shape = (len(rows), self.width(stream))
        ids, position = np.full(shape, PAD, np.int64), np.zeros(shape, np.int64)
        document, part = np.full(shape, PADDING, np.int64), np.full(shape, INPUT, np.int64)
        step, anchor = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for r, row in enumerate(rows):
            at = 0
            for d, example in enumerate(row):
                self._check_form(example)
                n, m = (1 + held for held in example.held)
                self._check_context(n + m)
                start = at
                if stream.holds != "output":
                    ids[r, at] = example.mode
                    ids[r, at + 1 : at + n] = example.input
                    anchor[r, at : at + n] = self._positions[:n]
                    at += n
                if stream.holds != "input" and m:
                    ids[r, at] = START
                    ids[r, at + 1 : at + m] = example.shown if example.in_place else example.output
                    part[r, at : at + m] = OUTPUT
                    if self._two_dimensional:
                        anchor[r, at : at + m], step[r, at : at + m] = _by_span(example, n)
                    else:
                        step[r, at : at + m] = self._positions[1 : m + 1]
                    at += m
                first = (
                    n if stream.holds == "output" else 0
                )  # the output's positions continue after the input's
                position[r, start:at] = self._positions[first : first + at - start]
                document[r, start:at] = d
        arrays = (ids, position, document, part, step, anchor)
        return Tokens(*map(torch.from_numpy, arrays[: 6 if self._two_dimensional else 5]))

    def _check_context(self, tokens: int) -> None:
        if self._context is not None and tokens > self._context:
            raise UserError(
                f"{self.architecture.name} has learned positions for {self._context} tokens, and an example has "
                f"{tokens}: shorten the examples, or set positions.length to {tokens} or more"
            )

    def _labels(self, stream: Stream, rows: Sequence[Sequence[Example]]) -> tuple[torch.Tensor, ...]:
        """targets, weights, example, scored of the last stream: see `Batch`."""
        shape = (len(rows), self.width(stream))
        targets, weights = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        owner, scored = np.full(shape, -1, np.int64), np.zeros(shape, np.bool_)
        number = 0
        for r, row in enumerate(rows):
            at = 0
            for example in row:
                n, m = example.held
                if example.in_place:
                    assert example.where is not None
                    # The mode token before the input, <start> before what else is shown.
                    places = at + 1 + example.where + (example.where >= n)
                    targets[r, places], weights[r, places] = example.output, 1
                    owner[r, places], scored[r, places] = number, example.text
                    at += 1 + n + 1 + m
                    number += 1
                    continue
                if stream.holds == "both":
                    if self.supervise == "all":
                        targets[r, at : at + n] = example.input
                        weights[r, at : at + n] = 1
                        owner[r, at : at + n] = number
                    at += 1 + n
                last = at + m  # the place of the last output token
                targets[r, at:last] = example.output
                scored[r, at:last] = example.text
                if example.ends:
                    targets[r, last] = END
                weights[r, at : last + example.ends] = 1
                owner[r, at : last + example.ends] = number
                at = last + 1
                number += 1
        return tuple(torch.from_numpy(array) for array in (targets, weights, owner, scored))

    def supervised(self, example: Example) -> int:
        """Targets of an example that carry loss."""
        if self.supervise == "holes":
            return len(example.output)
        return len(example.output) + example.ends + (len(example.input) if self.supervise == "all" else 0)

    def visible_pairs(self, input: int, output: int) -> int:
        """Visible (query, key, head) triples of an example that holds so many tokens (`Example.held`), over all
        reads and layers.

        Counted by the rules on the example alone (`model.budget`): a packed row holds the sum of its
        examples, since every rule is confined to one document.
        """
        key = (input, output)
        if key not in self._pairs:
            self._pairs[key] = visible_pairs(self.architecture, 1 + input, 1 + output)
        return self._pairs[key]


def _check_holes(a: Architecture) -> None:
    if a.two_streams:
        raise UserError(
            f"{a.name}: supervise = 'holes' needs a network of one stream: of two, the stream that holds the text "
            "with its holes predicts nothing"
        )


def _by_span(example: Example, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Anchor and step of <start> and of each output token, for two-dimensional positions.

    An output that stands for no places is one span at the end of the `n` places of the input. A special token
    after text begins the span of the token after it, and counts as its first place, as <start> does.
    """
    m = 1 + (len(example.shown) if example.in_place else len(example.output))
    if example.where is None or example.in_place:
        return np.full(m, n - 1), np.arange(1, m + 1)
    places = np.minimum(1 + example.where, n - 1)  # 1: the mode token, which alone stands in an empty input
    anchor = np.concatenate([[SPECIAL], np.where(example.text, places, SPECIAL)])
    step = np.ones(m, np.int64)
    for i in range(1, m):
        begins = anchor[i] == SPECIAL and anchor[i - 1] != SPECIAL
        step[i] = 1 if begins else step[i - 1] + 1
    following = n - 1
    for i in range(m - 1, -1, -1):
        following = anchor[i] = following if anchor[i] == SPECIAL else anchor[i]
    return anchor, step


@dataclass
class Ledger:
    """What a run really consumed. Two runs are compared only where their ledgers differ as declared.

    bytes_shown: UTF-8 bytes of input and output text. tokens_shown: places that held a token, the mode token
    and <start> among them, over all streams. tokens_padding: the other places. visible_pairs: (query, key,
    head) triples over reads and layers. flops: training FLOPs, by the caller's convention. steps: batches
    counted. documents: the numbers of the documents seen.
    """

    examples: int = 0
    bytes_shown: int = 0
    tokens_shown: int = 0
    tokens_supervised: int = 0
    tokens_padding: int = 0
    visible_pairs: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    steps: int = 0
    documents: set[int] = field(default_factory=set)

    def add(
        self, layout: Layout, rows: Sequence[Sequence[Example]], *, flops: float = 0, seconds: float = 0
    ) -> None:
        """Count a batch of these rows, that a network was trained on."""
        shown = 0
        for example in chain.from_iterable(rows):
            n, m = example.held
            self.examples += 1
            self.bytes_shown += example.input_bytes + example.output_bytes
            self.tokens_supervised += layout.supervised(example)
            self.visible_pairs += layout.visible_pairs(n, m)
            self.documents.add(example.document)
            for stream in layout.architecture.streams:
                shown += places(stream, 1 + n, 1 + m)
        self.tokens_shown += shown
        self.tokens_padding += len(rows) * sum(map(layout.width, layout.architecture.streams)) - shown
        self.flops += flops
        self.seconds += seconds
        self.steps += 1

    def as_dict(self) -> dict[str, int | float]:
        """The counters, for a result: of the documents their number, `documents_seen`."""
        counters = {name: value for name, value in vars(self).items() if name != "documents"}
        return {**counters, "documents_seen": len(self.documents)}

    def state(self) -> dict[str, Any]:
        """Everything, as JSON can hold it, for a checkpoint; with the counters of `as_dict`."""
        return {**self.as_dict(), "documents": sorted(self.documents)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Ledger":
        """The inverse of `state`."""
        counters = {name: value for name, value in state.items() if name != "documents_seen"}
        return cls(**{**counters, "documents": set(state["documents"])})
