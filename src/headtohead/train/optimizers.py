"""The optimizers of a recipe, and the one rule for weight decay that all of them use."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from headtohead.model.attention import Attention
from headtohead.model.blocks import MLP, is_table
from headtohead.model.transformer import Transformer
from headtohead.train.adafactor import Adafactor
from headtohead.train.muon import MuonWithAdamW
from headtohead.train.recipe import Recipe

Keeping = Literal["adamw", "muon", "adafactor", "adafactor-factored"]
"""Optimizers by what they keep."""


def decayed(model: Transformer) -> dict[str, bool]:
    """For each trainable parameter, by name: does weight decay pull it towards 0?

    Hidden matrices yes. Not the vectors (norm weights, biases), whose natural size is not 0, and not the
    tables whose rows are looked up or make logits: a rare token's row gets little gradient for many steps and
    would only shrink. Muon is for the same matrices: what it does to a matrix means nothing for a table.
    """
    return {
        name: parameter.ndim >= 2 and not is_table(name)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def stacked(model: nn.Module) -> dict[Tensor, int]:
    """The parameters in which several matrices of equal size lie one below another, and how many: keys and values,
    gate and up. An optimizer that looks at a matrix as a whole looks at each of them.
    """
    found: dict[Tensor, int] = {}
    for module in model.modules():
        if isinstance(module, Attention):
            found[module.key_value.weight] = 2
        elif isinstance(module, MLP) and module.gated:
            found[module.gate_up.weight] = 2
    return found


def make_optimizer(model: Transformer, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over the two groups of ``decayed``; the loop sets the rate.

    AdamW is Loshchilov & Hutter's (arXiv 1711.05101).
    """
    rule = decayed(model)
    parameters = dict(model.named_parameters())
    hidden, others = (
        [parameters[n] for n, decays in rule.items() if decays is wanted] for wanted in (True, False)
    )
    if recipe.optimizer == "muon":
        return MuonWithAdamW(
            hidden,
            others,
            recipe.learning_rate,
            momentum=recipe.momentum,
            betas=recipe.betas,
            eps=recipe.eps,
            weight_decay=recipe.weight_decay,
            stacked=stacked(model),
        )
    groups: list[dict[str, Any]] = [
        {"params": some, "weight_decay": weight_decay}
        for some, weight_decay in ((hidden, recipe.weight_decay), (others, 0.0))
        if some
    ]
    if recipe.optimizer == "adafactor":
        return Adafactor(
            groups,
            recipe.learning_rate,
            decay=recipe.second_moment_decay,
            factored=recipe.factored,
            parameter_scale=recipe.parameter_scale,
            clip=recipe.update_clip,
            stacked=stacked(model),
        )
    return torch.optim.AdamW(
        groups,
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


def kept(model: Transformer, optimizer: Keeping) -> int:
    """How many numbers an optimizer keeps for all parameters of a network, its counters of steps left out.

    AdamW two for each; Muon one for each weight of a hidden matrix; Adafactor one for each, or factored one for
    each row and column of a matrix.
    """
    rule, parts = decayed(model), stacked(model)
    parameters = dict(model.named_parameters())

    def of(name: str) -> int:
        parameter = parameters[name]
        if optimizer == "adafactor-factored" and parameter.ndim > 1:
            return parameter.shape[0] + parts.get(parameter, 1) * parameter.shape[1]
        single = optimizer.startswith("adafactor") or (optimizer == "muon" and rule[name])
        return parameter.numel() * (1 if single else 2)

    return sum(of(name) for name in rule)
