"""Adafactor against its formulas in numpy and, where they agree, against torch's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from headtohead.train.adafactor import Adafactor

Array = NDArray[np.float64]


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x * x)))


def by_the_paper(
    x: Array,
    gradients: list[Array],
    rate: float,
    factored: bool,
    scaled: bool,
    clip: float,
    decay: float,
    wd: float,
) -> Array:
    """Algorithms 4 and 5 of the paper with a given rate, in float64."""
    v = r = c = None
    for t, g in enumerate(gradients, 1):
        beta = 1 - t**-decay
        squares = g * g + 1e-30
        if factored and x.ndim == 2:
            r = (0 if r is None else beta * r) + (1 - beta) * squares.mean(axis=1)
            c = (0 if c is None else beta * c) + (1 - beta) * squares.mean(axis=0)
            estimate = np.outer(r, c) / r.mean()
        else:
            v = (0 if v is None else beta * v) + (1 - beta) * squares
            estimate = v
        update = g / np.sqrt(estimate)
        update = update / max(1.0, rms(update) / clip)
        size = max(1e-3, rms(x)) if scaled else 1.0
        x = x * (1 - rate * wd) - rate * size * update
    return x


@pytest.mark.parametrize("factored", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    ("shape", "parts", "size"), [((7,), 1, 1.0), ((4, 6), 1, 1.0), ((6, 5), 2, 0.1), ((3, 4), 1, 0.0)]
)
def test_as_the_paper_says(
    factored: bool, scaled: bool, shape: tuple[int, ...], parts: int, size: float
) -> None:
    """Five updates, the third with a gradient a hundred times as large, which the clipping is for; of a stack, each
    matrix as if it stood alone."""
    generator = torch.Generator().manual_seed(3)
    parameter = torch.nn.Parameter(size * torch.randn(shape, generator=generator))
    start = parameter.detach().double().numpy().copy()
    gradients = [torch.randn(shape, generator=generator) * (100 if t == 2 else 1) for t in range(5)]
    optimizer = Adafactor(
        [{"params": [parameter], "weight_decay": 0.3}],
        0.05,
        decay=0.7,
        factored=factored,
        parameter_scale=scaled,
        clip=1.5,
        stacked={parameter: parts},
    )
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    pieces = [
        by_the_paper(x, list(g), 0.05, factored, scaled, 1.5, 0.7, 0.3)
        for x, *g in zip(
            np.split(start, parts), *(np.split(g.double().numpy(), parts) for g in gradients), strict=True
        )
    ]
    np.testing.assert_allclose(
        parameter.detach().double().numpy(), np.concatenate(pieces), rtol=2e-5, atol=1e-6
    )
    kept = {name: tuple(value.shape) for name, value in optimizer.state[parameter].items()}
    expected: dict[str, Any] = {"step": (), "variance": shape}
    if factored and len(shape) == 2:
        rows, columns = shape
        expected = {
            "step": (),
            "row_variance": (parts, rows // parts),
            "column_variance": (parts, columns),
        }
    assert kept == expected


@pytest.mark.parametrize("shape", [(9,), (8, 5), (5, 8)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_factored_it_is_torch_s_own(shape: tuple[int, ...], weight_decay: float) -> None:
    """Where the rate is below 1 / √step, which is where torch's takes it."""
    generator = torch.Generator().manual_seed(4)
    start = torch.randn(shape, generator=generator)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    a = Adafactor([{"params": [ours], "weight_decay": weight_decay}], 0.02, factored=True)
    b = torch.optim.Adafactor([theirs], lr=0.02, eps=(1e-15, 1e-3), weight_decay=weight_decay, foreach=False)
    for step in range(30):
        rate = 0.02 / (1 + step)
        for parameter, optimizer in ((ours, a), (theirs, b)):
            generator.manual_seed(step)
            parameter.grad = torch.randn(shape, generator=generator) * 10.0 ** (step % 5 - 2)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
    # torch's scale is that of the weights before they decay, as ours is.
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_gradient_of_zeros_moves_nothing() -> None:
    for factored in (False, True):
        parameter = torch.nn.Parameter(torch.ones(3, 4))
        optimizer = Adafactor([{"params": [parameter]}], 1.0, factored=factored)
        for _ in range(3):
            parameter.grad = torch.zeros(3, 4)
            optimizer.step()
        assert torch.equal(parameter.detach(), torch.ones(3, 4))


def test_tiny_gradients_are_not_lost() -> None:
    """Squares of 1e-14 each: their products would not be numbers of fp32 any more."""
    parameter: Tensor = torch.nn.Parameter(torch.ones(3, 4))
    optimizer = Adafactor([{"params": [parameter]}], 0.1, factored=True)
    parameter.grad = torch.full((3, 4), 1e-14)
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.full((3, 4), 0.9), rtol=1e-3, atol=0)
