"""Lengths beyond training: the same bytes at each, positions where they are, attention against its own weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.data.small import prose

from headtohead.data.objectives import CausalLM, Codes, PrefixLM
from headtohead.data.tokenizers import ByteTokenizer
from headtohead.errors import UserError
from headtohead.generate import prompts
from headtohead.measure.lengths import (
    NEAR,
    as_json,
    at_lengths,
    attention_of,
    blocks_of,
    pieces_of,
    reader_of,
)
from headtohead.measure.likelihood import Row
from headtohead.model.architecture import Architecture, one_stack, two_stacks
from headtohead.model.attention import Recorder
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import INPUT

TOKENIZER = ByteTokenizer()
SIZES: dict[str, Any] = {
    "d_model": 16,
    "heads": 2,
    "d_head": 8,
    "d_ff": 32,
    "vocabulary": TOKENIZER.vocabulary,
}
ONE = one_stack("one", "causal", depth=2, **SIZES)
PREFIX = one_stack("prefix", "prefix", depth=2, **SIZES)
TWO = two_stacks("two", "full", depths=(1, 2), **SIZES)
TABLE = one_stack("table", "causal", depth=1, positions={"kind": "learned", "length": 80}, **SIZES)
TEXTS = [prose(i, 1500) for i in range(3)]


def livelier(a: Architecture) -> Transformer:
    model = Transformer(a, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model.eval()


@given(st.text(min_size=60, max_size=400), st.integers(8, 40))
def test_the_same_bytes_are_scored_at_each_length(text: str, length: int) -> None:
    scored = {"".join(piece for _, piece in pieces_of(text, length * times)) for times in (1, 2, 4)}
    assert len(scored) == 1 and text.endswith(scored.pop())
    half = len("".join(piece for _, piece in pieces_of(text, length)).encode())
    assert half >= len(text.encode()) / 2
    for before, piece in pieces_of(text, length):
        assert before + piece in text


def test_blocks_are_spread_over_the_texts() -> None:
    cut = blocks_of(TEXTS, 256, 5)
    blocks = [block for _, block in cut]
    assert all(block in TEXTS[place] for place, block in cut)
    assert len(blocks) == 5 and all(240 <= len(block.encode()) <= 272 for block in blocks)
    assert {i for block in blocks for i, text in enumerate(TEXTS) if block in text} == {0, 1, 2}
    with pytest.raises(UserError, match="no text is 100000 bytes long"):
        blocks_of(TEXTS, 100_000, 5)


@pytest.mark.parametrize("a", [ONE, PREFIX, TWO], ids=lambda a: a.name)
def test_figures_are_those_of_the_pieces(a: Architecture) -> None:
    manner = (CausalLM() if a is ONE else PrefixLM()).manner(Codes(TOKENIZER))
    reader = reader_of(livelier(a), TOKENIZER, manner)
    blocks = [block for _, block in blocks_of(TEXTS, 256, 4)]
    found = at_lengths(reader, blocks, 64, (1, 2, 4))
    assert [at.bytes for at in found] == [64, 128, 256]
    assert found[0].rise == 0
    for at in found:
        bits = np.zeros(len(blocks))
        sizes = 0
        for number, block in enumerate(blocks):
            inputs, outputs = map(list, zip(*pieces_of(block, at.bytes), strict=True))
            bits[number] = sum(nats.sum() for nats in reader.nats(inputs, outputs, 3)) / math.log(2)
            sizes += sum(len(text.encode()) for text in outputs)
        assert at.bits == pytest.approx(bits, abs=1e-3)
        assert at.bits_per_byte == pytest.approx(bits.sum() / sizes, abs=1e-5)
        assert at.rise == pytest.approx((bits.sum() - found[0].bits.sum()) / sizes, abs=1e-5)
        assert at.by_position[0].first == at.bytes // 2
        assert {s.last - s.first for s in at.by_position} == {32}
        low, high = (pick(s.bits_per_byte for s in at.by_position) for pick in (min, max))
        assert low <= at.bits_per_byte + 0.2 and at.bits_per_byte - 0.2 <= high
        assert at.attention is not None and len(at.attention.by_layer) == 2
    assert as_json(found)[1]["by_position"][0]["first"] == 64


def test_beyond_a_table_of_positions_there_is_nothing_to_look_up() -> None:
    reader = reader_of(livelier(TABLE), TOKENIZER, CausalLM().manner(Codes(TOKENIZER)))
    blocks = [block for _, block in blocks_of(TEXTS, 256, 2)]
    found = at_lengths(reader, blocks, 64, (1, 2, 4), attention=False)
    assert found[0].refused is None and found[0].attention is None
    assert found[1].refused is not None and "a table of 80 tokens, and this needs" in found[1].refused
    assert [set(one) for one in as_json(found)[1:]] == [{"times", "bytes", "refused"}] * 2


@torch.no_grad()
@pytest.mark.parametrize("a", [ONE, PREFIX, TWO], ids=lambda a: a.name)
def test_shares_are_those_of_the_weights(a: Architecture) -> None:
    """Row by row, from the weights themselves."""
    model = livelier(a)
    rng = np.random.default_rng(4)
    rows = [
        Row([6, *rng.integers(7, 200, n)], [1], [int(i) for i in rng.integers(7, 200, m)])
        for n, m in ((9, 7), (3, 12))
    ]
    found = attention_of(model, rows, batch_size=2)
    near = own = cross_near = cross = on_input = places = 0.0
    for row in rows:
        streams = prompts.rows_of(a, [list(row.shown)], [[*row.begun, *row.asked]])
        recorder = Recorder()
        model.hidden(streams, recorder=recorder)
        name = a.output_stream.name
        for (stream, layer, sublayer), weights in recorder.weights.items():
            if stream != name:
                continue
            (read,) = a.output_stream.expanded[layer].sublayers[sublayer]
            keys, queries = streams[read.keys], streams[name]
            first = len(row.begun) - 1 + (0 if a is TWO else len(row.shown))
            for place in range(first, first + len(row.asked)):
                w = weights[0, :, place].mean(dim=0)
                places += 1
                on_input += float(w[keys.part[0] == INPUT].sum())
                if read.keys != name:
                    cross += float(w.sum())
                    cross_near += float(w[-NEAR:].sum())
                else:
                    here = int(queries.position[0, place])
                    which = (keys.position[0] <= here) & (keys.position[0] > here - NEAR)
                    own, near = own + float(w.sum()), near + float(w[which].sum())
    assert found.local == pytest.approx(near / own, abs=1e-5)
    assert found.input == pytest.approx(on_input / places, abs=1e-5)
    if a is TWO:
        assert found.cross_local == pytest.approx(cross_near / cross, abs=1e-5)
        assert found.input == pytest.approx(0.5, abs=1e-5)
    else:
        assert found.cross_local is None and found.local is not None and 0.1 < found.local < 0.99
