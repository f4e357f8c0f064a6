"""Adafactor (Shazeer & Stern, arXiv 1804.04235) as T5X has it, which trained T5 1.1, DecLLM and RedLLM.

torch's own knows the factored form alone, and takes the smaller of the learning rate and 1 / √step; here the rate
is what the schedule says. There is no first moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

SQUARE_FLOOR = 1e-30
"""Added to every squared gradient (epsilon 1 of the paper)."""
SCALE_FLOOR = 1e-3
"""Least root mean square that a matrix of weights counts with (epsilon 2): one at 0 can still leave it."""


class Adafactor(torch.optim.Optimizer):
    """With g the gradient of a matrix X at update t, β = 1 - t^-c and rms the root mean square over X:

        V = β V + (1 - β) (g² + 1e-30),   U = g / √V,   U = U / max(1, rms(U) / d)
        X = X - rate · weight_decay · X,  X = X - rate · max(1e-3, rms(X)) · U      (rms(X) of X before both)

    Factored, V is not kept but its means over rows R and columns C, and V = R Cᵀ / mean(R); a vector is never
    factored. Without ``parameter_scale`` the step is rate · U. Of a parameter that stacks several matrices each
    has its own rms, R and C, as if they were parameters of their own.

    Args:
        groups: parameters, and ``weight_decay`` for each group.
        lr: the rate.
        decay: c; 0.8 in T5X, the paper's choice.
        factored: keep R and C in place of V.
        parameter_scale: T5X's ``multiply_by_parameter_scale``.
        clip: d, at least 1.
        stacked: of a parameter, how many matrices of equal size lie one below another in it.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        *,
        decay: float = 0.8,
        factored: bool = False,
        parameter_scale: bool = True,
        clip: float = 1.0,
        stacked: Mapping[Tensor, int] | None = None,
    ) -> None:
        self._decay, self._factored, self._scaled, self._clip = decay, factored, parameter_scale, clip
        self._stacked = stacked or {}
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient."""
        assert closure is None, "the loop computes the gradients"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["weight_decay"])

    def _update(self, parameter: Tensor, rate: float, weight_decay: float) -> None:
        assert parameter.grad is not None
        factored = self._factored and parameter.ndim > 1
        # (matrices, rows, columns): of a vector, one row.
        rows = parameter.shape[0] // self._stacked.get(parameter, 1) if parameter.ndim > 1 else 1
        x = parameter.view(-1, rows, parameter.shape[-1])
        g = parameter.grad.reshape(x.shape)
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            if factored:
                state["row_variance"] = x.new_zeros(x.shape[:2])
                state["column_variance"] = x.new_zeros(x.shape[0], x.shape[2])
            else:
                state["variance"] = torch.zeros_like(parameter)
        state["step"] += 1
        fresh = float(state["step"]) ** -self._decay
        squares = g.square().add_(SQUARE_FLOOR)
        if factored:
            by_row, by_column = state["row_variance"], state["column_variance"]
            by_row.lerp_(squares.mean(dim=2), fresh)
            by_column.lerp_(squares.mean(dim=1), fresh)
            # Two factors and not their product: small squares times small squares would be 0 in fp32.
            update = g * (by_row / by_row.mean(dim=1, keepdim=True)).rsqrt()[:, :, None]
            update *= by_column.rsqrt()[:, None, :]
        else:
            variance = state["variance"].view(x.shape)
            variance.lerp_(squares, fresh)
            update = g * variance.rsqrt()
        update /= (_rms(update) / self._clip).clamp_(min=1.0)
        if self._scaled:
            update *= _rms(x).clamp_(min=SCALE_FLOOR)
        if weight_decay:
            x.mul_(1 - rate * weight_decay)
        x.sub_(update, alpha=rate)


def _rms(x: Tensor) -> Tensor:
    """(matrices, 1, 1)."""
    return x.square().mean(dim=(1, 2), keepdim=True).sqrt()
