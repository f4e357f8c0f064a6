"""The chunked loss against PyTorch's, with all logits held."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from headtohead.model import loss

HEADS = {
    "plain": {},
    "bias": {"biased": True},
    "scaled": {"scale": 0.3},
    "capped": {"soft_cap": 2.0},
    "all": {"biased": True, "scale": 0.7, "soft_cap": 1.5},
}


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("chunk", [4, 1024])
@pytest.mark.parametrize("kind", HEADS)
def test_sums_and_gradients_equal_those_with_all_logits(
    z_loss: float, chunk: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "PLACES_AT_ONCE", chunk)
    g = torch.Generator().manual_seed(0)
    h = torch.randn(10, 8, generator=g, dtype=torch.float64, requires_grad=True)
    embedding = torch.randn(13, 8, generator=g, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 13, (10,), generator=g)

    biased, scale, soft_cap = (
        HEADS[kind].get(key, other) for key, other in (("biased", False), ("scale", 1.0), ("soft_cap", None))
    )
    bias = torch.randn(13, generator=g, dtype=torch.float64, requires_grad=True) if biased else None

    logits = scale * (h @ embedding.T)
    if bias is not None:
        logits = logits + bias
    if soft_cap is not None:
        logits = soft_cap * torch.tanh(logits / soft_cap)
    learnt = (h, embedding) if bias is None else (h, embedding, bias)
    nats = F.cross_entropy(logits, targets, reduction="sum")
    z = logits.logsumexp(dim=-1).square().sum()
    expected = torch.autograd.grad(3 * (nats + z_loss * z), learnt)

    head = loss.Head(embedding, bias, scale, soft_cap)
    assert torch.allclose(head.logits(h), logits)
    sums = loss.cross_entropy_sums(h, head, targets, z_loss)
    found = torch.autograd.grad(3 * sums.total, learnt)
    assert float(sums.nats) == pytest.approx(nats.item())
    assert float(sums.z) == pytest.approx(z.item())
    assert sums.total.item() == pytest.approx((nats + z_loss * z).item())
    assert float(sums.weight) == 10
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs)


def test_the_gradient_is_right_by_finite_differences() -> None:
    g = torch.Generator().manual_seed(1)
    h = torch.randn(3, 4, generator=g, dtype=torch.float64, requires_grad=True)
    embedding = torch.randn(5, 4, generator=g, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 4, 4])

    def total(h: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        return loss.cross_entropy_sums(h, loss.Head(embedding), targets, 0.1).total

    assert torch.autograd.gradcheck(total, (h, embedding))


def test_no_places_cost_nothing() -> None:
    sums = loss.cross_entropy_sums(
        torch.zeros(0, 4), loss.Head(torch.ones(5, 4)), torch.zeros(0, dtype=torch.long), 0.1
    )
    assert sums.total.item() == sums.weight.item() == 0


def test_compiled_chunks_of_any_length_equal_eager_ones() -> None:
    g = torch.Generator().manual_seed(2)
    head = loss.Head(torch.randn(50, 16, generator=g), torch.randn(50, generator=g), 0.5, 3.0)
    run = loss.compiled_chunk()
    for places in (64, 7, 2, 1, 33):
        h, goal = torch.randn(places, 16, generator=g), torch.randint(0, 50, (places, 1), generator=g)
        found, expected = (f(h, head, goal, 1e-2, True) for f in (run, loss.chunk_sums))
        assert found.slope is not None and expected.slope is not None
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs)
