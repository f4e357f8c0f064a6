"""FlexAttention: softmax attention whose mask is known by blocks, so that what nobody sees is not computed.

For training on a GPU, inside compiled blocks; its backward pass doesn't exist on a CPU. The masks come from the same
`Visibility` objects as everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from headtohead.model.visibility import Coordinates, Visibility


def blocks_of(reads: Sequence[tuple[Visibility, Coordinates]], queries: Coordinates, heads: int) -> BlockMask:
    """The mask of one softmax over the keys of one or more reads side by side, in blocks.

    Args:
        reads: of each, the rule and where its keys stand, tensors (B, Tk).
        queries: where the queries stand, tensors (B, Tq).
    """
    rules = [rule for rule, _ in reads]
    keys = Coordinates(
        *(torch.cat(parts, dim=1) for parts in zip(*(where for _, where in reads), strict=True))
    )
    edges = [0, *accumulate(where.position.shape[1] for _, where in reads)]
    masks = [rule.mask_mod(queries, keys, heads) for rule in rules]
    seen = masks[0] if len(masks) == 1 else _side_by_side(masks, edges)
    rows, length = queries.position.shape
    alike = not any(rule.differs_by_head for rule in rules)
    device = queries.position.device
    return create_block_mask(seen, rows, None if alike else heads, length, edges[-1], device=device)


def _side_by_side(masks: Sequence[Callable[..., Any]], edges: Sequence[int]) -> Callable[..., Any]:
    def seen(b: Any, h: Any, i: Any, j: Any) -> Any:
        found = j < 0
        for mask, (first, end) in zip(masks, pairwise(edges), strict=True):
            found = found | (mask(b, h, i, j) & (j >= first) & (j < end))
        return found

    return seen


def attend_blocks(
    q: Tensor, k: Tensor, v: Tensor, blocks: BlockMask, scale: float, soft_cap: float | None = None
) -> Tensor:
    """What `attend_reference` gives, shapes as there: 0 for a query that sees nothing."""

    def capped(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        assert soft_cap is not None
        return soft_cap * torch.tanh(score / soft_cap)

    found = flex_attention(
        q,
        k,
        v,
        score_mod=None if soft_cap is None else capped,
        block_mask=blocks,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    assert isinstance(found, Tensor)
    return found
