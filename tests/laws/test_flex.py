"""Training on a GPU attends by FlexAttention. What can be said of it on a CPU: its forward pass is the dense one's, and
no step of a network's leaves its device.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.laws.cells import ARCHITECTURES, Cell, cells
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import flex_attention

from headtohead.model import attention
from headtohead.model.attention import Mask
from headtohead.model.loss import cross_entropy_sums
from headtohead.model.parts import Alibi, RelativeBias
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import PADDING
from headtohead.train.memory import example
from headtohead.train.runtime import missing_for_compile

CLOSE = 1e-5

# Reads of another stream, merged reads, blocks of the text, heads that differ, keys that heads share, capped scores.
QUICK = (
    "redllm",
    "merged-attention",
    "block-double-decoder",
    "half-and-half-encoder",
    "every-option-one",
)


def in_blocks(model: Transformer) -> tuple[Transformer, list[Mask]]:
    """The network as it trains on a GPU, and the masks of softmaxes that it comes to use."""
    found, used = copy.copy(model), []
    run = model._run_block

    def watched(
        block: Any, x: Any, turned: Any, sources: Any, own: Any, masks: list[Mask], plain: bool
    ) -> Any:
        used.extend(mask for mask in masks if mask.extent is None)
        return run(block, x, turned, sources, own, masks, plain)

    found._in_blocks, found._run_block = True, watched
    return found, used


def quick(cases: list[Any], families: tuple[str, ...]) -> list[Any]:
    """The cases, those of other families marked slow."""
    found = []
    for case in cases:
        family = case if isinstance(case, str) else case.values[0].family
        marks = [] if family in families else [pytest.mark.slow]
        found.append(
            pytest.param(case, marks=marks)
            if isinstance(case, str)
            else pytest.param(*case.values, id=case.id, marks=(*case.marks, *marks))
        )
    return found


@pytest.mark.parametrize("cell", quick(cells(tasks=False), QUICK))
def test_in_blocks_equals_dense(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits at every place that holds a token; what has a bias on its scores stays with the dense mask."""
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)  # plain, as written
    batch = cell.packed()
    blocks, used = in_blocks(cell.model)
    found = blocks.logits(batch)
    if not isinstance(cell.architecture.positions, RelativeBias | Alibi):
        assert all(mask.blocks is not None for mask in used)
    real = [*batch.streams.values()][-1].document != PADDING
    assert (found - cell.model.logits(batch))[real].abs().max() < CLOSE


@pytest.mark.parametrize("family", quick([*ARCHITECTURES], ("every-option-two", "bloom")))
def test_nothing_leaves_the_device(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that isn't the CPU, on tensors without data: an operation over two devices is an error.

    CUDA itself can't be named where PyTorch is built without it, so it is the meta device, on which FlexAttention
    alone doesn't run: its masks are made, and its answer has its shape.
    """

    def no_attention(q: Tensor, k: Tensor, v: Tensor, *_: object) -> Tensor:
        return q + (k.sum() + v.sum())

    monkeypatch.setattr(attention, "attend_blocks", no_attention)
    there = torch.device("meta")
    with FakeTensorMode(allow_non_fake_inputs=True):  # torch.tensor([…]) makes such
        with there:
            model = Transformer(ARCHITECTURES[family])
        streams = example(model.architecture, 2, 8, 8)
        streams = {name: tokens.map(lambda field: field.to(there)) for name, tokens in streams.items()}
        for network in (model, in_blocks(model)[0]):
            h = network.hidden(streams).flatten(0, 1)
            targets = torch.zeros(len(h), dtype=torch.long, device=there)
            cross_entropy_sums(network._transformed(h), network.head, targets, 1e-4).total.backward()
        with torch.no_grad():
            assert model.next_logits(h).device == there
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert not missing, "DDP would wait for their gradients"


@pytest.mark.slow
@pytest.mark.skipif(missing_for_compile() is not None, reason="no C++ compiler")
@pytest.mark.parametrize("family", ["redllm", "every-option-one"])
def test_compiled_once_for_all_batches(family: str) -> None:
    """A batch's mask is an argument of a compiled block: others with documents elsewhere compile nothing anew."""
    cell = next(case.values[0] for case in cells(tasks=False) if case.values[0].family == family)
    model = Transformer(cell.architecture).eval().requires_grad_(False)
    model.load_state_dict(cell.model.state_dict())
    model.compile_blocks()
    blocks, used = in_blocks(model)
    counts = []
    layout = cell.layout()
    for rows in ([cell.examples[:3]], [cell.examples[3:5]], [cell.examples[1:3]]):
        batch = layout.batch(rows)
        real = [*batch.streams.values()][-1].document != PADDING
        assert (blocks.logits(batch) - cell.model.logits(batch))[real].abs().max() < CLOSE
        counts.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert used and all(mask.blocks is not None for mask in used)
    assert counts[0] > 0 and len(set(counts)) == 1, counts
