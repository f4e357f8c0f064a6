"""Norms, feed-forward, the block, the head, and the one init function."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headtohead.model.architecture import Architecture, Layer, Stream
from headtohead.model.attention import Attention, KeySource, Mask
from headtohead.model.batch import wide
from headtohead.model.parts import GATED, FeedForward, Norms


class Norm(nn.Module):
    """A norm over the model width with weights, in fp32.

    RMSNorm, x / rms(x) · weight (Zhang & Sennrich, arXiv 1910.07467), or LayerNorm, (x - mean) / std · weight
    + bias (Ba et al., arXiv 1607.06450).
    """

    def __init__(self, width: int, norms: Norms) -> None:
        super().__init__()
        self.centred, self.epsilon = norms.kind == "layer", norms.epsilon
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if norms.bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.centred:
            return F.layer_norm(wide(x), (x.shape[-1],), self.weight, self.bias, self.epsilon)
        return F.rms_norm(wide(x), (x.shape[-1],), self.weight, self.epsilon)


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _relu2(x: Tensor) -> Tensor:
    return F.relu(x).square()


ACTIVATIONS: dict[FeedForward, Callable[[Tensor], Tensor]] = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "geglu-tanh": _gelu_tanh,
    "gelu": F.gelu,
    "gelu-tanh": _gelu_tanh,
    "relu": F.relu,
    "relu2": _relu2,
}


class MLP(nn.Module):
    """The feed-forward: down(f(up(x))), or with a gate down(f(gate(x)) · up(x)) (Shazeer, arXiv 2002.05202):
    two or three matrices of d_model × d_ff.
    """

    def __init__(self, architecture: Architecture, d_model: int, d_ff: int) -> None:
        super().__init__()
        kind, bias = architecture.feed_forward, architecture.biases.feed_forward
        self.activation, self.gated = ACTIVATIONS[kind], kind in GATED
        if self.gated:
            self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=bias)
        else:
            self.up = nn.Linear(d_model, d_ff, bias=bias)
        self.down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if not self.gated:
            return self.down(self.activation(self.up(x)))
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(self.activation(gate) * up)


class Block(nn.Module):
    """One layer of a stream: its attention sublayers in order, then the feed-forward, each with a residual
    connection and its norms (`parts.Norms.place`).

    `shared`: another stream's block whose feed-forward, and whose attention sublayers as far as there are any,
    this one uses too, norms and all.
    """

    def __init__(
        self, architecture: Architecture, stream: Stream, layer: Layer, shared: Block | None = None
    ) -> None:
        super().__init__()
        a, d = architecture, architecture.width(stream).d_model
        self.place = a.norms.place

        def norms(name: str) -> nn.ModuleList:
            count = range(len(layer.sublayers))
            return nn.ModuleList(_lent(shared, name, s, lambda: Norm(d, a.norms)) for s in count)

        self.attentions = nn.ModuleList(
            _lent(shared, "attentions", s, lambda reads=reads: Attention(a, stream, reads))
            for s, reads in enumerate(layer.sublayers)
        )
        self.attention_norms = norms("attention_norms")
        self.feed_forward = MLP(a, d, layer.d_ff) if shared is None else shared.feed_forward
        self.feed_forward_norm = Norm(d, a.norms) if shared is None else shared.feed_forward_norm
        if self.place == "both":
            self.attention_after_norms = norms("attention_after_norms")
            self.feed_forward_after_norm = (
                Norm(d, a.norms) if shared is None else shared.feed_forward_after_norm
            )

    def forward(
        self,
        x: Tensor,
        turned: list[Tensor | None],
        sources: list[list[KeySource]],
        own: list[list[bool]],
        masks: list[Mask],
        reference: bool = False,
    ) -> tuple[Tensor, list[Tensor | None]]:
        """x (B, T, d) -> (B, T, d), and each sublayer's weights if `reference`.

        `sources[s][r]` is what read r of sublayer s reads; where `own[s][r]`, its states are this stream's,
        normed here. `turned[s]` turns its queries, `masks[s]` covers the sublayer's reads side by side.
        """
        weights: list[Tensor | None] = []
        for s, (attention, norm) in enumerate(zip(self.attentions, self.attention_norms, strict=True)):
            normed = x if self.place == "after" else norm(x)
            here = [
                KeySource(normed, source.turned, source.cache) if is_own else source
                for source, is_own in zip(sources[s], own[s], strict=True)
            ]
            read, seen = attention(normed, turned[s], here, masks[s], reference)
            if self.place == "both":
                read = self.attention_after_norms[s](read)
            x = x + read
            if self.place == "after":
                x = norm(x)
            weights.append(seen)
        fed = self.feed_forward(x if self.place == "after" else self.feed_forward_norm(x))
        if self.place == "both":
            fed = self.feed_forward_after_norm(fed)
        x = x + fed
        return (self.feed_forward_norm(x) if self.place == "after" else x), weights


def _lent(shared: Block | None, name: str, sublayer: int, make: Callable[[], nn.Module]) -> nn.Module:
    """A sublayer's module: that of the block whose weights are shared where it has one, else a new one."""
    if shared is not None and sublayer < len(shared.attentions):
        return getattr(shared, name)[sublayer]
    return make()


class HeadTransform(nn.Module):
    """BERT's step between final states and logits: dense, GELU, norm."""

    def __init__(self, architecture: Architecture, d_model: int) -> None:
        super().__init__()
        self.dense = nn.Linear(d_model, d_model, bias=architecture.biases.feed_forward)
        self.norm = Norm(d_model, architecture.norms)

    def forward(self, h: Tensor) -> Tensor:
        return self.norm(F.gelu(self.dense(h)))


EMBEDDING_SCALE = 0.4
TABLES = ("embedding", "embeddings", "positions", "anchors", "steps", "segments", "matrix")
"""Parameters whose rows are looked up, or are the rows of logits: by the first word of their names."""
BIASES_OF_DISTANCE = "relative"


def is_table(name: str) -> bool:
    """Whether a parameter's rows are vectors of their own: embeddings, positions, the head's matrix, T5's
    biases.
    """
    return name.split(".")[0] in (*TABLES, BIASES_OF_DISTANCE)


@torch.no_grad()
def initialise(
    model: nn.Module,
    architecture: Architecture,
    seed: int,
    write: Callable[[Tensor, Tensor], object] = Tensor.copy_,
) -> None:
    """Set every weight of `model` from one generator: the only place where weights get their first values.

    ============================  =======================================
    embeddings, learned positions normal, 0.4 / √d_model
    and segments, untied head
    attention and feed-forward    normal, 1 / √fan_in
    projections onto the residual normal, 1 / √fan_in / √(2 · layers)
    norm weights                  1
    biases, T5's biases           0
    ============================  =======================================

    With the final norm the logits start at a spread of 0.4 whatever the width, so the initial loss is ln V +
    0.08; `layers` are those of the deepest stream. Parameters are visited in the order of their names. `write` puts
    drawn values into a parameter, of which this process may hold a part alone.
    """
    generator = torch.Generator().manual_seed(seed)
    depth = max(architecture.depths)
    for name, parameter in sorted(model.named_parameters()):
        if name.endswith("bias") or name.split(".")[0] == BIASES_OF_DISTANCE:
            parameter.zero_()
            continue
        if parameter.ndim == 1:
            parameter.fill_(1.0)
            continue
        if is_table(name):
            scale = EMBEDDING_SCALE / math.sqrt(parameter.shape[1])
        else:
            scale = 1 / math.sqrt(parameter.shape[1])
            if name.endswith(("out.weight", "down.weight")):
                scale /= math.sqrt(2 * depth)
        write(parameter, torch.randn(parameter.shape, generator=generator) * scale)
