"""The same visibility objects feed FlexAttention: its masks and its forward pass are the reference's."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention

from headtohead.model.attention import Mask, attend_reference
from headtohead.model.positions import alibi_slopes
from headtohead.model.visibility import INPUT, OUTPUT, PADDING, SIZED, WORDS, Coordinates, Visibility

RULES = [
    *WORDS,
    *(f"{name}(3)" for name in SIZED),
    "prefix & same_document",
    "(causal | key_is_input) & same_document",
    "causal & window(4) & same_document",
    "by_head(causal, anticausal) & same_document",
    "by_head(3 * (causal & window(3)), full) & same_document",
    "same_block(4) | earlier_block(4)",
]
HEADS, LENGTH = 4, 32


def packed() -> Coordinates:
    """Two rows: two documents and padding; one document."""
    position = torch.tensor([[*range(13), *range(11), *([0] * 8)], [*range(32)]])
    document = torch.tensor([[0] * 13 + [1] * 11 + [PADDING] * 8, [0] * 32])
    part = torch.where(position < 6, INPUT, OUTPUT)
    return Coordinates(position, document, part)


@pytest.mark.parametrize("text", RULES)
def test_its_mask_is_the_dense_matrix(text: str) -> None:
    rule, where = Visibility.parse(text), packed()
    mask = create_mask(rule.mask_mod(where, where, HEADS), 2, HEADS, LENGTH, LENGTH, device="cpu")
    assert torch.equal(mask, rule.dense(where, where, HEADS).expand(2, HEADS, -1, -1))


@pytest.mark.parametrize("text", RULES)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("key_heads", [4, 2])
@torch.no_grad()
def test_its_forward_pass_is_the_reference(text: str, biased: bool, key_heads: int) -> None:
    """Head by head, with padding that sees nothing, grouped heads, and ALiBi's bias."""
    rule, where = Visibility.parse(text), packed()
    g = torch.Generator().manual_seed(0)
    q = torch.randn(2, HEADS, LENGTH, 16, generator=g)
    k, v = (torch.randn(2, key_heads, LENGTH, 16, generator=g) for _ in range(2))
    slopes = torch.tensor(alibi_slopes(HEADS))
    at = where.position

    def alibi(score, b, h, i, j):
        return score - slopes[h] * (at[b, i] - at[b, j]).abs()

    bias = -slopes[:, None, None] * (at[:, None, :, None] - at[:, None, None, :]).abs()
    visible = rule.dense(where, where, HEADS)
    expected, _ = attend_reference(q, k, v, Mask.of(visible, bias if biased else None))
    blocks = create_block_mask(rule.mask_mod(where, where, HEADS), 2, HEADS, LENGTH, LENGTH, device="cpu")
    found = flex_attention(
        q, k, v, score_mod=alibi if biased else None, block_mask=blocks, enable_gqa=key_heads != HEADS
    )
    assert isinstance(found, torch.Tensor)
    assert (found - expected).abs().max() < 1e-5
