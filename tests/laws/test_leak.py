"""Law 1, no leak: an answer depends on exactly what its reach says, and each layer sees exactly what its rule
says.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.laws import plain
from tests.laws.cells import TEXTS, Cell, cells
from tests.laws.running import Streams, cached, plainly, supervised_tokens, taken, with_ids

from headtohead.data.tokenizers import FIRST
from headtohead.model.parts import Rope
from headtohead.model.reach import reach
from headtohead.model.visibility import PADDING, Coordinates

UNCHANGED, CHANGED = 1e-12, 1e-5
"""States of size 1 in fp64: below is rounding, above is an influence; nothing may lie between.

Not in fp32: a product of many copies of a row may round the last of them in another order than the first (41 rows
are forty and one to some kernels), by more than a faint influence is worth.
"""


def reach_of_row(cell: Cell, streams: Streams, row: int) -> dict[tuple[str, str], np.ndarray]:
    where = {
        name: Coordinates(*(field[row].numpy() for field in tokens.coordinates))
        for name, tokens in streams.items()
    }
    return reach(cell.architecture, where)


def perturbed(streams: Streams, row: int, name: str) -> Streams:
    """1 + T copies of a row: as it is, then each with another token at one place of the stream `name`."""
    places = streams[name].ids.shape[1]
    copies = {key: taken(tokens, [row] * (1 + places)) for key, tokens in streams.items()}
    ids = copies[name].ids.clone()
    ids[torch.arange(1, 1 + places), torch.arange(places)] += torch.where(ids[0] < 200, 50, -50)
    return {**copies, name: with_ids(copies[name], ids)}


def compare(states: torch.Tensor, expected: np.ndarray, what: str) -> None:
    """states (1 + Tk, Tq, d) of perturbed copies against the reach (Tq, Tk)."""
    difference = (states[1:] - states[:1]).abs().amax(dim=-1).T.numpy()
    leaks = np.argwhere(~expected & (difference > UNCHANGED)).tolist()
    assert not leaks, f"{what}: answers changed (query, key) out of reach: {leaks[:5]}"
    deaf = np.argwhere(expected & (difference < CHANGED)).tolist()
    assert not deaf, f"{what}: answers that should have changed (query, key): {deaf[:5]}"


@pytest.mark.parametrize("cell", cells())
@torch.no_grad()
def test_a_token_changes_what_it_reaches_and_nothing_else(cell: Cell) -> None:
    """Through packing: three documents in a row, and padding."""
    streams = cell.packed().streams
    last = cell.architecture.output_stream.name
    expected = reach_of_row(cell, streams, 0)
    for name in streams:
        states = cell.exact.hidden(perturbed(streams, 0, name))
        compare(states, expected[last, name], f"token of '{name}'")


@pytest.mark.parametrize("cell", cells())
def test_gradients_flow_along_the_reach_and_nowhere_else(cell: Cell) -> None:
    """Every place gets a token of its own, so the embedding's gradient says from which places an answer
    draws.
    """
    streams, number = {}, 0
    for name, tokens in cell.packed().streams.items():
        ids = torch.arange(number, number + tokens.ids.numel()).view_as(tokens.ids)
        number += tokens.ids.numel()
        streams[name] = with_ids(tokens, ids)
    expected = reach_of_row(cell, streams, 0)
    last = cell.architecture.output_stream.name
    model = cell.model
    width = model.architecture.width(model.architecture.output_stream).d_model
    probe = torch.randn(width, generator=torch.Generator().manual_seed(1))
    tables = {stream.name: model.table(stream) for stream in cell.architecture.streams}
    for table in tables.values():
        table.requires_grad_(True)
    try:
        answers = model.hidden(streams)[0] @ probe
        # All answers' gradients in one backward pass: (answers, V, d) for each table.
        gradients = torch.autograd.grad(
            answers,
            list(tables.values()),
            torch.eye(len(answers)),
            is_grads_batched=True,
            allow_unused=True,
            materialize_grads=True,
        )
        for name, gradient in zip(tables, gradients, strict=True):
            places = streams[name].ids[0]
            found = (gradient.abs().amax(dim=2)[:, places] != 0).numpy()
            wrong = np.argwhere(found != expected[last, name]).tolist()
            assert not wrong, f"gradients into '{name}' (query, key): {wrong[:5]}"
    finally:
        for table in tables.values():
            table.requires_grad_(False)


@pytest.mark.parametrize("cell", cells("the same through the cache"))
@torch.no_grad()
def test_a_token_changes_the_same_through_the_cache(cell: Cell) -> None:
    streams = cell.alone(1).streams
    expected = reach_of_row(cell, streams, 0)
    last = cell.architecture.output_stream.name
    for name in streams:
        states, run = cached(cell.exact, perturbed(streams, 0, name))
        ran = run[0].numpy()
        compare(states[:, run[0]], expected[last, name][ran], f"cached, token of '{name}'")


@pytest.mark.parametrize("cell", cells())
@torch.no_grad()
def test_attention_weights_are_zero_exactly_where_the_rule_says(cell: Cell) -> None:
    batch = cell.packed()
    found = cell.model.attention_weights(batch)
    a = cell.architecture
    for stream in a.streams:
        for index, layer in enumerate(stream.expanded):
            for s, reads in enumerate(layer.sublayers):
                visible = np.concatenate([_mask(cell, batch.streams, stream.name, r) for r in reads], axis=2)
                weights = found[stream.name, index, s][0].numpy()
                assert weights.shape == visible.shape
                wrong = np.argwhere((weights != 0) != visible).tolist()
                assert not wrong, f"{stream.name} layer {index} sublayer {s}: (head, query, key) {wrong[:5]}"
                if reads[0].mixer == "linear" and isinstance(layer.positions or a.positions, Rope):
                    continue  # RoPE turns the numerators alone: these weights sum to something else
                sums = weights.sum(axis=2)
                assert np.allclose(sums, visible.any(axis=2), atol=1e-5)


def _mask(cell: Cell, streams: Streams, stream: str, read) -> np.ndarray:
    a = cell.architecture
    heads = a.width(a.stream(stream)).heads
    return plain.mask(read.visibility, plainly(streams[stream], 0), plainly(streams[read.keys], 0), heads)


@pytest.mark.parametrize("cell", cells("no answer sees itself", holes=False))
@torch.no_grad()
def test_no_answer_sees_itself_or_what_follows(cell: Cell) -> None:
    """At the level of the task: rewriting an example from target t on changes no prediction up to t.

    This holds whatever the rules say, so it also catches a rule or a layout that lets an answer be copied.
    """
    for example in cell.examples[:2]:
        asked = supervised_tokens(cell, example)
        length = len(asked) - example.ends
        before = len(example.input) if cell.task.supervise == "all" else 0
        rows = []
        for t in range(length):
            changed = [(token - 7 + 101) % 256 + 7 for token in asked[:length][t:]]
            text = np.array([*asked[:t], *changed], np.int32)
            ins = text[:before] if before else example.input
            rows.append([replace(example, input=ins, output=text[before:])])
        batch = cell.layout(40, 24).batch([[example], *rows])
        h = cell.exact.hidden(batch.streams)
        places = batch.weights[0].nonzero().squeeze(1)
        assert batch.targets[0, places].tolist() == asked
        for t in range(length):
            upto = places[: t + 1]
            difference = (h[t + 1, upto] - h[0, upto]).abs().max()
            assert difference <= UNCHANGED, f"the prediction of target {t} or an earlier one saw target {t}"
            if t + 1 < len(places):
                assert (h[t + 1, places[t + 1]] - h[0, places[t + 1]]).abs().max() > CHANGED


@pytest.mark.parametrize("cell", cells(written=False))
def test_what_is_hidden_is_nowhere_to_be_seen(cell: Cell) -> None:
    """Holes answered in place: at its place stands the mask, a random token or, one time in ten, itself; and
    another answer is another target, nothing else.
    """
    for example in cell.examples[:6]:
        assert example.where is not None and len(example.output)
        batch = cell.layout(40, 24).batch([[example]])
        places = batch.weights[0].nonzero().squeeze(1)
        assert batch.targets[0, places].tolist() == supervised_tokens(cell, example)
        (tokens,) = batch.streams.values()
        whole = tokens.ids[0].clone()
        whole[places] = batch.targets[0, places]
        text = whole[(tokens.document[0] != PADDING) & (whole >= FIRST) & (whole < FIRST + 256)]
        assert len(text) == sum(e.held[0] for e in [example]) + len(example.shown)
        other = replace(example, output=np.array([(t - FIRST + 101) % 256 + FIRST for t in example.output]))
        again = cell.layout(40, 24).batch([[other]])
        assert torch.equal(again.streams[cell.architecture.output_stream.name].ids, tokens.ids)


@pytest.mark.parametrize("cell", cells(tasks=False))
def test_packing_puts_real_documents_side_by_side(cell: Cell) -> None:
    """What the tests above rely on: three documents of different texts in the row, and padding."""
    batch = cell.packed()
    assert len(TEXTS) >= 3
    for tokens in batch.streams.values():
        assert set(tokens.document[0].tolist()) == {0, 1, 2, PADDING}
