"""Law 5: what the description predicts is what the built network has and does."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from tests.laws.cells import Cell, cells
from tests.laws.running import cached, supervised_tokens
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from headtohead.data.shards import Example
from headtohead.model.architecture import Architecture, Read
from headtohead.model.batch import Tokens
from headtohead.model.blocks import is_table
from headtohead.model.budget import cache_bytes, flops, parameters, visible_pairs
from headtohead.model.conventions import full_square
from headtohead.model.presets import architecture, families
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import INPUT, OUTPUT

MATMULS = {torch.ops.aten.mm.default, torch.ops.aten.addmm.default}
ATTENTION = {torch.ops.aten.bmm.default, torch.ops.aten.baddbmm.default}


class Counter(TorchDispatchMode):
    """Counts 2·m·k·n for every matrix product that is really made; those of attention apart."""

    def __init__(self) -> None:
        super().__init__()
        self.matmul = self.attention = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in MATMULS:
            left, right = args[-2:]
            self.matmul += 2 * left.shape[0] * left.shape[1] * right.shape[1]
        elif func in ATTENTION:
            left, right = args[-2:]
            self.attention += 2 * prod(left.shape) * right.shape[2]
        return out


def exact(cell: Cell, example: Example):
    """One example in a row without padding, so that nothing is computed that isn't asked for."""
    n, m = (1 + held for held in example.held)
    layout = cell.layout(n + m, max(n, m))
    batch = layout.batch([[example]])
    streams = {
        s.name: t.map(lambda f, w={"input": n, "output": m, "both": n + m}[s.holds]: f[:, :w])
        for s, t in zip(cell.architecture.streams, batch.streams.values(), strict=True)
    }
    width = streams[cell.architecture.output_stream.name].ids.shape[1]
    rest = (getattr(batch, name)[:, :width] for name in ("targets", "weights", "example", "scored"))
    return type(batch)(streams, *rest), n, m


def _reads(a: Architecture) -> list[Read]:
    return [read for stream in a.streams for layer in stream.layers for read in layer.reads]


def _products(a: Architecture, name: str, layer: int, sublayer: int, weights: torch.Tensor) -> int:
    """FLOPs of a sublayer between its queries, keys and values, from the weights (B, H, Tq, Tk) that it had."""
    stream = a.stream(name)
    width = a.width(stream)
    d, keys = width.d_head, width.key_heads or width.heads
    if stream.expanded[layer].sublayers[sublayer][0].mixer == "softmax":
        return 2 * 2 * d * int((weights != 0).sum())
    _, heads, queries, there = weights.shape
    return 2 * d * d * keys * there + (2 * d * d + 2 * d) * heads * queries


@pytest.mark.parametrize("cell", cells())
@torch.no_grad()
def test_flops_and_visible_pairs_equal_those_of_the_network_that_runs(cell: Cell) -> None:
    a = cell.architecture
    for example in cell.examples[:2]:
        batch, n, m = exact(cell, example)
        with Counter() as counter:
            cell.model.loss(batch)
        weights = cell.model.attention_weights(batch)
        pairs = sum(int((w != 0).sum()) for w in weights.values())
        products = sum(_products(a, name, layer, s, w) for (name, layer, s), w in weights.items())
        supervised = len(supervised_tokens(cell, example))
        predicted = flops(a, n, m, supervised)
        assert visible_pairs(a, n, m) == pairs
        assert predicted["forward"] == counter.matmul + products
        assert predicted["training"] == 3 * predicted["forward"]
        # The kernel here computes every pair and masks: never less than what is counted.
        assert counter.attention >= products or any(r.mixer == "linear" for r in _reads(a))


@pytest.mark.parametrize("cell", cells(tasks=False))
def test_parameters_equal_those_of_the_network_built(cell: Cell) -> None:
    found = parameters(cell.architecture)
    assert found["total"] == sum(p.numel() for p in cell.model.parameters())
    tables = sum(p.numel() for name, p in cell.model.named_parameters() if is_table(name))
    assert found["embedding"] == tables


@pytest.mark.parametrize("cell", cells(tasks=False))
@torch.no_grad()
def test_cache_bytes_equal_those_of_a_cache_that_is_full(cell: Cell) -> None:
    example = cell.examples[1]
    batch, n, m = exact(cell, example)
    caches = []
    start = cell.model.start_cache
    cell.model.start_cache = lambda capacity: caches.append(start(capacity)) or caches[-1]
    try:
        cached(cell.model, batch.streams)
    finally:
        del cell.model.start_cache
    filled = [part for read in caches[0].reads.values() for part in read.filled]
    assert sum(part.numel() * part.element_size() for part in filled) == cache_bytes(
        cell.architecture, n, m, "fp32"
    )


@pytest.mark.parametrize("name", ["decllm-150m", "redllm-150m", "redllm-8b"])
@torch.no_grad()
def test_flops_of_published_sizes_equal_the_products_of_the_network_on_no_device(name: str) -> None:
    """Built on the meta device: shapes without numbers. The attention's products are counted by visible
    pairs.
    """
    a, n, m = architecture(name), 160, 96
    with torch.device("meta"):
        model = Transformer(a)
        streams = {}
        for stream in a.streams:
            width = {"input": n, "output": m, "both": n + m}[stream.holds]
            first = n if stream.holds == "output" else 0
            position = torch.arange(first, first + width)[None]
            part = torch.where(position < n, INPUT, OUTPUT)
            streams[stream.name] = Tokens(
                torch.zeros_like(position),
                position,
                torch.zeros_like(position),
                part,
                (position - n + 1).clamp(min=0),
            )
        with Counter() as counter:
            h = model.hidden(streams)
            model.next_logits(h[:, -m:])
    predicted = flops(a, n, m)["forward"]
    assert predicted - 2 * 2 * a.d_head * visible_pairs(a, n, m) == counter.matmul


@pytest.mark.parametrize("family", [f for f in families() if "linear" not in f])
@torch.no_grad()
def test_flops_equal_those_of_torch_s_counter_where_it_counts_all_pairs(family: str) -> None:
    """The meta device, and `full_square`: PyTorch's counter knows no masks."""
    n, m = 48, 32
    a = architecture(f"{family}-{'mini' if 'mini' in families()[family].sizes else 'nano'}")
    with torch.device("meta"):
        model = Transformer(a)
        streams = {}
        for stream in a.streams:
            width = {"input": n, "output": m, "both": n + m}[stream.holds]
            first = n if stream.holds == "output" else 0
            position = torch.arange(first, first + width)[None]
            part = torch.where(position < n, INPUT, OUTPUT)
            step = (position - n + 1).clamp(min=0)
            streams[stream.name] = Tokens(
                torch.zeros_like(position), position, torch.zeros_like(position), part, step
            )
        with FlopCounterMode(display=False) as counter:
            model.next_logits(model.hidden(streams, reference=True)[:, -m:])
    assert full_square(a, n, m, m) == pytest.approx(counter.get_total_flops(), rel=0.005)
