"""Softmax attention under any visibility, written once for reading and once for speed, and its cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headtohead.model.architecture import Architecture
from headtohead.model.positions import rotate

HIDDEN = -1e9
"""Added to the score of a key that isn't seen: its weight is then exactly 0, and no row becomes NaN."""


class Mask(NamedTuple):
    """One sublayer's mask in the forms that the kernels want, made once a batch and shared by its layers.

    visible (B, 1 or H, Tq, Tk) Boolean; added: the same as 0 or `HIDDEN`, fp32; sees (B, 1 or H, Tq, 1)
    Boolean: whether the query sees anything at all.
    """

    visible: Tensor
    added: Tensor
    sees: Tensor

    @staticmethod
    def of(visible: Tensor) -> Mask:
        added = torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, HIDDEN)
        return Mask(visible, added, visible.any(dim=-1, keepdim=True))


def attend_reference(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> tuple[Tensor, Tensor]:
    """Softmax attention as the formula says, with its weights.

    q (B, H, Tq, d_head), k and v (B, H, Tk, d_head). The softmax is in fp32. Returns the output
    (B, H, Tq, d_head) and the weights (B, H, Tq, Tk). A query that sees nothing gets zeros.
    """
    scores = (q @ k.transpose(-2, -1)).float() / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~mask.visible, float("-inf")).softmax(dim=-1)
    weights = weights.masked_fill(~mask.visible, 0.0)  # a row with nothing visible is NaN before this
    return (weights.to(v.dtype) @ v), weights


def attend_fused(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """The same output, fast. Shapes as in `attend_reference`.

    On a CPU two matrix products around a softmax take 0.43 of the time of PyTorch's fused kernel (forward and
    backward, bf16, 256 × 256, one thread); elsewhere that kernel is the one to use.
    """
    if q.device.type == "cpu":
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + mask.added  # fp32 from here, as `added` is
        out = scores.softmax(dim=-1).to(v.dtype) @ v
    else:
        out = attend_kernel(q, k, v, mask)
    return out * mask.sees


def attend_kernel(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """PyTorch's scaled-dot-product kernel. The caller drops what it gives a query that sees nothing."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.visible | ~mask.sees)


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
    cache: LayerCache | None = None


@dataclass
class Recorder:
    """Collects attention weights by (stream, layer, sublayer) when a forward pass is asked to."""

    weights: dict[tuple[str, int, int], Tensor] = field(default_factory=dict)


class Attention(nn.Module):
    """One softmax over the keys of one or more reads, which share its key and value projections.

    Norms of q, k, v (over the head dimension) and of the heads' output (over the width, before the output
    projection) have no parameters.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.heads, self.d_head, self.norms = a.heads, a.d_head, a.norms
        width = a.heads * a.d_head
        self.query = nn.Linear(a.d_model, width, bias=False)
        self.key_value = nn.Linear(a.d_model, 2 * width, bias=False)
        self.out = nn.Linear(width, a.d_model, bias=False)

    def forward(
        self,
        x: Tensor,
        turned: Tensor | None,
        sources: list[KeySource],
        mask: Mask,
        reference: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, Tq, d) -> (B, Tq, d), and the weights (B, H, Tq, Tk) if `reference` (else None)."""
        q = self._split(self.query(x))
        if self.norms.query_key:
            q = _unit(q)
        if turned is not None:
            q = rotate(q, turned)
        pairs = [self._keys_values(source) for source in sources]
        k = pairs[0][0] if len(pairs) == 1 else torch.cat([k for k, _ in pairs], dim=2)
        v = pairs[0][1] if len(pairs) == 1 else torch.cat([v for _, v in pairs], dim=2)
        q = q.to(v.dtype)
        weights = None
        if reference:
            heads, weights = attend_reference(q, k, v, mask)
        else:
            heads = attend_fused(q, k, v, mask)
        merged = heads.transpose(1, 2).flatten(2)
        if self.norms.output:
            merged = _unit(merged)
        return self.out(merged), weights

    def _keys_values(self, source: KeySource) -> tuple[Tensor, Tensor]:
        if source.states is None:
            assert source.cache is not None
            return source.cache.filled
        keys, values = self.key_value(source.states).chunk(2, dim=-1)
        k, v = self._split(keys), self._split(values)
        computed = v.dtype
        if self.norms.query_key:
            k = _unit(k)
        if self.norms.value:
            v = _unit(v)
        if source.turned is not None:
            k = rotate(k, source.turned)
        k, v = k.to(computed), v.to(computed)
        return (k, v) if source.cache is None else source.cache.extend(k, v)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.d_head)).transpose(1, 2)


NORM_EPSILON = 1e-6


def _unit(x: Tensor) -> Tensor:
    """RMS norm over the last dimension without parameters, in fp32."""
    return F.rms_norm(x.float(), (x.shape[-1],), eps=NORM_EPSILON)
