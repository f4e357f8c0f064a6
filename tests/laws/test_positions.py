"""Positions: a decoder's continue where the input's end, the distance is all that matters, and it does
matter.

DESIGN's claim C18 is about positions that restart; here they must not.
"""

from __future__ import annotations

import pytest
import torch
from tests.laws.cells import Cell, cells
from tests.laws.running import Streams, fields

from headtohead.model.batch import Tokens
from headtohead.model.visibility import OUTPUT, PADDING

SHIFT = 12
"""A multiple of every block size in the cells, so that a shift moves no token to another place of its
block.
"""


def shifted(streams: Streams, by: int, output_only: bool = False) -> Streams:
    def moved(tokens: Tokens) -> Tokens:
        chosen = (tokens.document != PADDING) & ((tokens.part == OUTPUT) | (not output_only))
        ids, position, document, part, step = fields(tokens)
        return Tokens(ids, position + by * chosen, document, part, step)

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
            n, m = 1 + len(example.input), 1 + len(example.output)
            expected = {"input": range(n), "output": range(n, n + m), "both": range(n + m)}[stream.holds]
            assert tokens.position[tokens.document == number].tolist() == list(expected), stream.name


@pytest.mark.parametrize("cell", cells())
@torch.no_grad()
def test_only_distances_matter(cell: Cell) -> None:
    """All of a document further along, in every stream: the same answers."""
    streams = cell.packed().streams
    expected = cell.model.hidden(streams)
    found = cell.model.hidden(shifted(streams, SHIFT))
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("cell", cells())
@torch.no_grad()
def test_the_distance_from_input_to_output_matters(cell: Cell) -> None:
    """The output alone further along. With RoPE every answer to an input changes; without positions none
    does. A network that counts each stream from 0 by itself would not notice.
    """
    if "block" in str(cell.architecture.streams):
        return  # moving the output to other blocks changes who sees whom
    streams = cell.packed().streams
    last = streams[cell.architecture.output_stream.name]
    # Without an input there is one token before the output: a softmax over one key can't tell how far it is.
    asked = [number for number, example in enumerate(cell.examples[:3]) if len(example.input)]
    answers = (last.part == OUTPUT) & torch.isin(last.document, torch.tensor(asked, dtype=torch.long))
    difference = cell.model.hidden(shifted(streams, SHIFT, output_only=True)) - cell.model.hidden(streams)
    size = difference.abs().amax(dim=-1)[answers]
    if not asked:
        return
    if cell.positions == "rope":
        assert size.min() > 1e-4
    else:
        assert size.max() < 1e-5
