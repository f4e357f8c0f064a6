"""Law 2: the fast way gives the reference's answer, packed gives unpacked's, the cache gives the full
pass's.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.laws.cells import ARCHITECTURES, TASKS, Cell, cells
from tests.laws.running import cached
from torch import Tensor

from headtohead.data.layouts import Layout
from headtohead.generate.decoding import greedy
from headtohead.model import attention
from headtohead.model.batch import Batch
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import PADDING
from headtohead.train.runtime import missing_for_compile

CLOSE = 1e-5
"""In fp32, of numbers of size 1; of larger ones, of their size."""
EXACT = 1e-10
"""In fp64: whatever fp32 rounds away, the formula is the same."""


def gradients(model: Transformer, total: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
    return dict(zip(names, found, strict=True))


def loss_and_gradients(model: Transformer, batches: list[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
    model.requires_grad_(True)
    try:
        total = torch.stack([model.loss(batch, z_loss=1e-2).total for batch in batches]).sum()
        return total.detach(), gradients(model, total)
    finally:
        model.requires_grad_(False)


def assert_same(found: Tensor, expected: Tensor, close: float, what: str = "") -> None:
    size = max(1.0, float(expected.abs().max()))
    assert float((found - expected).abs().max()) <= close * size, what


def assert_same_gradients(
    found: dict[str, Tensor], expected: dict[str, Tensor], close: float = CLOSE
) -> None:
    for name, gradient in expected.items():
        assert_same(found[name], gradient, close, name)


@pytest.mark.parametrize("cell", cells())
def test_fused_equals_reference(cell: Cell) -> None:
    """States in fp32; states and gradients in fp64, where the kernel is the same and no rounding hides a fault."""
    with torch.no_grad():
        found, expected = (cell.model.hidden(cell.packed().streams, reference=way) for way in (False, True))
    assert_same(found, expected, CLOSE)
    streams, model = cell.packed().streams, cell.exact
    probe = torch.randn(model.architecture.d_model, generator=torch.Generator().manual_seed(1)).double()
    results = []
    model.requires_grad_(True)
    try:
        for reference in (True, False):
            h = model.hidden(streams, reference=reference)
            results.append((h.detach(), gradients(model, (h @ probe).sum())))
    finally:
        model.requires_grad_(False)
    (expected, slopes), (found, found_slopes) = results
    assert_same(found, expected, EXACT)
    assert_same_gradients(found_slopes, slopes, EXACT)


@pytest.mark.parametrize("kernel", [attention.attend_fused, attention.attend_kernel])
@pytest.mark.parametrize("by_head", [False, True])
def test_every_kernel_equals_the_reference_where_some_see_nothing(kernel, by_head: bool) -> None:
    g = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 4, t, 8, generator=g) for t in (6, 9, 9))
    visible = torch.rand(2, 4 if by_head else 1, 6, 9, generator=g) < 0.3
    visible[0, :, 2] = False
    mask = attention.Mask.of(visible)
    expected, weights = attention.attend_reference(q, k, v, mask)
    assert (weights[0, :, 2] == 0).all() and (expected[0, :, 2] == 0).all()
    assert ((weights > 0) == visible.expand_as(weights)).all()
    assert (kernel(q, k, v, mask) * mask.sees - expected).abs().max() <= CLOSE


@pytest.mark.parametrize("cell", cells())
def test_packed_equals_unpacked(cell: Cell) -> None:
    """Loss and gradients of three documents in a row, and of each in a row of its own."""
    examples = cell.examples[:3]
    packed = cell.layout().batch([examples])
    alone = [cell.layout(40, 24).batch([[example]]) for example in examples]
    found, slopes = loss_and_gradients(cell.model, [packed])
    expected, expected_slopes = loss_and_gradients(cell.model, alone)
    assert float(found) == pytest.approx(float(expected), rel=CLOSE)
    assert_same_gradients(slopes, expected_slopes)


@pytest.mark.parametrize("cell", cells("cached equals full"))
def test_cached_decoding_equals_the_full_pass(cell: Cell) -> None:
    """The input at once, then token by token; ragged rows: the numbers of input and output tokens differ."""
    assert_cached_equals_full(cell, one_by_one=False)


@pytest.mark.parametrize("cell", cells("cached one by one"))
def test_cached_decoding_token_by_token_equals_the_full_pass(cell: Cell) -> None:
    """Of a stream that holds both, the input too."""
    assert_cached_equals_full(cell, one_by_one=True)


@torch.no_grad()
def assert_cached_equals_full(cell: Cell, one_by_one: bool) -> None:
    streams = cell.alone().streams
    for model, close in ((cell.model, CLOSE), (cell.exact, EXACT)):
        full = model.hidden(streams)
        states, run = cached(model, streams, one_by_one=one_by_one)
        assert torch.equal(run, streams[cell.architecture.output_stream.name].document != PADDING)
        assert_same(states[run], full[run], close)


@pytest.mark.parametrize("cell", cells("greedy", tasks=False, holes=False))
@torch.no_grad()
def test_greedy_decoding_equals_choosing_from_the_full_pass(cell: Cell) -> None:
    """The decoding loop on its cache, ragged rows, against a full pass for every token."""
    layout, examples, steps = cell.layout(60, 40), cell.examples[:4], 8
    written = greedy(cell.model, layout, examples, steps)
    for example, found in zip(examples, written, strict=True):
        assert found == greedily(cell.model, layout, example, steps)


def greedily(model: Transformer, layout: Layout, example, steps: int) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < steps:
        # One token too many, never looked at: it makes a place that carries loss of the one before.
        shown = replace(example, output=np.array([*chosen, 7], np.int32), ends=False, where=None)
        batch = layout.batch([[shown]])
        place = int(batch.weights[0].nonzero()[-1])
        logits = model.logits(batch)[0, place]
        logits[[0, 1, 3, 4, 5, 6]] = float("-inf")
        token = int(logits.argmax())
        if token == 2:
            break
        chosen.append(token)
    return chosen


COMPILED = [
    "redllm",  # has blocks of both kinds: reads of its own alone, and of another stream too
    pytest.param("merged-attention", marks=pytest.mark.slow),
    pytest.param("double-decoder-full-blocks", marks=pytest.mark.slow),
]


@pytest.mark.skipif(missing_for_compile() is not None, reason="no C++ compiler")
@pytest.mark.parametrize("family", COMPILED)
def test_compiled_equals_eager(family: str) -> None:
    """Once for each code path of a block: reads of its own, of its own and another's; slow: merged, and
    unseen.
    """
    cell = Cell(family, TASKS["mixture"], "rope")
    eager = cell.model
    compiled = Transformer(ARCHITECTURES[family])
    compiled.load_state_dict(eager.state_dict())
    compiled.compile_blocks()
    found, slopes = loss_and_gradients(compiled, [cell.packed()])
    expected, expected_slopes = loss_and_gradients(eager, [cell.packed()])
    assert float(found) == pytest.approx(float(expected), rel=CLOSE)
    assert_same_gradients(slopes, expected_slopes)
