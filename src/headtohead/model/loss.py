"""The one loss reduction: sums over supervised tokens, in chunks of places, never holding all logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PLACES_AT_ONCE = 1024


@dataclass(frozen=True)
class LossSums:
    """Sums over the supervised tokens of a batch: divide once, by the weight of all that one update sees.

    total: nats + z_loss · z, differentiable; nats: Σ -ln p(target); z: Σ (ln Z)²; weight: how many tokens.
    """

    total: Tensor
    nats: Tensor
    z: Tensor
    weight: Tensor


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of softmax(h Eᵀ) with its gradients made in the forward pass, chunk by chunk.

    With p = softmax(logits) and Z its normaliser, d total / d logits = p - onehot + 2 · z_loss · ln Z · p.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, embedding: Tensor, targets: Tensor, z_loss: float) -> tuple[Tensor, ...]:
        matrix = embedding.to(h.dtype)
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_h = torch.empty_like(h) if wanted else None
        grad_e = torch.zeros_like(embedding) if wanted else None
        nats = torch.zeros(
            (), dtype=torch.float64 if h.dtype == torch.float64 else torch.float32, device=h.device
        )
        z = torch.zeros_like(nats)
        for start in range(0, h.shape[0], PLACES_AT_ONCE):
            part, goal = h[start : start + PLACES_AT_ONCE], targets[start : start + PLACES_AT_ONCE, None]
            logits = (part @ matrix.T).to(nats.dtype)
            log_z = logits.logsumexp(dim=-1, keepdim=True)
            nats += (log_z - logits.gather(1, goal)).sum()
            z += log_z.square().sum()
            if grad_h is not None and grad_e is not None:
                slope = (logits - log_z).exp_() * (1 + 2 * z_loss * log_z)
                slope.scatter_add_(1, goal, slope.new_full((len(part), 1), -1.0))
                slope = slope.to(h.dtype)
                grad_h[start : start + PLACES_AT_ONCE] = slope @ matrix
                grad_e += (slope.T @ part).to(grad_e.dtype)
        if grad_h is not None and grad_e is not None:
            ctx.save_for_backward(grad_h, grad_e)
        ctx.mark_non_differentiable(nats, z)
        return nats + z_loss * z, nats, z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_h, grad_e = ctx.saved_tensors
        return grad_h * grads[0].to(grad_h.dtype), grad_e * grads[0], None, None


def cross_entropy_sums(h: Tensor, embedding: Tensor, targets: Tensor, z_loss: float) -> LossSums:
    """Loss of places h (N, d) for target ids (N,) under tied output embeddings (V, d)."""
    total, nats, z = _ChunkedCrossEntropy.apply(h, embedding, targets, z_loss)
    return LossSums(total, nats, z, torch.tensor(float(len(targets)), device=h.device))
