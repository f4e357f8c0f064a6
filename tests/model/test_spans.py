"""Counting by stretches equals counting pair by pair, whatever the rule."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headtohead.errors import UserError
from headtohead.model.visibility import (
    SIZED,
    WORDS,
    ByHead,
    Coordinates,
    Visibility,
    by_head,
    causal,
    full,
    sequence,
)

RULES = st.sampled_from(list(WORDS.values())) | st.builds(
    lambda name, size: SIZED[name](size), st.sampled_from(list(SIZED)), st.integers(1, 7)
)
JOINED: st.SearchStrategy[Visibility] = st.recursive(
    RULES, lambda inner: st.builds(lambda a, b, both: a & b if both else a | b, inner, inner, st.booleans())
)
ANY = JOINED | st.builds(
    lambda rules, parts: ByHead(tuple(rules), tuple(parts[: len(rules)])),
    st.lists(JOINED, min_size=2, max_size=3),
    st.lists(st.integers(1, 2), min_size=3, max_size=3),
)


def held(whole: Coordinates, n: int, holds: str) -> Coordinates:
    part = {"input": slice(0, n), "output": slice(n, None), "both": slice(None)}[holds]
    return Coordinates(*(array[part] for array in whole))


@given(rule=ANY, n=st.integers(0, 9), m=st.integers(0, 9), streams=st.sampled_from([
    ("both", "both"), ("input", "input"), ("output", "output"), ("output", "input"), ("both", "input"),
]))  # fmt: skip
def test_counting_by_stretches_equals_counting_pairs(
    rule: Visibility, n: int, m: int, streams: tuple[str, str]
) -> None:
    whole, heads = sequence(n, m), 6
    q, k = (held(whole, n, holds) for holds in streams)
    dense = rule.dense(q, k, heads)
    assert rule.count(q, k, heads) == int(dense.sum()) * (1 if rule.differs_by_head else heads)


@given(rule=ANY)
def test_written_and_read_back_it_is_the_same(rule: Visibility) -> None:
    again = Visibility.parse(str(rule))
    whole = sequence(4, 4)
    assert str(again) == str(rule)
    assert np.array_equal(again.dense(whole, whole, 6), rule.dense(whole, whole, 6))


def test_a_row_of_several_documents_is_counted_pair_by_pair() -> None:
    one = sequence(3, 2)
    two = Coordinates(*(np.concatenate((array, array)) for array in one))
    two = two._replace(document=np.repeat([0, 1], 5))
    assert (causal & WORDS["same_document"]).count(two, two) == 2 * 15
    assert full.count(two, two) == 100


def test_long_documents_are_counted_at_once() -> None:
    whole = sequence(1_000_000, 1_000_000)
    began = time.process_time()
    assert causal.count(whole, whole) == 2_000_000 * 2_000_001 // 2
    assert time.process_time() - began < 5


def test_shares_of_the_heads_in_proportion() -> None:
    rule = Visibility.parse("by_head(3 * causal, anticausal)")
    assert isinstance(rule, ByHead)
    assert rule.bounds(8) == [(0, 6), (6, 8)]
    assert rule.shares == 4
    assert str(rule) == "by_head(3 * causal, anticausal)"
    joined = Visibility.parse("by_head(causal, 2 * (causal & window(3)), full)")
    assert str(joined) == "by_head(causal, 2 * (causal & window(3)), full)"
    assert Visibility.parse("by_head(1 * causal, 1 * full)") == by_head(causal, full)


@pytest.mark.parametrize("text", ["by_head(0 * causal, full)", "by_head(2.5 * causal, full)", "2 * causal"])
def test_a_share_that_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        Visibility.parse(text)
