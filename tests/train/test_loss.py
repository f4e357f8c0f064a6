"""One reduction: sums divided once, by the supervised tokens of the whole step."""

from __future__ import annotations

import pytest
import torch
from tests.train.small import micro_batches, rows, tiny

from headtohead.model.batch import Batch
from headtohead.model.transformer import Transformer
from headtohead.train.loop import backward
from headtohead.train.runtime import Runtime

PLAIN = Runtime(threads=1, precision="fp32", compiled=False, torch=torch.__version__)


def gradients(
    model: Transformer, batches: list[Batch], z_loss: float
) -> tuple[list[torch.Tensor], float, float]:
    model.zero_grad()
    nats, weight = backward(model, batches, z_loss, PLAIN)
    return [p.grad.clone() for p in model.parameters() if p.grad is not None], nats, weight


def uneven(two: bool) -> tuple[Transformer, Batch]:
    """Rows with very different numbers of supervised tokens, so that a mean of means would show."""
    model = Transformer(tiny(two))
    batch = rows(model.architecture, 0, 4)
    batch.weights[:2, 1:] = 0
    batch.targets[:2, 1:] = 0
    batch.weights[:2, 0] = 1
    return model, batch


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("count", [2, 4])
def test_accumulation_equals_the_big_batch(two: bool, count: int) -> None:
    model, batch = uneven(two)
    whole, nats, weight = gradients(model, [batch], 1e-2)
    parts, nats_of_parts, weight_of_parts = gradients(model, micro_batches(batch, count), 1e-2)
    assert (nats_of_parts, weight_of_parts) == (pytest.approx(nats, rel=1e-6), weight)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    halves = micro_batches(batch, 2)
    means = [gradients(model, [half], 1e-2)[0] for half in halves]
    mean_of_means = [(a + b) / 2 for a, b in zip(*means, strict=True)]
    assert max(float((a - b).abs().max()) for a, b in zip(whole, mean_of_means, strict=True)) > 1e-3


@pytest.mark.parametrize("z_loss", [0.0, 1e-4, 0.5])
def test_both_terms_have_one_denominator(z_loss: float) -> None:
    """The loss written out from the logits, with z-loss per supervised token, has the loop's gradients."""
    model, batch = uneven(False)
    found, nats, weight = gradients(model, micro_batches(batch, 2), z_loss)
    model.zero_grad()
    logits = model.logits(batch)
    log_z = logits.logsumexp(-1)
    cross_entropy = log_z - logits.gather(-1, batch.targets[..., None])[..., 0]
    count = batch.weights.sum()
    assert float(count) == weight
    loss = (batch.weights * (cross_entropy + z_loss * log_z**2)).sum() / count
    loss.backward()
    assert nats == pytest.approx((batch.weights * cross_entropy).sum().item(), rel=1e-5)
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_step_without_a_supervised_token_is_told() -> None:
    model, batch = uneven(False)
    batch.weights.zero_()
    with pytest.raises(ValueError, match="no supervised token"):
        backward(model, [batch], 0.0, PLAIN)
