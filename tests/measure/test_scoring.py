"""Scores of tiny networks: over the right tokens, in the right order, and the same whatever they are
batched with.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from headtohead.data.layouts import Layout
from headtohead.data.objectives import wrong_inputs
from headtohead.data.shards import CONTINUE, RESTORE, Example
from headtohead.errors import UserError
from headtohead.measure.scoring import (
    all_token_nats,
    bits_per_byte,
    by_document,
    score_examples,
    value_of_input,
)
from headtohead.model.architecture import Architecture, one_stack, two_stacks
from headtohead.model.parts import Norms
from headtohead.model.transformer import Transformer

VOCABULARY = 30
ROW, SIDE = 40, 24
SIZES: dict[str, Any] = {
    "d_model": 16,
    "heads": 2,
    "d_head": 8,
    "vocabulary": VOCABULARY,
    "norms": Norms(query_key=True, value=True, output=True),
}
ARCHITECTURES = [
    one_stack("causal", "causal", depth=2, d_ff=32, **SIZES),
    one_stack("prefix", "prefix", depth=2, d_ff=32, **SIZES),
    two_stacks("two-causal", "causal", depths=(1, 1), d_ff=32, **SIZES),
    two_stacks("two-full", "full", depths=(1, 1), d_ff=32, **SIZES),
]
each_architecture = pytest.mark.parametrize("network", ARCHITECTURES, ids=lambda a: a.name)


def some(count: int, seed: int = 0) -> list[Example]:
    """Examples of both regions in turn, from 4 documents, of 1-12 tokens a side (the input may be empty)."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        restore = i % 2 == 1
        text = (
            rng.integers(7, VOCABULARY, rng.integers(0, 13)),
            rng.integers(7, VOCABULARY, rng.integers(1, 13)),
        )
        made.append(
            Example(
                text[0].astype(np.int32),
                text[1].astype(np.int32),
                RESTORE if restore else CONTINUE,
                restore,
                i % 4,
                "restoration" if restore else "continuation",
                3 * len(text[1]),
                3 * len(text[0]),
            )
        )
    return made


def layout(network: Architecture, supervise: Any = "output") -> Layout:
    return Layout(network, supervise, ROW, SIDE)


def livelier(network: Architecture) -> Transformer:
    """Weights far from their start, so that contexts matter to every score."""
    model = Transformer(network, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model


@each_architecture
def test_equals_the_log_probabilities_of_each_example_alone(network: Architecture) -> None:
    model, examples = livelier(network), some(23)
    expected = []
    for example in examples:
        batch = layout(network).batch([[example]])
        logits = model.logits(batch)[0].double()
        start = 0 if network.two_streams else 1 + len(example.input)  # the place of <start>
        log_p = torch.log_softmax(logits, dim=-1).detach()
        expected.append(-sum(float(log_p[start + i, int(t)]) for i, t in enumerate(example.output)))
    found = score_examples(model, layout(network), examples, rows_per_batch=3)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


@each_architecture
def test_batch_and_neighbours_do_not_change_a_score(network: Architecture) -> None:
    model, examples = livelier(network), some(31, seed=1)
    one = score_examples(model, layout(network), examples, rows_per_batch=1)
    for rows_per_batch in (2, 7, 64):
        np.testing.assert_allclose(
            score_examples(model, layout(network), examples, rows_per_batch), one, atol=1e-4, rtol=0
        )
    shuffled = np.random.default_rng(0).permutation(len(examples))
    others = score_examples(model, layout(network), [examples[i] for i in shuffled], 5)
    np.testing.assert_allclose(others, one[shuffled], atol=1e-4, rtol=0)
    wider = Layout(network, "output", 3 * ROW, 3 * SIDE)
    np.testing.assert_allclose(score_examples(model, wider, examples, 2), one, atol=1e-4, rtol=0)


@each_architecture
def test_a_network_that_knows_nothing_pays_ln_v_for_each_output_token(network: Architecture) -> None:
    model, examples = Transformer(network), some(9)
    with torch.no_grad():
        model.embedding.zero_()
    nats = score_examples(model, layout(network), examples, 4)
    np.testing.assert_allclose(nats, [len(e.output) * math.log(VOCABULARY) for e in examples], rtol=1e-6)
    # 3 bytes a token in `some`: log2(30) / 3 bits per byte, whatever the mixture of lengths.
    assert bits_per_byte(examples, nats, "restoration") == pytest.approx(math.log2(VOCABULARY) / 3)
    assert math.isnan(bits_per_byte(examples, nats, "no such region"))
    value = value_of_input(
        model, layout(network), examples, wrong_inputs(examples), nats, ("continuation", "restoration"), 4
    )
    assert value == pytest.approx({"continuation": 0.0, "restoration": 0.0}, abs=1e-6)


def test_loss_on_every_token_changes_no_score() -> None:
    network = ARCHITECTURES[0]
    model, examples = livelier(network), some(17)
    on_output = score_examples(model, layout(network), examples, 4)
    np.testing.assert_allclose(
        score_examples(model, layout(network, "all"), examples, 4), on_output, atol=1e-4
    )


def test_all_tokens_are_the_text_of_input_and_output() -> None:
    network = ARCHITECTURES[0]
    model, examples = livelier(network), some(17)
    expected = []
    for example in examples:
        batch = layout(network).batch([[example]])
        log_p = torch.log_softmax(model.logits(batch)[0].double(), dim=-1).detach()
        n = len(example.input)
        places = [(i, int(t)) for i, t in enumerate(example.input)]
        places += [(1 + n + i, int(t)) for i, t in enumerate(example.output)]
        expected.append(-sum(float(log_p[i, t]) for i, t in places))
    found = all_token_nats(model, layout(network, "all"), examples, 3)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="every token"):
        all_token_nats(model, layout(network), examples, 3)


def test_a_training_model_in_bf16_autocast_is_scored_in_fp32_and_left_as_it_was() -> None:
    network = ARCHITECTURES[1]
    model, examples = livelier(network), some(8)
    model.train()
    expected = score_examples(model, layout(network), examples, 4)
    assert model.training
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(score_examples(model, layout(network), examples, 4), expected)


def test_by_document_adds_up_to_the_whole() -> None:
    examples = some(12)
    nats = np.arange(1.0, 13.0)
    found = by_document(examples, nats, "continuation")
    assert found.documents == (0, 2)  # continuation is every other example, documents go 0 1 2 3
    assert found.bits == pytest.approx(((1 + 5 + 9) / math.log(2), (3 + 7 + 11) / math.log(2)))
    assert found.bytes == tuple(
        sum(e.output_bytes for e in examples if e.document == d and e.region == "continuation")
        for d in (0, 2)
    )
    assert sum(found.bits) / sum(found.bytes) == pytest.approx(bits_per_byte(examples, nats, "continuation"))


def test_too_long_an_example_is_named() -> None:
    network = ARCHITECTURES[0]
    long = replace(some(1)[0], output=np.full(60, 9, np.int32))
    with pytest.raises(UserError, match="60 output tokens"):
        score_examples(Transformer(network), layout(network), [*some(3), long], 2)
