"""AdamW, its one rule for weight decay, and the schedule of the learning rate."""

from __future__ import annotations

import math

import torch

from headtohead.model.blocks import is_table
from headtohead.model.transformer import Transformer
from headtohead.train.recipe import Recipe


def learning_rate(recipe: Recipe, step: int) -> float:
    """Learning rate of update number ``step``, counted from 1 to ``recipe.steps``.

    Linear from 0 over the warm-up, so that update ``warmup_steps`` is made at the peak, then a cosine
    (Loshchilov & Hutter 2017, without restarts) that is at ``final_fraction`` of the peak in the last one.
    """
    if recipe.steps is None:
        raise ValueError("the number of steps is not settled: use recipe.with_steps(n)")
    if step <= recipe.warmup_steps:
        return recipe.learning_rate * step / recipe.warmup_steps
    progress = (step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return recipe.learning_rate * (recipe.final_fraction + (1 - recipe.final_fraction) * cosine)


def decayed(model: Transformer) -> dict[str, bool]:
    """For each trainable parameter, by name: does weight decay pull it towards 0?

    Hidden matrices yes. Not the vectors (norm weights, biases), whose natural size is not 0, and not the
    tables whose rows are looked up or make logits: a rare token's row gets little gradient for many steps and
    would only shrink.
    """
    return {
        name: parameter.ndim >= 2 and not is_table(name)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def make_optimizer(model: Transformer, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over the two groups of ``decayed``; the loop sets the rate."""
    rule = decayed(model)
    parameters = dict(model.named_parameters())
    groups = [
        {
            "params": [parameters[name] for name, decays in rule.items() if decays is wanted],
            "weight_decay": recipe.weight_decay if wanted else 0.0,
        }
        for wanted in (True, False)
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.eps,
        # One pass over each tensor, not a dozen; elementwise, so its bits don't depend on how it is cut.
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """The learning rate of all groups, from the next update on."""
    for group in optimizer.param_groups:
        group["lr"] = value
