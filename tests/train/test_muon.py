"""Muon with AdamW against torch's own two, apart; and stacked projections against separate ones."""

from __future__ import annotations

import torch
from tests.train.small import recipe, tiny
from torch import Tensor

from headtohead.model.transformer import Transformer
from headtohead.train.muon import MuonWithAdamW
from headtohead.train.optimizers import decayed, make_optimizer, set_learning_rate, stacked

RATES = (0.02, 0.01, 0.005)


def test_a_step_is_that_of_torch_s_two() -> None:
    model = Transformer(tiny(two=True))
    settings = recipe(optimizer="muon", momentum=0.9, betas=(0.8, 0.9), weight_decay=0.3)
    rule, parts = decayed(model), stacked(model)
    named = dict(model.named_parameters())
    assert {named[name].shape[0] for name in named if named[name] in parts} == {2 * 16, 2 * 32}
    # The same network with every matrix by itself.
    matrices = {
        n: [m.clone() for m in p.detach().chunk(parts.get(p, 1))] for n, p in named.items() if rule[n]
    }
    rest = {n: p.detach().clone() for n, p in named.items() if not rule[n]}
    muon = torch.optim.Muon(
        [m for some in matrices.values() for m in some],
        weight_decay=0.3,
        momentum=0.9,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(rest.values(), betas=(0.8, 0.9), weight_decay=0.0, fused=True)
    ours = make_optimizer(model, settings)
    generator = torch.Generator().manual_seed(2)
    for rate in RATES:
        for optimizer in (ours, muon, adamw):
            set_learning_rate(optimizer, rate)
        for name, parameter in named.items():
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient
            if rule[name]:
                for matrix, piece in zip(matrices[name], gradient.chunk(len(matrices[name])), strict=True):
                    matrix.grad = piece.clone()
            else:
                rest[name].grad = gradient.clone()
        for optimizer in (ours, muon, adamw):
            optimizer.step()
    for name, parameter in named.items():
        assert torch.equal(parameter.detach(), torch.cat(matrices[name]) if rule[name] else rest[name]), name


def _muon(weight: Tensor, parts: int) -> Tensor:
    """A step of size about 0.2 from `weight`, whose gradient it is too."""
    parameter = torch.nn.Parameter(weight.clone())
    beside = torch.nn.Parameter(torch.zeros(2))
    optimizer = MuonWithAdamW(
        [parameter], [beside], 1.0, momentum=0.0, betas=(0.9, 0.9), eps=1e-8, weight_decay=0.0,
        stacked={parameter: parts},
    )  # fmt: skip
    parameter.grad = weight.clone()
    optimizer.step()
    return weight - parameter.detach()


def test_a_stack_is_not_one_matrix() -> None:
    """One half's gradient is ten times the other's, as a value's is beside a key's: taken as one matrix, it would
    have nearly all of the step. Each by itself moves as if it stood alone."""
    generator = torch.Generator().manual_seed(1)
    small, large = (torch.randn(6, 6, generator=generator) * size for size in (1, 10))
    pair = torch.cat((small, large))
    apart, alone = _muon(pair, 2), (_muon(small, 1), _muon(large, 1))
    torch.testing.assert_close(apart, torch.cat(alone), rtol=1e-5, atol=1e-5)
    first, second = (half.square().mean().sqrt() for half in apart.chunk(2))
    assert 0.7 < first / second < 1.4
    first, second = (half.square().mean().sqrt() for half in _muon(pair, 1).chunk(2))
    assert first / second < 0.5


def test_a_matrix_without_a_gradient_stays() -> None:
    model = Transformer(tiny())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    make_optimizer(model, recipe(optimizer="muon")).step()
    assert all(torch.equal(before[name], p.detach()) for name, p in model.named_parameters())
