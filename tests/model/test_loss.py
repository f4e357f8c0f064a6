"""The chunked loss against PyTorch's, with all logits held."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from headtohead.model import loss


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("chunk", [4, 1024])
def test_sums_and_gradients_equal_those_with_all_logits(
    z_loss: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "PLACES_AT_ONCE", chunk)
    g = torch.Generator().manual_seed(0)
    h = torch.randn(10, 8, generator=g, dtype=torch.float64, requires_grad=True)
    embedding = torch.randn(13, 8, generator=g, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 13, (10,), generator=g)

    logits = h @ embedding.T
    nats = F.cross_entropy(logits, targets, reduction="sum")
    z = logits.logsumexp(dim=-1).square().sum()
    expected = torch.autograd.grad(3 * (nats + z_loss * z), (h, embedding))

    sums = loss.cross_entropy_sums(h, embedding, targets, z_loss)
    found = torch.autograd.grad(3 * sums.total, (h, embedding))
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
        return loss.cross_entropy_sums(h, embedding, targets, 0.1).total

    assert torch.autograd.gradcheck(total, (h, embedding))


def test_no_places_cost_nothing() -> None:
    sums = loss.cross_entropy_sums(torch.zeros(0, 4), torch.ones(5, 4), torch.zeros(0, dtype=torch.long), 0.1)
    assert sums.total.item() == sums.weight.item() == 0
