"""Attention under any visibility, written once for reading and once for speed, and its cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake
from torch.nn.attention.flex_attention import BlockMask

from headtohead.model.architecture import Architecture, Read, Stream
from headtohead.model.batch import wide
from headtohead.model.flex import attend_blocks
from headtohead.model.linear import Extent, Features, LinearState, attend_pairs, attend_sums, features
from headtohead.model.positions import rotate

ROW_BLOCKS, LONG_ROWS = 4, 512

HIDDEN = -1e9
"""Added to the score of a key that isn't seen: its weight is then exactly 0, and no row becomes NaN."""


class Mask(NamedTuple):
    """One sublayer's mask in the forms that the kernels want, made once a batch and shared by its layers.

    visible (B, 1 or H, Tq, Tk) Boolean; added: the bias of positions (0 without one) where seen, `HIDDEN`
    elsewhere, fp32; sees (B, 1 or H, Tq, 1) Boolean: whether the query sees anything at all; biased: whether
    `added` says more than `visible`; row_blocks: into how many blocks of rows the products may be cut, each with
    the keys up to its own end and no others. A sublayer of linear attention has its `extent` instead, and
    `visible` only for the reference; one that FlexAttention does, its `blocks` alone.
    """

    visible: Tensor
    added: Tensor
    sees: Tensor
    biased: bool = False
    row_blocks: int = 1
    extent: Extent | None = None
    blocks: BlockMask | None = None

    @staticmethod
    def of(visible: Tensor, bias: Tensor | None = None) -> Mask:
        """A mask and its forms, with the positions' bias (B, H, Tq, Tk) if there is one."""
        if bias is None:
            added = torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, HIDDEN)
        else:
            added = wide(bias).masked_fill(~visible, HIDDEN)
        sees = visible.any(dim=-1, keepdim=True)
        return Mask(visible, added, sees, bias is not None, _row_blocks(visible))


def _row_blocks(visible: Tensor) -> int:
    """More than one where no query sees a later place, by the mask itself, and rows are long enough to gain.

    Forward and backward, bf16, compiled, 8 × 6 heads × 512 × 64: 0.74 of the time of the whole square in four blocks,
    0.81 in two; 0.68 at 2048; nothing or a loss below 512. Masks that look ahead gain nothing from blocks.
    """
    square = visible.shape[-1] == visible.shape[-2]
    if visible.device.type != "cpu" or not square or visible.shape[-1] < LONG_ROWS or is_fake(visible):
        return 1  # a tensor without data (`train.memory`) says nothing: the whole square is the upper bound
    return 1 if bool(visible.triu(1).any()) else ROW_BLOCKS


class Scoring(NamedTuple):
    """How queries score keys: q·k times `scale`, capped softly if there is a cap (`parts.Scores`)."""

    scale: float
    soft_cap: float | None = None

    def capped(self, scores: Tensor) -> Tensor:
        return scores if self.soft_cap is None else self.soft_cap * torch.tanh(scores / self.soft_cap)


def attend_reference(
    q: Tensor, k: Tensor, v: Tensor, mask: Mask, scoring: Scoring | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax attention as the formula says, with its weights.

    q (B, H, Tq, d_head), k and v (B, K, Tk, d_head), where query head h reads key head h // (H / K). The
    softmax is in fp32; `scoring` is 1/√d_head if left out. Returns the output (B, H, Tq, d_head) and the
    weights (B, H, Tq, Tk). A query that sees nothing gets zeros.
    """
    scoring = scoring or Scoring(q.shape[-1] ** -0.5)
    each = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(each, dim=1), v.repeat_interleave(each, dim=1)
    scores = scoring.capped(wide(q @ k.transpose(-2, -1)) * scoring.scale)
    scores = (scores + mask.added).masked_fill(~mask.visible, float("-inf"))
    weights = scores.softmax(dim=-1)
    weights = weights.masked_fill(~mask.visible, 0.0)  # a row with nothing visible is NaN before this
    return (weights.to(v.dtype) @ v), weights


def attend_fused(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scoring: Scoring | None = None) -> Tensor:
    """The same output, fast. Shapes as in `attend_reference`.

    On a CPU two matrix products around a softmax take 0.43 of the time of PyTorch's fused kernel (forward and
    backward, bf16, 256 × 256, one thread); elsewhere FlexAttention is, in compiled training, and else that kernel,
    unless scores are capped, which it can't do.
    """
    scoring = scoring or Scoring(q.shape[-1] ** -0.5)
    if mask.blocks is not None:
        return attend_blocks(q, k, v, mask.blocks, *scoring)
    if q.device.type != "cpu" and scoring.soft_cap is None:
        return attend_kernel(q, k, v, mask, scoring) * mask.sees
    found: list[Tensor] = []
    for block in range(mask.row_blocks):
        first, end = (q.shape[2] * edge // mask.row_blocks for edge in (block, block + 1))
        seen = end if mask.row_blocks > 1 else k.shape[2]
        added = mask.added[:, :, first:end, :seen]
        found.append(_products(q[:, :, first:end], k[:, :, :seen], v[:, :, :seen], added, scoring))
    return (found[0] if len(found) == 1 else torch.cat(found, dim=2)) * mask.sees


def _products(q: Tensor, k: Tensor, v: Tensor, added: Tensor, scoring: Scoring) -> Tensor:
    """Two products around a softmax: in fp32 from the mask on, as `added` is. Heads that share keys are rows of
    one product with them.
    """
    scores = scoring.capped(_by_key_head(q * scoring.scale, k) @ k.transpose(-2, -1))
    scores = scores.view(*q.shape[:3], -1) + added
    weights = scores.softmax(dim=-1).to(v.dtype)
    return (_by_key_head(weights, v) @ v).view(q.shape)


def _by_key_head(x: Tensor, k: Tensor) -> Tensor:
    """x (B, H, T, n) as (B, K, H / K · T, n), one group for each of k's K heads."""
    return x if x.shape[1] == k.shape[1] else x.reshape(x.shape[0], k.shape[1], -1, x.shape[-1])


def attend_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scoring: Scoring | None = None) -> Tensor:
    """PyTorch's scaled-dot-product kernel. The caller drops what it gives a query that sees nothing."""
    scale = None if scoring is None else scoring.scale
    seen = mask.added.to(q.dtype) if mask.biased else mask.visible | ~mask.sees
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=seen, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


@dataclass
class LayerCache:
    """Keys and values (B, H, capacity, d_head) of one read, of which `length` tokens are filled."""

    keys: Tensor
    values: Tensor
    length: int = 0

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append new keys and values; returns all that are there now."""
        end = self.length + k.shape[2]
        if end > self.keys.shape[2]:
            raise ValueError(f"the cache has room for {self.keys.shape[2]} tokens, not {end}")
        self.keys[:, :, self.length : end] = k
        self.values[:, :, self.length : end] = v
        self.length = end
        return self.filled

    @property
    def filled(self) -> tuple[Tensor, Tensor]:
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


@dataclass
class KeySource:
    """What one read reads: new states (B, T, d) of its key stream or none, their rotation, and its cache."""

    states: Tensor | None
    turned: Tensor | None
    cache: LayerCache | LinearState | None = None


@dataclass
class Recorder:
    """Collects attention weights by (stream, layer, sublayer) when a forward pass is asked to."""

    weights: dict[tuple[str, int, int], Tensor] = field(default_factory=dict)


class Attention(nn.Module):
    """One softmax (or one linear attention) over the keys of one or more reads, which share its key and value
    projections.

    Norms of q, k, v (over the head dimension) and of the heads' output (over the width, before the output
    projection) have no parameters, but for the weights of q and k where the description wants them.
    """

    def __init__(self, architecture: Architecture, stream: Stream, reads: tuple[Read, ...]) -> None:
        super().__init__()
        a, width = architecture, architecture.width(stream)
        self.heads, self.d_head, self.norms = width.heads, width.d_head, a.norms
        self.key_heads = width.key_heads or width.heads
        self.linear = reads[0].mixer == "linear"
        self.scoring = Scoring(a.scores.scale or width.d_head**-0.5, a.scores.soft_cap)
        bias = a.biases.attention
        self.query = nn.Linear(width.d_model, width.queries, bias=bias)
        source = a.width(a.stream(reads[0].keys)).d_model
        self.key_value = nn.Linear(source, 2 * width.keys, bias=bias)
        self.out = nn.Linear(width.queries, width.d_model, bias=bias)
        weighted = a.norms.query_key_weights
        self.query_norm = nn.Parameter(torch.empty(width.d_head)) if weighted else None
        self.key_norm = nn.Parameter(torch.empty(width.d_head)) if weighted else None

    def forward(
        self,
        x: Tensor,
        turned: Tensor | None,
        sources: list[KeySource],
        mask: Mask,
        reference: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, Tq, d) -> (B, Tq, d), and the weights (B, H, Tq, Tk) if `reference` (else None)."""
        q = self._split(self.query(x), self.heads)
        if self.norms.query_key:
            q = self._unit(q, self.query_norm)
        if self.linear:
            heads, weights = self._linear(q, turned, sources[0], mask, reference)
        else:
            heads, weights = self._softmax(q, turned, sources, mask, reference)
        merged = heads.transpose(1, 2).flatten(2)
        if self.norms.output:
            merged = self._unit(merged)
        return self.out(merged), weights

    def _softmax(
        self, q: Tensor, turned: Tensor | None, sources: list[KeySource], mask: Mask, reference: bool
    ) -> tuple[Tensor, Tensor | None]:
        if turned is not None:
            q = rotate(q, turned)
        pairs = [self._keys_values(source) for source in sources]
        k = pairs[0][0] if len(pairs) == 1 else torch.cat([k for k, _ in pairs], dim=2)
        v = pairs[0][1] if len(pairs) == 1 else torch.cat([v for _, v in pairs], dim=2)
        q = q.to(v.dtype)
        if reference:
            return attend_reference(q, k, v, mask, self.scoring)
        return attend_fused(q, k, v, mask, self.scoring), None

    def _keys_values(self, source: KeySource) -> tuple[Tensor, Tensor]:
        if source.states is None:
            assert isinstance(source.cache, LayerCache)
            return source.cache.filled
        k, v = self._projected(source.states)
        computed = v.dtype
        if self.norms.query_key:
            k = self._unit(k, self.key_norm)
        if self.norms.value:
            v = self._unit(v)
        if source.turned is not None:
            k = rotate(k, source.turned)
        k, v = k.to(computed), v.to(computed)
        return (k, v) if source.cache is None else self._kept(source.cache).extend(k, v)

    def _linear(
        self, q: Tensor, turned: Tensor | None, source: KeySource, mask: Mask, reference: bool
    ) -> tuple[Tensor, Tensor | None]:
        assert source.states is not None and mask.extent is not None
        k, v = self._projected(source.states)
        computed = v.dtype
        if self.norms.query_key:
            k = self._unit(k, self.key_norm)
        if self.norms.value:
            v = self._unit(v)
        each = self.heads // self.key_heads
        if each > 1:
            k, v = k.repeat_interleave(each, dim=1), v.repeat_interleave(each, dim=1)
        q, k = features(q), features(k)
        turns = (q, k) if turned is None else (rotate(q, turned), rotate(k, turned))
        found = Features(q, k, *turns, wide(v))
        weights = None
        if reference and source.cache is None:
            heads, weights = attend_pairs(found, mask.visible)
        else:
            assert source.cache is None or isinstance(source.cache, LinearState)
            heads = attend_sums(found, mask.extent, source.cache)
        return heads.to(computed), weights

    def _projected(self, states: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.key_value(states).chunk(2, dim=-1)
        return self._split(keys, self.key_heads), self._split(values, self.key_heads)

    def _split(self, x: Tensor, heads: int) -> Tensor:
        return x.unflatten(-1, (heads, self.d_head)).transpose(1, 2)

    def _unit(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """RMS norm over the last dimension, in fp32."""
        return F.rms_norm(wide(x), (x.shape[-1],), weight, self.norms.epsilon)

    @staticmethod
    def _kept(cache: LayerCache | LinearState) -> LayerCache:
        assert isinstance(cache, LayerCache)
        return cache
