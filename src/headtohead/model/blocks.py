"""Norms, feed-forward, the block, and the one init function."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headtohead.model.architecture import Architecture, Layer
from headtohead.model.attention import NORM_EPSILON, Attention, KeySource, Mask


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the model width (Zhang & Sennrich, arXiv 1910.07467), in fp32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, NORM_EPSILON)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)) (Shazeer, arXiv 2002.05202): three matrices of d_model × d_ff."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    """One layer of a stream: its attention sublayers in order, then the feed-forward, each after a norm and
    with a residual connection.
    """

    def __init__(self, architecture: Architecture, layer: Layer) -> None:
        super().__init__()
        d = architecture.d_model
        self.attentions = nn.ModuleList(Attention(architecture) for _ in layer.sublayers)
        self.attention_norms = nn.ModuleList(RMSNorm(d) for _ in layer.sublayers)
        self.feed_forward = SwiGLU(d, layer.d_ff)
        self.feed_forward_norm = RMSNorm(d)

    def forward(
        self,
        x: Tensor,
        turned: Tensor | None,
        sources: list[list[KeySource]],
        own: list[list[bool]],
        masks: list[Mask],
        reference: bool = False,
    ) -> tuple[Tensor, list[Tensor | None]]:
        """x (B, T, d) -> (B, T, d), and each sublayer's weights if `reference`.

        `sources[s][r]` is what read r of sublayer s reads; where `own[s][r]`, its states are this stream's,
        normed here. `masks[s]` covers the sublayer's reads side by side.
        """
        weights: list[Tensor | None] = []
        for attention, norm, reads, mine, mask in zip(
            self.attentions, self.attention_norms, sources, own, masks, strict=True
        ):
            normed = norm(x)
            here = [
                KeySource(normed, turned, source.cache) if is_own else source
                for source, is_own in zip(reads, mine, strict=True)
            ]
            read, seen = attention(normed, turned, here, mask, reference)
            x = x + read
            weights.append(seen)
        return x + self.feed_forward(self.feed_forward_norm(x)), weights


EMBEDDING_SCALE = 0.4


@torch.no_grad()
def initialise(model: nn.Module, architecture: Architecture, seed: int) -> None:
    """Set every weight of `model` from one generator: the only place where weights get their first values.

    ============================  =======================================
    embeddings (tied)             normal, 0.4 / √d_model
    attention and feed-forward    normal, 1 / √fan_in
    projections onto the residual normal, 1 / √fan_in / √(2 · layers)
    norm weights                  1
    ============================  =======================================

    With the final norm the logits start at a spread of 0.4 whatever the width, so the initial loss is ln V +
    0.08; `layers` are those of the deepest stream. Parameters are visited in the order of their names.
    """
    generator = torch.Generator().manual_seed(seed)
    depth = max(architecture.depths)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.ndim == 1:
            parameter.fill_(1.0)
            continue
        if name.endswith("embedding"):
            scale = EMBEDDING_SCALE / math.sqrt(architecture.d_model)
        else:
            scale = 1 / math.sqrt(parameter.shape[1])
            if name.endswith(("out.weight", "down.weight")):
                scale /= math.sqrt(2 * depth)
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
