"""Muon for the hidden matrices, AdamW for the rest: torch's own two, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


class MuonWithAdamW(torch.optim.Optimizer):
    """``torch.optim.Muon`` (Jordan et al. 2024) for ``hidden`` and ``torch.optim.AdamW`` for ``others``.

    Muon's step is scaled by 0.2 · √max(rows, columns), so that its size is that of AdamW's and one learning rate
    and weight decay serve both (Liu et al., arXiv 2502.16982, section 2.2).

    What stands in one parameter only because one product is faster than two (keys and values, gate and up) are
    different maps, and each is orthogonalised by itself. As one matrix of twice the rows, the half with the larger
    gradient would have nearly all of the step, which is the inequality that Muon is there to undo; and a network
    would train in another way for having its projections fused.

    Args:
        hidden: matrices.
        others: parameters of any shape; without weight decay.
        lr: the rate.
        momentum: Muon's.
        betas, eps: AdamW's.
        weight_decay: of ``hidden``, decoupled.
        stacked: of a parameter in ``hidden``, how many matrices of equal size lie one below another in it.
    """

    def __init__(
        self,
        hidden: Sequence[Tensor],
        others: Sequence[Tensor],
        lr: float,
        *,
        momentum: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        stacked: Mapping[Tensor, int],
    ) -> None:
        super().__init__([{"params": list(group)} for group in (hidden, others)], {"lr": lr})
        self._parts = {p: p.detach().chunk(stacked.get(p, 1)) for p in hidden}
        parts = [part for some in self._parts.values() for part in some]
        self._muon = torch.optim.Muon(parts, lr, weight_decay, momentum, adjust_lr_fn="match_rms_adamw")
        self._adamw = torch.optim.AdamW(others, lr, betas=betas, eps=eps, weight_decay=0.0, fused=True)
        self._adamw.state = self.state  # a restored state is restored for it too

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient, at the rate of the groups here."""
        assert closure is None, "the loop computes the gradients"
        rate = self.param_groups[0]["lr"]
        for inner in (self._muon, self._adamw):
            for group in inner.param_groups:
                group["lr"] = rate
        for parameter, parts in self._parts.items():
            self._lend(parameter, parts)
        self._muon.step()
        self._adamw.step()

    def _lend(self, parameter: Tensor, parts: Sequence[Tensor]) -> None:
        """Give Muon its share of the gradient and of the momentum: views, so that the state is one tensor for each
        parameter, in checkpoints too."""
        if parameter.grad is None:
            for part in parts:
                part.grad = None
            return
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        pieces = (parameter.grad.chunk(len(parts)), state["momentum_buffer"].chunk(len(parts)))
        for part, gradient, momentum in zip(parts, *pieces, strict=True):
            part.grad = gradient
            self._muon.state[part]["momentum_buffer"] = momentum
