"""Scores of token rows: of every family, whatever they are batched with and on which side they are padded; and
pseudo-likelihoods against a plain loop.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.laws.cells import ARCHITECTURES, fills_holes
from tests.laws.cells import _model as model_of

from headtohead.errors import UserError
from headtohead.generate import prompts
from headtohead.measure.likelihood import Filled, Row, pseudo_nats, token_nats
from headtohead.measure.scoring import over_documents

NATS = 1e-4
MASK, MARGIN = 300, 2
"""Beyond these nats two rows are different; a test in which all rows cost the same would see nothing."""


def tokens(rng: np.random.Generator, low: int, high: int) -> list[int]:
    return [int(i) for i in rng.integers(7, 300, rng.integers(low, high))]


def rows_of(seed: int, count: int = 33) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [Row([6, *tokens(rng, 0, 12)], [1, *tokens(rng, 0, 3)], tokens(rng, 0, 12)) for _ in range(count)]


def texts_of(seed: int, count: int = 9) -> list[Filled]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        before, text = [6, *tokens(rng, 0, 6)], tokens(rng, 1, 7)
        words = np.cumsum(rng.random(len(text)) < 0.5).tolist()
        found.append(Filled([*before, *text, 2], len(before), words))
    return found


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_batch_size_order_and_padding_change_no_score(family: str) -> None:
    model = model_of(family, "own")
    shuffled = np.random.default_rng(5).permutation
    if fills_holes(family):
        texts = texts_of(1)
        ask = lambda some, **how: pseudo_nats(model, some, MASK, **how)  # noqa: E731
    else:
        texts = rows_of(1)
        ask = lambda some, **how: token_nats(model, some, **how)  # noqa: E731
    alone = ask(texts, batch_size=1)
    assert np.ptp([nats.sum() for nats in alone]) > MARGIN
    for batch_size, left in ((7, False), (32, False), (1, True), (7, True), (32, True)):
        order = [int(i) for i in shuffled(len(texts))]
        found = ask([texts[i] for i in order], batch_size=batch_size, left=left, pad=3)
        for place, nats in zip(order, found, strict=True):
            assert nats.shape == alone[place].shape
            assert np.abs(nats - alone[place]).max(initial=0) < NATS, (batch_size, left)


@torch.no_grad()
@pytest.mark.parametrize("family", [f for f in ARCHITECTURES if fills_holes(f)][:3])
def test_a_pseudo_likelihood_hides_the_rest_of_the_word(family: str) -> None:
    """Kauf and Ivanova's PLL-word-l2r, token by token, one at a time."""
    model = model_of(family, "own")
    for text, found in zip(texts_of(2, 4), pseudo_nats(model, texts_of(2, 4), MASK), strict=True):
        for place, word in enumerate(text.words):
            at = text.first + place
            ids = list(text.ids)
            for later in range(place, len(text.words)):
                if text.words[later] == word:
                    ids[text.first + later] = MASK
            streams = prompts.rows_of(model.architecture, [ids], [[]])
            logits = model.next_logits(model.hidden(streams))[0, at]
            assert found[place] == pytest.approx(-float(logits.log_softmax(-1)[text.ids[at]]), abs=NATS)


def test_nothing_before_the_first_token_is_told() -> None:
    model = model_of("gpt-2", "own")
    with pytest.raises(UserError, match="has no token that begins a text"):
        token_nats(model, [Row([], [], [9])])
    with pytest.raises(UserError, match="learned positions for 64 tokens, and this needs 70"):
        token_nats(model, [Row([9] * 35, [], [9] * 35)])
    with pytest.raises(UserError, match="batch_size = 0"):
        token_nats(model, [Row([9], [], [9])], batch_size=0)
    assert token_nats(model, []) == []


def test_the_standard_error_of_a_ratio_covers_it() -> None:
    """Documents of very different sizes: the interval of 2 standard errors holds the true ratio 95 times of 100."""
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(400):
        sizes = rng.integers(100, 10_000, 40)
        bits = sizes * (1.5 + 0.2 * rng.standard_normal(40))
        ratio, error = over_documents(bits, sizes)
        inside += abs(ratio - 1.5) < 1.96 * error
    assert 0.91 < inside / 400 < 0.98
    assert np.isnan(over_documents([3.0], [2])[1])
