"""Grouping, AdamW by hand, and what holds for every optimizer."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from tests.train import small
from tests.train.small import recipe, tiny

from headtohead.model.transformer import Transformer
from headtohead.train.loop import backward
from headtohead.train.optimizers import Keeping, decayed, kept, make_optimizer, set_learning_rate
from headtohead.train.runtime import Runtime
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


@pytest.mark.parametrize("kind", small.KINDS)
@pytest.mark.parametrize("two", [False, True])
def test_a_step_in_parts_is_the_step(kind: str, two: bool) -> None:
    """However many micro-batches: gradients to rounding, and so the updates of every optimizer.

    Where a step depends on a gradient's sign alone (the first of AdamW), rounding near 0 is the whole of it; so
    the parts' gradients are compared by themselves, and then one and the same are given to two optimizers.
    """
    found = []
    for count in (1, 2, 4):
        model = Transformer(tiny(two))
        runtime = Runtime(1, "fp32", False, torch.__version__)
        batches = small.micro_batches(small.rows(model.architecture, 0, 4), count)
        backward(model, batches, 1e-4, runtime)
        found.append((model, [p.grad for p in model.parameters()]))
    (model, whole), *others = found
    for _, parts in others:
        for a, b in zip(whole, parts, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
    settings = recipe(**{**small.KINDS[kind], "learning_rate": 1e-3})
    updates = []
    for model, _ in found:
        before = [p.detach().clone() for p in model.parameters()]
        for parameter in model.parameters():
            # Gradients that are rounding alone count for 0.
            assert parameter.grad is not None
            parameter.grad[parameter.grad.abs() < 1e-6] = 0.0
        make_optimizer(model, settings).step()
        updates.append([p.detach() - b for p, b in zip(model.parameters(), before, strict=True)])
    for parts in updates[1:]:
        for a, b in zip(updates[0], parts, strict=True):
            # Muon's iteration is in bf16.
            close = 2e-2 if kind == "muon" else 1e-3
            torch.testing.assert_close(a, b, rtol=close, atol=close * 1e-3)


@pytest.mark.parametrize("kind", get_args(Keeping))
@pytest.mark.parametrize("two", [False, True])
def test_what_is_kept_is_counted(kind: Keeping, two: bool) -> None:
    model = Transformer(tiny(two))
    settings = recipe(optimizer=kind.split("-")[0], **({"factored": True} if "-" in kind else {}))
    optimizer = make_optimizer(model, settings)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    assert sum(tensor.numel() for tensor in tensors) == kept(model, kind)


def test_one_rule_of_decay_for_all() -> None:
    """Without a gradient's pull, what is decayed shrinks by rate times decay, and nothing else moves."""
    for kind in ("adamw", "muon", "adafactor"):
        model = Transformer(tiny(two=True))
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimizer = make_optimizer(model, recipe(optimizer=kind, weight_decay=0.5, learning_rate=0.1))
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        for name, decays in decayed(model).items():
            share = 0.95 if decays else 1.0
            torch.testing.assert_close(model.get_parameter(name).detach(), before[name] * share)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "muon"},
        {"optimizer": "muon", "momentum": 0.5},
        {"optimizer": "muon", "betas": (0.8, 0.95)},
        {"optimizer": "muon", "eps": 1e-3},
        {"optimizer": "adafactor"},
        {"optimizer": "adafactor", "factored": True},
        {"optimizer": "adafactor", "second_moment_decay": 0.5},
        {"optimizer": "adafactor", "parameter_scale": False},
        {"optimizer": "adafactor", "update_clip": 3.0},
        {"optimizer": "adafactor", "weight_decay": 0.5},
        {"schedule": "linear"},
        {"schedule": "constant"},
        {"schedule": "inverse-sqrt"},
        {"schedule": "wsd"},
        {"schedule": "wsd", "decay_fraction": 0.5},
        {"schedule": "linear", "final_fraction": 0.5},
        {"average_last": 2},
        {"average_last": 2, "average_every": 3},
        {"average_last": 3, "average_every": 3},
    ],
)
def test_every_option_changes_something(changes: dict[str, Any]) -> None:
    """Against the same without its last key."""
    *others, _ = changes
    nets = []
    for some in (changes, {key: changes[key] for key in others}):
        with tempfile.TemporaryDirectory() as folder:
            nets.append(small.run(Path(folder), changes=some, evaluate=None)[0])
    assert not all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
