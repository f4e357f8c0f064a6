"""Law 4: under our own init a network starts where it knows nothing: at ln V, within 2 %."""

from __future__ import annotations

import math

import pytest
import torch
from tests.laws.cells import Cell, cells

from headtohead.model.architecture import Architecture
from headtohead.model.batch import Batch, Tokens
from headtohead.model.presets import architecture
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import INPUT, OUTPUT


def start(a: Architecture, seed: int, rows: int, length: int) -> float:
    """Nats per token of a fresh network on random text, as ln V's multiple."""
    g = torch.Generator().manual_seed(seed)
    streams = {}
    for stream in a.streams:
        width = 2 * length if stream.holds == "both" else length
        first = length if stream.holds == "output" else 0
        position = torch.arange(first, first + width).expand(rows, -1).contiguous()
        part = torch.where(position < length, INPUT, OUTPUT)
        ids = torch.randint(7, a.vocabulary, (rows, width), generator=g)
        streams[stream.name] = Tokens(
            ids, position, torch.zeros_like(ids), part, (position - length + 1).clamp(min=0)
        )
    last = streams[a.output_stream.name]
    weights = (last.part == OUTPUT).float()
    targets = torch.randint(7, a.vocabulary, last.ids.shape, generator=g)
    batch = Batch(streams, targets, weights, torch.zeros_like(targets), weights > 0)
    with torch.no_grad():
        sums = Transformer(a, seed).loss(batch)
    return float(sums.nats / sums.weight) / math.log(a.vocabulary)


@pytest.mark.parametrize("cell", cells(tasks=False))
def test_initial_loss_is_ln_v(cell: Cell) -> None:
    """The mean of a few draws: at this vocabulary ln V + 0.08 is +1.4 %, and one draw of targets is ±0.4
    %.
    """
    found = [start(cell.architecture, seed, rows=16, length=32) for seed in range(8)]
    assert sum(found) / len(found) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", ["decllm-nano", "prefix-nano", "redllm-nano", "redllm-micro"])
def test_initial_loss_of_presets_is_ln_v(name: str) -> None:
    assert start(architecture(name), 0, rows=2, length=64) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("cell", cells(tasks=False))
def test_the_seed_alone_decides_the_weights(cell: Cell) -> None:
    a = cell.architecture
    first, again, other = Transformer(a, 3), Transformer(a, 3), Transformer(a, 4)
    for (name, p), q, r in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name
        # Norms, biases and T5's biases start alike.
        assert p.ndim == 1 or not p.any() or not torch.equal(p, r), name
