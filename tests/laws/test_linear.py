"""Linear attention by sums equals linear attention by pairs, in rows of several chunks and documents."""

from __future__ import annotations

import pytest
import torch
from tests.laws.cells import Cell, cells

from headtohead.model.linear import CHUNK, Features, attend_pairs, attend_sums, extent
from headtohead.model.visibility import (
    INPUT,
    OUTPUT,
    PADDING,
    Coordinates,
    anticausal,
    causal,
    full,
    prefix,
    same_document,
)

LINEAR = [p for p in cells(tasks=False) if "linear" in p.values[0].family]


def documents(*lengths: int) -> Coordinates:
    """One row: documents of those lengths, a third of each input, and padding."""
    position, document, part = [], [], []
    for number, length in enumerate(lengths):
        position += range(length)
        document += [number] * length
        part += [INPUT if place < length // 3 else OUTPUT for place in range(length)]
    for column, filler in ((position, 0), (document, PADDING), (part, INPUT)):
        column += [filler] * 5
    return Coordinates(*(torch.tensor([column]) for column in (position, document, part)))


def drawn(length: int) -> Features:
    g = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(1, 2, length, 4, generator=g) for _ in range(3))
    turned_q, turned_k = (torch.randn(1, 2, length, 4, generator=g) for _ in range(2))
    return Features(q.exp(), k.exp(), turned_q, turned_k, v)


@pytest.mark.parametrize("cell", LINEAR)
def test_sums_equal_pairs_over_several_chunks(cell: Cell) -> None:
    """For every form, whatever the cell's: documents that end within chunks, at their ends and over several."""
    for lengths in ((CHUNK - 7, 30, 2 * CHUNK, 3), (CHUNK, CHUNK), (3 * CHUNK + 1,), (5, 6)):
        where = documents(*lengths)
        f = drawn(where.position.shape[1])
        for form in (causal, anticausal, full, prefix):
            expected, _ = attend_pairs(f, (form & same_document).dense(where, where))
            found = attend_sums(f, extent(form, True, where.document, where.part))
            scale = float(expected.abs().max())
            assert float((found - expected).abs().max()) < 1e-4 * max(scale, 1), (form, lengths)
