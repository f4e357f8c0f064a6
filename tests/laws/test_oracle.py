"""The network equals itself said plainly: pair by pair, head by head, in float64, from the example alone.

This holds layouts, positions, masks, norms, heads, packing and the loss's alignment to one independent text
(`plain.py`), as law 7 will hold them to other people's implementations.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from tests.laws import plain
from tests.laws.cells import Cell, cells
from tests.laws.running import supervised_tokens

from headtohead.data.shards import END, Example


@lru_cache
def plain_nats(cell: Cell, number: int) -> np.ndarray:
    """-ln p of each supervised token of an example, in order."""
    example = cell.examples[number]
    weights = {n: p.detach().double().numpy() for n, p in cell.model.state_dict().items()}
    logits = plain.logits(cell.architecture, weights, example)
    places = places_of_targets(cell, example)
    targets = supervised_tokens(cell, example)
    assert len(places) == len(targets) and (not example.ends or targets[-1] == END)
    chosen = logits[places]
    log_z = np.log(np.exp(chosen).sum(axis=1))
    return log_z - chosen[np.arange(len(targets)), targets]


def places_of_targets(cell: Cell, example: Example) -> list[int]:
    """Where in the last stream, of this example alone, each supervised token is told."""
    n, m = len(example.input), len(example.output)
    if example.in_place:
        assert example.where is not None
        return [1 + int(w) + (w >= n) for w in example.where]  # the mode token; <start> before what is shown
    first = 1 + n if cell.architecture.output_stream.holds == "both" else 0
    return [*(range(n) if cell.task.supervise == "all" else ()), *range(first, first + m + example.ends)]


@pytest.mark.parametrize("cell", cells())
def test_scores_equal_the_plain_network(cell: Cell) -> None:
    """Three documents packed in a row, each token's nats."""
    batch = cell.packed()
    scores = cell.model.score(batch)
    for number in range(3):
        found = scores[(batch.example == number) & (batch.weights > 0)].numpy()
        assert np.abs(found - plain_nats(cell, number)).max() < 1e-4


@pytest.mark.parametrize("cell", cells(tasks=False))
def test_the_loss_is_the_sum_of_the_plain_network_s_nats(cell: Cell) -> None:
    batch = cell.packed()
    expected = [plain_nats(cell, number) for number in range(3)]
    with torch.no_grad():
        sums = cell.model.loss(batch, z_loss=0.0)
    assert float(sums.weight) == sum(map(len, expected))
    assert float(sums.total) == pytest.approx(sum(map(np.sum, expected)), rel=1e-5)
