"""Baselines: probabilities that are some, by hand, against a slow reference, and the exact sums xz is
counted by.
"""

from __future__ import annotations

import lzma
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headtohead.errors import UserError
from headtohead.measure.baselines import NGram, baselines

TEXT = (
    b"Fellow citizens of the Senate and House of Representatives, "
    b"the state of the Union is sound; the Senate and the House are in session. "
)
TRAINED = NGram.train([TEXT, b"", TEXT[::-1], b"x"], 5)


@settings(max_examples=60, deadline=None)
@given(context=st.one_of(st.binary(max_size=8), st.sampled_from([TEXT[i : i + 6] for i in range(60)])))
def test_probabilities_sum_to_one_over_all_bytes(context: bytes) -> None:
    p = TRAINED.distribution(context)
    assert p.shape == (256,) and (p > 0).all()
    assert p.sum() == pytest.approx(1.0, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(
    documents=st.lists(st.binary(max_size=40), max_size=4),
    context=st.binary(max_size=3),
    order=st.integers(1, 8),
)
def test_they_do_for_any_training_text(documents: list[bytes], context: bytes, order: int) -> None:
    assert NGram.train(documents, order).distribution(context).sum() == pytest.approx(1.0, abs=1e-12)


def test_by_hand() -> None:
    """Trained on "aab", order 2. Bytes: a 2, b 1, so 3 in all of 2 kinds; after a: a 1, b 1, of 2 kinds.

    p(a) = (2 + 2/256) / (3 + 2), p(b) = (1 + 2/256) / 5, p(c) = (0 + 2/256) / 5.
    p(a|a) = (1 + 2 p(a)) / (2 + 2). Nothing follows b, so p(a|b) = p(a).
    """
    model = NGram.train([b"aab"], 2)
    a, b, c = (2 + 2 / 256) / 5, (1 + 2 / 256) / 5, (2 / 256) / 5
    first = model.distribution(b"")
    assert first[ord("a")] == pytest.approx(a) and first[ord("b")] == pytest.approx(b)
    assert first[ord("c")] == pytest.approx(c)
    after_a = model.distribution(b"a")
    assert after_a[ord("a")] == pytest.approx((1 + 2 * a) / 4)
    assert after_a[ord("c")] == pytest.approx(2 * c / 4)
    assert model.distribution(b"b")[ord("a")] == pytest.approx(a)
    expected = -math.log2(a) - math.log2((1 + 2 * b) / 4)
    assert model.bits([(b"", b"ab")]) == pytest.approx([expected])
    assert model.bits([(b"a", b"b"), (b"", b""), (b"b", b"a")]) == pytest.approx(
        [-math.log2((1 + 2 * b) / 4), 0.0, -math.log2(a)]
    )


def slow_probability(documents: list[bytes], order: int, context: bytes, byte: int) -> float:
    """Witten-Bell as its formula reads."""
    p = 1 / 256
    for n in range(1, order + 1):
        if n - 1 > len(context):
            break
        h = context[len(context) - (n - 1) :]
        followers = Counter(
            d[i + n - 1] for d in documents for i in range(len(d) - n + 1) if d[i : i + n - 1] == h
        )
        if followers:
            p = (followers[byte] + len(followers) * p) / (followers.total() + len(followers))
    return p


@settings(max_examples=40, deadline=None)
@given(
    documents=st.lists(st.text("abc", max_size=30).map(str.encode), min_size=1, max_size=3),
    prefix=st.text("abcd", max_size=6).map(str.encode),
    output=st.text("abcd", max_size=6).map(str.encode),
    order=st.integers(1, 5),
)
def test_equals_the_formula(documents: list[bytes], prefix: bytes, output: bytes, order: int) -> None:
    text = prefix + output
    expected = -sum(
        math.log2(slow_probability(documents, order, text[:i], text[i]))
        for i in range(len(prefix), len(text))
    )
    found = NGram.train(documents, order).bits([(b"zz", b"y"), (prefix, output)])[1]
    assert found == pytest.approx(expected, abs=1e-9)


def test_beats_uniform_and_gains_from_order_and_context() -> None:
    words = b"the union of the states and the people of the union "
    rng = np.random.default_rng(0)
    text = b" ".join(words.split()[i] for i in rng.integers(0, 10, 3000))
    train, held_out = text[:12000], text[12000:]
    rates = [NGram.train([train], order).bits([(b"", held_out)])[0] / len(held_out) for order in (1, 2, 3, 5)]
    assert 8 > rates[0] > rates[1] > rates[2] > rates[3]
    model = NGram.train([train], 5)
    half = len(held_out) // 2
    apart = model.bits([(b"", held_out[:half]), (held_out[:half], held_out[half:])]).sum()
    assert apart == pytest.approx(model.bits([(b"", held_out)])[0])
    assert model.bits([(b"", held_out[half:])])[0] > model.bits([(held_out[:half], held_out[half:])])[0]


def test_no_ngram_crosses_documents() -> None:
    model = NGram.train([b"ab", b"ca"], 2)
    assert model.distribution(b"b")[ord("c")] == pytest.approx(model.distribution(b"")[ord("c")])


@pytest.mark.parametrize("order", [0, 9])
def test_orders_that_dont_fit_are_refused(order: int) -> None:
    with pytest.raises(ValueError, match=str(order)):
        NGram.train([b"abc"], order)


def test_xz_is_counted_as_it_says() -> None:
    training = ["We the people. " * 40, "Ünïon, " * 30]
    pairs = [("We the ", "people. Ünïon"), ("of the ", "people, by the people")]
    found = baselines(training, {"continuation": pairs, "restoration": [("", x + y) for x, y in pairs]})
    assert list(found) == ["xz", "xz after the training text", "5-gram"]

    def raw(text: str) -> int:
        method = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 2**20}
        return len(lzma.compress(text.encode(), format=lzma.FORMAT_RAW, filters=[method]))

    t = "".join(training)
    outputs = "".join(y for _, y in pairs).encode()
    whole = "".join(x + y for x, y in pairs)
    added = raw(t + whole) - raw(t + "We the of the ")
    assert found["xz after the training text"]["continuation"] == pytest.approx(8 * added / len(outputs))
    added = raw(t + whole) - raw(t)
    assert found["xz after the training text"]["restoration"] == pytest.approx(
        8 * added / len(whole.encode())
    )
    alone = len(lzma.compress(outputs, preset=9 | lzma.PRESET_EXTREME))
    assert found["xz"]["continuation"] == pytest.approx(8 * alone / len(outputs))
    model = NGram.train([t.encode() for t in training])
    bits = model.bits([(x.encode(), y.encode()) for x, y in pairs]).sum()
    assert found["5-gram"]["continuation"] == pytest.approx(bits / len(outputs))


def test_nothing_to_score_is_named() -> None:
    with pytest.raises(UserError, match="restoration"):
        baselines(["text"], {"restoration": [("input", "")]})
