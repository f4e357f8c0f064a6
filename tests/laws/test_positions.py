"""Positions: a decoder's continue where the input's end, the distance is all that matters, and it does
matter.

DESIGN's claim C18 is about positions that restart; here they must not.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.laws.cells import Cell, cells, has_rule
from tests.laws.running import Streams

from headtohead.model.architecture import Architecture
from headtohead.model.batch import Tokens
from headtohead.model.parts import Alibi, NoPositions, RelativeBias, Rope
from headtohead.model.visibility import OUTPUT, PADDING

SHIFT = 32
"""A multiple of every block size in the cells, so that a shift of all moves no token to another place of its
block.
"""


def shifted(streams: Streams, by: int, output_only: bool = False) -> Streams:
    def moved(tokens: Tokens) -> Tokens:
        chosen = (tokens.document != PADDING) & ((tokens.part == OUTPUT) | (not output_only))
        anchor = tokens.anchor
        return replace(
            tokens,
            position=tokens.position + by * chosen,
            anchor=None if anchor is None else anchor + by * chosen,
        )

    return {name: moved(tokens) for name, tokens in streams.items()}


@pytest.mark.parametrize("cell", cells())
def test_positions_count_through_input_and_output(cell: Cell) -> None:
    """In whichever streams they lie: 0, 1, 2, … over the mode, the input, <start> and the output of each
    document.
    """
    batch = cell.packed()
    for stream in cell.architecture.streams:
        tokens = batch.streams[stream.name]
        for number, example in enumerate(cell.examples[:3]):
            n, m = (1 + held for held in example.held)
            expected = {"input": range(n), "output": range(n, n + m), "both": range(n + m)}[stream.holds]
            assert tokens.position[tokens.document == number].tolist() == list(expected), stream.name


def knows_distance_alone(a: Architecture) -> bool:
    """Whether all that the encoding tells is how far one token is from another."""
    restarts = getattr(a.positions, "across", "continuous") == "restarted"
    counts_on = not restarts or a.output_stream.holds == "both"
    return isinstance(a.positions, Rope | RelativeBias | Alibi | NoPositions) and counts_on


def tells_the_input_s_distance(a: Architecture) -> bool:
    """Whether the encoding tells an answer how far the input is."""
    two_parts = a.output_stream.holds == "output"
    if isinstance(a.positions, NoPositions):
        return False
    if two_parts and getattr(a.positions, "across", "continuous") != "continuous":
        return False
    together = not two_parts or any(r.merged for s in a.streams for x in s.layers for r in x.reads)
    # What ALiBi takes from all keys of a softmax alike changes none of its weights.
    return together or not isinstance(a.positions, Alibi)


@pytest.mark.parametrize("cell", cells())
@torch.no_grad()
def test_only_distances_matter(cell: Cell) -> None:
    """All of a document further along, in every stream: the same answers where an encoding tells distances,
    others where it tells places.
    """
    streams = cell.packed().streams
    size = (cell.model.hidden(shifted(streams, SHIFT)) - cell.model.hidden(streams)).abs().max()
    if knows_distance_alone(cell.architecture):
        assert size < 1e-4
    elif any(len(example.input) for example in cell.examples[:3]):  # one key to see tells no distance
        assert size > 1e-4


@pytest.mark.parametrize(
    "cell", [p for p in cells() if not has_rule(p.values[0].family, "block", "window(4)")]
)
@torch.no_grad()
def test_the_distance_from_input_to_output_matters(cell: Cell) -> None:
    """The output alone further along. Every answer to an input changes, if its encoding tells how far that is;
    else none does. A network that counts each stream from 0 by itself would not notice. (Not for rules of
    blocks and short windows: moving the output changes who sees whom.)
    """
    streams = cell.packed().streams
    last = streams[cell.architecture.output_stream.name]
    # Without an input there is one token before the output: a softmax over one key can't tell how far it is.
    asked = [n for n, example in enumerate(cell.examples[:3]) if len(example.input) and example.held[1] > 0]
    answers = (last.part == OUTPUT) & torch.isin(last.document, torch.tensor(asked, dtype=torch.long))
    difference = cell.model.hidden(shifted(streams, SHIFT, output_only=True)) - cell.model.hidden(streams)
    size = difference.abs().amax(dim=-1)[answers]
    if not asked:
        return
    if tells_the_input_s_distance(cell.architecture):
        assert size.min() > 1e-5
    else:
        assert size.max() < 1e-5
