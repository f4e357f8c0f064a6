"""The one loss reduction: sums over supervised tokens, in chunks of places, never holding all logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headtohead.model.budget import PLACES_AT_ONCE


@dataclass(frozen=True)
class LossSums:
    """Sums over the supervised tokens of a batch: divide once, by the weight of all that one update sees.

    total: nats + z_loss · z, differentiable; nats: Σ -ln p(target); z: Σ (ln Z)²; weight: how many tokens.
    """

    total: Tensor
    nats: Tensor
    z: Tensor
    weight: Tensor


class Head(NamedTuple):
    """From final states h to logits: cap(scale · h Mᵀ + bias), where cap is soft_cap · tanh(x / soft_cap)."""

    matrix: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    def logits(self, h: Tensor) -> Tensor:
        """Logits (…, V) in fp32 (fp64 for fp64) of h (…, d)."""
        found = h @ self.matrix.to(h.dtype).T
        return self.finish(found.to(torch.float64 if h.dtype == torch.float64 else torch.float32))

    def finish(self, products: Tensor) -> Tensor:
        """What follows the product, in its precision."""
        if self.scale != 1:
            products = products * self.scale
        if self.bias is not None:
            products = products + self.bias.to(products.dtype)
        return products if self.soft_cap is None else self.soft_cap * torch.tanh(products / self.soft_cap)


class ChunkSums(NamedTuple):
    """Of one chunk: Σ -ln p(target), Σ (ln Z)², and d total / d (finished product before the scale), in the
    products' precision, if it was asked for.
    """

    nats: Tensor
    z: Tensor
    slope: Tensor | None


def chunk_sums(part: Tensor, head: Head, goal: Tensor, z_loss: float, slopes: bool) -> ChunkSums:
    """Cross-entropy of softmax(logits) over places `part` (n, d) for targets `goal` (n, 1).

    With p = softmax(logits) and Z its normaliser, d total / d logits = p - onehot + 2 · z_loss · ln Z · p;
    through the cap, y = c · tanh(x / c), it is times 1 - (y / c)². Compiled, what follows the product is one
    walk over each row of logits; the rows of a chunk stay in the cache between its products.
    """
    logits = head.logits(part)
    log_z = logits.logsumexp(dim=-1, keepdim=True)
    nats, z = (log_z - logits.gather(1, goal)).sum(), log_z.square().sum()
    if not slopes:
        return ChunkSums(nats, z, None)
    slope = (logits - log_z).exp() * (1 + 2 * z_loss * log_z)
    slope = slope - (torch.arange(logits.shape[1], device=goal.device) == goal).to(slope.dtype)
    if head.soft_cap is not None:
        slope = slope * (1 - (logits / head.soft_cap).square())
    return ChunkSums(nats, z, slope.to(part.dtype))


Chunk = Callable[[Tensor, Head, Tensor, float, bool], ChunkSums]


def compiled_chunk() -> Chunk:
    """`chunk_sums`, compiled once for any number of places.

    The last chunk of a batch is a shape that hardly comes again. Run eagerly, it made the whole loss of a small network
    (d 96, vocabulary 2048, 800 to 1,100 places) take 1.6 times as long; for 4,096 places nothing changes.
    """
    run = torch.compile(chunk_sums)

    def chunk(part: Tensor, head: Head, goal: Tensor, z_loss: float, slopes: bool) -> ChunkSums:
        for rows in (part, goal):
            torch._dynamo.maybe_mark_dynamic(rows, 0)
        return run(part, head, goal, z_loss, slopes)

    return chunk


class _ChunkedCrossEntropy(torch.autograd.Function):
    """`chunk_sums` over all places, with the gradients made in the forward pass, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        embedding: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        z_loss: float,
        scale: float,
        soft_cap: float | None,
        run_chunk: Chunk,
    ) -> tuple[Tensor, ...]:
        head = Head(embedding.to(h.dtype), bias, scale, soft_cap)
        matrix = head.matrix
        wanted = any(ctx.needs_input_grad[:3])
        grad_h = torch.empty_like(h) if wanted else None
        grad_e = torch.zeros_like(embedding) if wanted else None
        grad_b = torch.zeros_like(bias) if wanted and bias is not None else None
        nats = torch.zeros(
            (), dtype=torch.float64 if h.dtype == torch.float64 else torch.float32, device=h.device
        )
        z = torch.zeros_like(nats)
        for start in range(0, h.shape[0], PLACES_AT_ONCE):
            part, goal = h[start : start + PLACES_AT_ONCE], targets[start : start + PLACES_AT_ONCE, None]
            found = run_chunk(part, head, goal, z_loss, grad_h is not None)
            nats += found.nats
            z += found.z
            if grad_h is not None and grad_e is not None:
                assert found.slope is not None
                if grad_b is not None:
                    grad_b += found.slope.sum(dim=0, dtype=nats.dtype).to(grad_b.dtype)
                slope = found.slope if scale == 1 else found.slope * scale
                grad_h[start : start + PLACES_AT_ONCE] = slope @ matrix
                grad_e += (slope.T @ part).to(grad_e.dtype)
        if grad_h is not None and grad_e is not None:
            ctx.save_for_backward(grad_h, grad_e, *([] if grad_b is None else [grad_b]))
        ctx.mark_non_differentiable(nats, z)
        return nats + z_loss * z, nats, z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_h, grad_e, *grad_b = ctx.saved_tensors
        bias = grad_b[0] * grads[0] if grad_b else None
        return grad_h * grads[0].to(grad_h.dtype), grad_e * grads[0], bias, None, None, None, None, None


def cross_entropy_sums(
    h: Tensor, head: Head, targets: Tensor, z_loss: float, run_chunk: Chunk = chunk_sums
) -> LossSums:
    """Loss of places h (N, d) for target ids (N,) under a head with a matrix (V, d).

    `run_chunk` does chunks of at most PLACES_AT_ONCE: `chunk_sums`, or `compiled_chunk`.
    """
    total, nats, z = _ChunkedCrossEntropy.apply(
        h, head.matrix, head.bias, targets, z_loss, head.scale, head.soft_cap, run_chunk
    )
    return LossSums(total, nats, z, torch.tensor(float(len(targets)), device=h.device))
