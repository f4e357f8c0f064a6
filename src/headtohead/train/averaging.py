"""The mean of a run's last weights, as T5Gemma 2 takes it of its last five checkpoints (and Vaswani et al., arXiv
1706.03762, section 6.1, of theirs)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from headtohead.train.recipe import Recipe


class Average:
    """The running mean, in fp32, of the weights after the steps of ``recipe.averaged_steps``.

    One copy of the weights, from the first of these steps on, however many are averaged. It goes through checkpoints,
    so a run that was stopped ends with the same mean to the bit. Training never sees it.
    """

    def __init__(self, recipe: Recipe, tensors: Mapping[str, Tensor] | None = None) -> None:
        """``tensors``: the mean as a checkpoint has it, where a run goes on."""
        self.steps = recipe.averaged_steps
        self.tensors: dict[str, Tensor] = dict(tensors or {})

    @torch.no_grad()
    def add(self, step: int, weights: Mapping[str, Tensor]) -> None:
        """Count the weights after ``step`` in, where it is one of the steps."""
        if step not in self.steps:
            return
        number = self.steps.index(step) + 1
        for name, weight in weights.items():
            if number == 1:
                self.tensors[name] = weight.detach().clone()
            elif weight.is_floating_point():
                # Not a sum that is divided in the end: every value on the way is of the size of a weight.
                self.tensors[name] += (weight - self.tensors[name]) / number

    @torch.no_grad()
    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Write the mean over the weights."""
        for name, weight in weights.items():
            weight.copy_(self.tensors[name])
