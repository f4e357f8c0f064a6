"""Greedy decoding on the cache, against reading everything anew for each token."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from headtohead.data.layouts import Layout
from headtohead.data.shards import END, PAIR, SPECIALS, Example
from headtohead.errors import UserError
from headtohead.generate.decoding import greedy
from headtohead.generate.prompts import prompts
from headtohead.model.architecture import Architecture, one_stack, two_stacks
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import PADDING

SIZES = {"d_model": 16, "heads": 2, "d_head": 8, "vocabulary": 40}
NETWORKS = [
    one_stack("causal", "causal", depth=2, d_ff=32, **SIZES),
    one_stack("prefix", "prefix", depth=2, d_ff=32, **SIZES),
    two_stacks("two-full", "full", depths=(2, 2), d_ff=32, **SIZES),
    two_stacks("two-causal", "causal", depths=(1, 2), d_ff=32, **SIZES),
]


def example(length: int, seed: int) -> Example:
    ids = np.random.default_rng(seed).integers(len(SPECIALS), SIZES["vocabulary"], length).astype(np.int32)
    return Example(ids, ids[:0], PAIR, True, 0, "answer", 0, length)


def by_reading_anew(model: Transformer, layout: Layout, start: Example, tokens: int) -> list[int]:
    written: list[int] = []
    while len(written) < tokens:
        so_far = replace(start, output=np.array(written, np.int32), ends=False)
        batch = layout.batch([[so_far]])
        logits = model.logits(batch)[0]
        last = int((batch.streams[model.architecture.output_stream.name].document[0] != PADDING).sum()) - 1
        scores = logits[last]
        scores[[i for i in range(len(SPECIALS)) if i != END]] = float("-inf")
        token = int(scores.argmax())
        if token == END:
            break
        written.append(token)
    return written


@pytest.mark.parametrize("network", NETWORKS, ids=lambda a: a.name)
def test_a_ragged_batch_is_written_as_each_row_by_itself(network: Architecture) -> None:
    model = Transformer(network, seed=3).eval()
    layout = Layout(network, "output", row=64, side=32)
    starts = [example(length, seed) for seed, length in enumerate((1, 9, 4))]
    with torch.no_grad():
        expected = [by_reading_anew(model, layout, start, 8) for start in starts]
    assert greedy(model, layout, starts, 8) == expected
    assert any(expected)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda a: a.name)
def test_writing_stops_at_the_end_and_never_writes_a_special(network: Architecture) -> None:
    model = Transformer(network, seed=0).eval()
    layout = Layout(network, "output", row=64, side=32)
    starts = [example(5, seed) for seed in range(4)]
    with (
        torch.no_grad()
    ):  # after the first row's prompt, and perhaps elsewhere, <end> is the likeliest by far
        model.embedding[END] = 100 * model.hidden(prompts(layout, starts[:1]))[0, -1]
    written = greedy(model, layout, starts, 12)
    assert written[0] == []
    assert all(token >= len(SPECIALS) for row in written for token in row)


def test_prompts_hold_no_output() -> None:
    layout = Layout(NETWORKS[2], "output", row=64, side=32)
    start = replace(example(5, 0), output=np.array([20, 21], np.int32))
    streams = prompts(layout, [start])
    assert streams["input"].ids.shape == (1, 6)
    assert streams["output"].ids.shape == (1, 1)


def test_a_network_whose_output_sees_ahead_is_refused() -> None:
    network = one_stack("ahead", "full", depth=1, d_ff=32, **SIZES)
    layout = Layout(NETWORKS[0], "output", row=64, side=32)
    with pytest.raises(UserError, match="ahead can't write token by token"):
        greedy(Transformer(network), layout, [example(5, 0)], 4)
