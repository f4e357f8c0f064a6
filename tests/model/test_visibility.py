"""Visibility: what a rule says, its mask in every form, its count, and the way it is written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.plain import Token, mask
from torch.nn.attention.flex_attention import create_mask

from headtohead.errors import UserError
from headtohead.model import visibility as rules
from headtohead.model.visibility import (
    INPUT,
    OUTPUT,
    Both,
    ByHead,
    Coordinates,
    Either,
    Visibility,
    by_head,
    causal,
    prefix,
    same_document,
    sequence,
)

UNHURRIED = settings(deadline=None)  # a busy machine is no failure

leaves = st.sampled_from(list(rules.WORDS.values())) | st.builds(
    lambda make, n: make(n), st.sampled_from(list(rules.SIZED.values())), st.integers(1, 5)
)
visibilities = st.recursive(
    leaves,
    lambda inner: (
        st.builds(Both, inner, inner)
        | st.builds(Either, inner, inner)
        | st.lists(inner, min_size=2, max_size=3).map(lambda some: ByHead(tuple(some)))
    ),
    max_leaves=6,
)
tokens = st.lists(
    st.builds(
        Token, position=st.integers(0, 9), document=st.integers(-1, 2), part=st.sampled_from([INPUT, OUTPUT])
    ),
    min_size=1,
    max_size=7,
)


def coordinates(some: list[Token]) -> Coordinates:
    return Coordinates(*(np.array([getattr(t, name) for t in some]) for name in Coordinates._fields))


def tensors(c: Coordinates) -> Coordinates:
    return Coordinates(*(torch.from_numpy(array)[None] for array in c))


@given(visibilities)
@UNHURRIED
def test_str_and_parse_are_inverse(rule: Visibility) -> None:
    assert Visibility.parse(str(rule)) == rule
    assert hash(Visibility.parse(str(rule))) == hash(rule)


@given(visibilities, tokens, tokens, st.sampled_from([3, 4, 6]))
@UNHURRIED
def test_dense_is_what_the_rule_says_pair_by_pair(
    rule: Visibility, q: list[Token], k: list[Token], heads: int
) -> None:
    dense = rule.dense(coordinates(q), coordinates(k), heads)
    assert dense.dtype == bool
    assert dense.shape == (heads if rule.differs_by_head else 1, len(q), len(k))
    assert (dense == mask(rule, q, k, heads)).all()


@given(visibilities, tokens, tokens, st.sampled_from([3, 4]))
@UNHURRIED
def test_count_is_the_sum_of_the_mask(rule: Visibility, q: list[Token], k: list[Token], heads: int) -> None:
    assert rule.count(coordinates(q), coordinates(k), heads) == mask(rule, q, k, heads).sum()


def test_count_is_the_same_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    rule, where = by_head(causal, prefix) & same_document, sequence(9, 8)
    whole = rule.count(where, where, 4)
    monkeypatch.setattr(rules, "ROWS_AT_ONCE", 5)
    assert rule.count(where, where, 4) == whole


@given(visibilities, tokens, tokens)
@UNHURRIED
def test_tensors_give_the_same_mask_as_arrays(rule: Visibility, q: list[Token], k: list[Token]) -> None:
    arrays = rule.dense(coordinates(q), coordinates(k), 4)
    dense = rule.dense(tensors(coordinates(q)), tensors(coordinates(k)), 4)
    assert dense.dtype == torch.bool
    assert (dense[0].numpy() == arrays).all()


@given(visibilities, tokens, tokens)
@settings(max_examples=15, deadline=None)
def test_mask_mod_gives_flex_attention_the_same_mask(
    rule: Visibility, q: list[Token], k: list[Token]
) -> None:
    where_q, where_k = tensors(coordinates(q)), tensors(coordinates(k))
    made = create_mask(rule.mask_mod(where_q, where_k, 4), 1, 4, len(q), len(k), device="cpu")
    assert torch.equal(made, rule.dense(where_q, where_k, 4).expand(1, 4, -1, -1))


@given(visibilities, tokens)
@UNHURRIED
def test_append_only_means_that_nobody_sees_a_later_position(rule: Visibility, some: list[Token]) -> None:
    seen = mask(rule, some, some, 4).any(axis=0)
    later = [[k.position > q.position for k in some] for q in some]
    where = coordinates(some)
    assert rule.append_only(where, where, 4) == (not (seen & np.array(later)).any())


def test_published_masks() -> None:
    """GPT's, UniLM's sequence-to-sequence and block masks for 2 tokens of input and 2 of output, written
    out.
    """
    where = sequence(2, 2)
    assert causal.dense(where, where).astype(int).tolist()[0] == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 1],
    ]
    assert prefix.dense(where, where).astype(int).tolist()[0] == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 1, 1],
    ]
    assert rules.earlier_block(2).dense(where, where).astype(int).tolist()[0] == [
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 0, 0],
    ]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("casual", ["casual", "did you mean 'causal'"]),
        ("window", ["window", "window(N)"]),
        ("window(0)", ["window", "positive"]),
        ("window(True)", ["positive"]),
        ("window(2, 3)", ["window(2, 3)"]),
        ("causal &", ["causal &", "can't be read"]),
        ("causal and prefix", ["causal and prefix"]),
        ("by_head(causal)", ["by_head takes two rules or more"]),
        ("__import__('os')", ["is not a rule"]),
        ("", ["can't be read"]),
    ],
)
def test_what_is_not_a_rule_is_named(text: str, names: list[str]) -> None:
    with pytest.raises(UserError) as error:
        Visibility.parse(text)
    assert "\n" not in str(error.value)
    for name in names:
        assert name in str(error.value)
