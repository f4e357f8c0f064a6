"""Schedule, grouping and AdamW against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from tests.train.small import recipe, tiny

from headtohead.model.transformer import Transformer
from headtohead.train.optimizers import decayed, make_optimizer, set_learning_rate
from headtohead.train.schedules import learning_rate


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (1, 0.1),  # a quarter of the way up
        (2, 0.2),
        (4, 0.4),  # the peak, with the last step of the warm-up
        (6, 0.04 + 0.36 * 0.5 * (1 + math.cos(math.pi / 4))),
        (8, 0.22),  # half way down: the mean of peak and end
        (12, 0.04),  # the end, with the last step
    ],
)
def test_schedule(step: int, expected: float) -> None:
    settings = recipe(learning_rate=0.4, warmup_steps=4, steps=12, final_fraction=0.1)
    assert learning_rate(settings, step) == pytest.approx(expected, rel=1e-12)


def test_schedule_without_warm_up_and_with_nothing_else() -> None:
    assert learning_rate(recipe(learning_rate=1.0, warmup_steps=0, steps=2), 1) == pytest.approx(0.55)
    assert learning_rate(recipe(learning_rate=1.0, warmup_steps=2, steps=2), 2) == 1.0
    assert learning_rate(recipe(learning_rate=1.0, final_fraction=1.0, warmup_steps=1), 17) == 1.0


@pytest.mark.parametrize("two", [False, True])
def test_weight_decay_is_for_hidden_matrices_alone(two: bool) -> None:
    model = Transformer(tiny(two))
    rule = decayed(model)
    assert set(rule) == {name for name, _ in model.named_parameters()}
    assert {name for name, decays in rule.items() if not decays} == {
        name for name, parameter in model.named_parameters() if parameter.ndim == 1 or name == "embedding"
    }
    groups = make_optimizer(model, recipe(weight_decay=0.3)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(rule)


def test_two_steps_of_adamw_by_hand() -> None:
    model = Transformer(tiny())
    settings = recipe(learning_rate=0.5, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1)
    optimizer = make_optimizer(model, settings)
    rule = decayed(model)
    start = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    gradients = [
        {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}
        for _ in range(2)
    ]
    for number, rate in enumerate((0.5, 0.25)):
        set_learning_rate(optimizer, rate)
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[number][name]
        optimizer.step()
    for name, parameter in model.named_parameters():
        x = start[name]
        m, v = torch.zeros_like(x), torch.zeros_like(x)
        for t, rate in ((1, 0.5), (2, 0.25)):
            g = gradients[t - 1][name].double()
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
            if rule[name]:
                x = x - rate * 0.1 * x
            x = x - rate * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-3)
        torch.testing.assert_close(parameter.detach().double(), x, rtol=1e-5, atol=1e-6)
