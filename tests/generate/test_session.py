"""Conversations: what is kept is what the rules prove, and the answers are those of reading everything anew."""

from __future__ import annotations

import pytest
import torch
from tests.generate.networks import ids, network, small
from tests.generate.test_engine import eager, native

from headtohead.generate.engine import Engine
from headtohead.generate.prompts import prompt_of
from headtohead.generate.requests import Sampling
from headtohead.generate.reuse import still_valid
from headtohead.generate.session import Session
from headtohead.model.architecture import one_stack, two_stacks
from headtohead.model.reach import reach
from headtohead.model.visibility import Coordinates

FAMILIES = [
    "causal",
    "prefix",
    "local",
    "redllm",
    "redllm-causal-encoder",
    "redllm-half-heads-encoder",
    "block-double-decoder",
    "causal-linear",
    "t5gemma-2",
]
TURNS = ((6, 4), (3, 5), (9, 4))


@pytest.mark.parametrize("make", [eager, native])
@pytest.mark.parametrize("family", FAMILIES)
def test_turns_are_answered_as_by_reading_everything_anew(family: str, make) -> None:
    model = network(family)
    session = Session(Engine(make(model, 2, 96)))
    fresh = Engine(make(model, 1, 96))
    for turn, (new, answer) in enumerate(TURNS):
        given, how = ids(new, turn), Sampling(max_tokens=answer)
        expected = fresh.write([session.prompt(given, [1])], how)[0][0].tokens
        before = list(session.transcript)
        events = list(session.ask(given, [1], how))
        written = [token for event in events for token in event.tokens]
        assert written == expected
        assert session.transcript == [*before, *given, 1, *written]
    session.close()
    assert session.engine.free_slots == 2


def read_in_the_last_turn(family: str) -> tuple[dict[str, int], dict[str, int]]:
    model = network(family)
    session = Session(Engine(eager(model, 1, 96)))
    for turn, (new, answer) in enumerate(TURNS):
        list(session.ask(ids(new, turn), [1], Sampling(max_tokens=answer)))
    return session.kept, session.read


def test_what_is_kept_follows_from_the_rules() -> None:
    # Before the last turn stand 6 + 1 + 4 + 3 + 1 + 5 tokens, of which the last one written was never read.
    assert read_in_the_last_turn("causal") == ({"text": 19}, {"text": 1 + 9 + 1})
    assert read_in_the_last_turn("local") == ({"text": 19}, {"text": 11})
    assert read_in_the_last_turn("causal-linear") == ({"text": 19}, {"text": 11})
    assert read_in_the_last_turn("prefix") == ({"text": 0}, {"text": 30})
    assert read_in_the_last_turn("redllm") == ({"input": 0, "output": 0}, {"input": 29, "output": 1})
    # A causal encoder keeps the input of the turn before; its answer was never in it.
    assert read_in_the_last_turn("redllm-causal-encoder") == (
        {"input": 14, "output": 0},
        {"input": 15, "output": 1},
    )
    assert read_in_the_last_turn("redllm-half-heads-encoder")[0] == {"input": 0, "output": 0}
    assert read_in_the_last_turn("block-double-decoder")[0] == {"context": 19, "text": 19}


RULES = [
    "causal",
    "prefix",
    "full",
    "causal & window(3)",
    "same_block(4)",
    "(causal | key_is_input) & window(5)",
    "by_head(causal, full)",
]
SIZES = {"d_model": 16, "heads": 2, "d_head": 8, "vocabulary": 40}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("before", "after"), [((5, 3), (11, 1)), ((8, 0), (8, 4)), ((4, 4), (4, 7)), ((7, 2), (9, 1))]
)
def test_no_token_that_is_kept_can_be_reached_by_what_is_new(
    rule: str, before: tuple[int, int], after: tuple[int, int]
) -> None:
    """Against the network's reach, which another module works out from the same rules; and what is dropped was not
    sure: the first token that goes sees, or needs one that sees, something else than before.
    """
    a = one_stack("one", rule, depth=2, d_ff=32, **SIZES)
    old, new = (prompt_of(a, [5] * n, [5] * m) for n, m in (before, after))
    kept = still_valid(a, old, new)["text"]

    def seen(of) -> torch.Tensor:
        where = Coordinates(*(axis[0].numpy() for axis in of["text"].coordinates))
        read = a.streams[0].layers[0].reads[0].visibility
        return torch.from_numpy(read.dense(where, where, a.heads))

    now = reach(a, {"text": Coordinates(*(axis[0].numpy() for axis in new["text"].coordinates))})[
        "text", "text"
    ]
    assert not now[:kept, kept:].any()
    then, later = seen(old), seen(new)
    both = min(then.shape[-1], later.shape[-1])
    for token in range(kept):
        assert torch.equal(then[:, token, :both], later[:, token, :both])
        assert not later[:, token, both:].any()
    if kept < both:
        rows = slice(0, kept + 1)
        differs = bool((then[:, rows, :both] != later[:, rows, :both]).any() or later[:, rows, both:].any())
        looks_on = bool(later[:, rows, kept + 1 :].any())
        assert differs or looks_on


def test_a_causal_encoder_keeps_what_a_full_one_does_not() -> None:
    kept = {}
    for rule in ("causal", "full", "by_head(causal, anticausal)"):
        a = two_stacks(rule, rule, depths=(2, 1), d_ff=32, **SIZES)
        old, new = prompt_of(a, [5, 6, 7], [1, 8]), prompt_of(a, [5, 6, 7, 8, 9], [1])
        kept[rule] = still_valid(a, old, new)
    assert kept["causal"] == {"input": 3, "output": 0}
    assert kept["full"] == kept["by_head(causal, anticausal)"] == {"input": 0, "output": 0}


def test_other_words_or_parts_that_are_told_are_not_kept() -> None:
    a = small("causal")
    old = prompt_of(a, [5, 6, 7, 8])
    assert still_valid(a, old, prompt_of(a, [5, 6, 9, 8, 10])) == {"text": 2}
    assert still_valid(a, old, prompt_of(a, [5, 6])) == {"text": 2}
    assert still_valid(a, old, old) == {"text": 4}


def test_a_stopped_answer_is_kept_as_far_as_it_came() -> None:
    model = network("causal")
    session = Session(Engine(eager(model, 1, 96)))
    events = session.ask(ids(4, 0), [1], Sampling(max_tokens=20))
    first = [next(events).tokens[0] for _ in range(3)]
    events.close()
    assert session.transcript == [*ids(4, 0), 1, *first]
    given, how = ids(3, 1), Sampling(max_tokens=4)
    expected = Engine(eager(model, 1, 96)).write([session.prompt(given, [1])], how)[0][0].tokens
    assert [t for e in session.ask(given, [1], how) for t in e.tokens] == expected
    assert session.kept["text"] == 4 + 1 + 2
    session.forget(5)
    expected = Engine(eager(model, 1, 96)).write([session.prompt(given, [1])], how)[0][0].tokens
    assert [t for e in session.ask(given, [1], how) for t in e.tokens] == expected
