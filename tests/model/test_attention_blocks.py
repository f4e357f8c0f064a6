"""Attention in blocks of rows: the same answer as the whole square, and only where nothing is lost by it."""

from __future__ import annotations

import pytest
import torch

from headtohead.model.attention import LONG_ROWS, ROW_BLOCKS, Mask, attend_fused, attend_reference
from headtohead.model.visibility import Coordinates, Visibility


def where(length: int, split: int) -> Coordinates:
    """Two documents in a row, each with an input and an output."""
    place = torch.arange(length)
    document = (place >= split).long()
    position = torch.where(place < split, place, place - split)
    part = (position >= split // 2).long()
    return Coordinates(position[None], document[None], part[None])


@pytest.mark.parametrize(
    ("rule", "blocks"),
    [
        ("causal & same_document", ROW_BLOCKS),
        ("window(9) & causal & same_document", ROW_BLOCKS),
        ("full & same_document", 1),
        ("prefix & same_document", 1),
        ("by_head(causal, anticausal) & same_document", 1),
    ],
)
def test_blocks_are_the_masks_own_choice_and_change_nothing(rule: str, blocks: int) -> None:
    """Forward and gradients in fp64, at a length that four blocks don't divide, with grouped heads."""
    c = where(LONG_ROWS + 3, 300)
    mask = Mask.of(Visibility.parse(rule).dense(c, c, 4))
    assert mask.row_blocks == blocks
    torch.manual_seed(0)
    q = torch.randn(1, 4, LONG_ROWS + 3, 8, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(1, 2, LONG_ROWS + 3, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    expected, weights = attend_reference(q, k, v, mask)
    found = attend_fused(q, k, v, mask)
    assert float(weights.detach()[0].triu(1).abs().max() > 0) == (blocks == 1)
    assert torch.allclose(found, expected, atol=1e-12)
    probe = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad(found, (q, k, v), probe),
        torch.autograd.grad(expected, (q, k, v), probe),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-12)


def test_a_row_out_of_order_is_one_square() -> None:
    """A later token at an earlier place: the rule is causal, the places are not."""
    c = where(LONG_ROWS, 300)
    turned = Coordinates(*(field.flip(1) for field in c))
    assert Mask.of(Visibility.parse("causal & same_document").dense(turned, turned)).row_blocks == 1


def test_short_rows_are_one_square() -> None:
    c = where(LONG_ROWS - 1, 300)
    assert Mask.of(Visibility.parse("causal & same_document").dense(c, c)).row_blocks == 1
