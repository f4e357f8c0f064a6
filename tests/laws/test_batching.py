"""Law 3: what a token is batched with changes neither its score nor its weight in the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.laws.cells import Cell, cells
from tests.laws.running import fields, taken
from tests.laws.test_same_answer import assert_same_gradients, loss_and_gradients

from headtohead.data.layouts import plan_rows
from headtohead.measure.scoring import score_examples
from headtohead.model.batch import Batch
from headtohead.model.transformer import Transformer
from headtohead.train.loop import backward
from headtohead.train.runtime import Runtime

NATS = 1e-4
RUNTIME = Runtime(threads=1, precision="fp32", compiled=False, torch=torch.__version__)


@pytest.mark.parametrize("cell", cells())
def test_scores_do_not_depend_on_the_batch(cell: Cell) -> None:
    """Alone; several in a row; beside others, in another order, of other layouts and batch sizes."""
    examples = cell.examples
    alone = np.array([float(_scored(cell, [[example]], 40, 24)[0]) for example in examples])
    lengths = ([e.held[0] for e in examples], [e.held[1] for e in examples])
    rows = plan_rows(*lengths, range(len(examples)), row=90, side=60)
    assert max(map(len, rows)) > 1
    packed = _scored(cell, [[examples[i] for i in row] for row in rows], 90, 60)
    assert np.abs(packed - alone[[i for row in rows for i in row]]).max() < NATS
    for row, side, rows_per_batch in ((40, 24, 1), (60, 34, 2), (90, 60, 64)):
        found = score_examples(cell.model, cell.layout(row, side), examples, rows_per_batch)
        assert np.abs(found - alone).max() < NATS
    backwards = score_examples(cell.model, cell.layout(), examples[::-1], 3)[::-1]
    assert np.abs(backwards - alone).max() < NATS


def _scored(cell: Cell, rows: list, row: int, side: int) -> np.ndarray:
    batch = cell.layout(row, side).batch(rows)
    scores = cell.model.score(batch)
    return np.array(
        [float(scores[(batch.example == i) & batch.scored].sum()) for i in range(sum(map(len, rows)))]
    )


@pytest.mark.parametrize("cell", cells())
def test_gradient_accumulation_equals_the_big_batch(cell: Cell) -> None:
    """Micro-batches with very different numbers of supervised tokens: where a mean of means would go
    wrong.
    """
    examples = cell.examples
    by_length = sorted(range(len(examples)), key=lambda i: len(examples[i].output))
    layout = cell.layout()
    short = layout.batch([[examples[i]] for i in by_length[:2]])
    long = layout.batch([[examples[i] for i in by_length[-3:]], [examples[by_length[-4]]]])
    assert float(long.weights.sum()) > 1.3 * float(short.weights.sum())
    big = _together(short, long)
    whole = _gradients(cell.model, [big])
    accumulated = _gradients(cell.model, [short, long])
    assert accumulated[0] == pytest.approx(whole[0], rel=1e-5)
    assert_same_gradients(accumulated[1], whole[1])
    # The step's gradient is that of its loss per supervised token, whatever the number of tokens.
    total, slopes = loss_and_gradients(cell.model, [big])
    weight = float(big.weights.sum())
    assert whole[0][1] == weight
    assert_same_gradients(whole[1], {name: slope / weight for name, slope in slopes.items()})
    assert float(total) >= whole[0][0]  # the z-loss on top


def _gradients(
    model: Transformer, batches: list[Batch]
) -> tuple[tuple[float, float], dict[str, torch.Tensor]]:
    model.requires_grad_(True)
    try:
        sums = backward(model, batches, 1e-2, RUNTIME)
        return sums, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    finally:
        model.zero_grad(set_to_none=True)
        model.requires_grad_(False)


def _together(first: Batch, second: Batch) -> Batch:
    def join(name: str) -> torch.Tensor:
        return torch.cat([getattr(first, name), getattr(second, name)])

    streams = {
        name: type(tokens)(*map(torch.cat, zip(fields(tokens), fields(second.streams[name]), strict=True)))
        for name, tokens in first.streams.items()
    }
    return Batch(streams, *(join(name) for name in ("targets", "weights", "example", "scored")))


@pytest.mark.parametrize("cell", cells(tasks=False))
@torch.no_grad()
def test_rows_of_padding_and_the_order_of_rows_change_nothing(cell: Cell) -> None:
    examples = cell.examples
    lengths = ([e.held[0] for e in examples], [e.held[1] for e in examples])
    rows = [[examples[i] for i in row] for row in plan_rows(*lengths, range(len(examples)), row=60, side=34)]
    batch = cell.layout().batch([*rows, []])
    h = cell.model.hidden(batch.streams)
    assert torch.isfinite(h).all()
    order = torch.randperm(len(rows) + 1, generator=torch.Generator().manual_seed(2))
    mixed = cell.model.hidden({name: taken(tokens, order) for name, tokens in batch.streams.items()})
    assert (mixed - h[order]).abs().max() < 1e-5
