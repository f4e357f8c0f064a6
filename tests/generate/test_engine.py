"""The decoding loop: cached equals the full pass, alone equals in a batch, and what joins and leaves."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from tests.generate.networks import VOCABULARY, assert_full_pass_agrees, generative, ids, network, ragged

from headtohead.errors import UserError
from headtohead.generate.engine import Engine
from headtohead.generate.native.building import missing
from headtohead.generate.native.plan import unsupported
from headtohead.generate.native.runner import NativeRunner
from headtohead.generate.prompts import prompt_of, rows_of
from headtohead.generate.requests import Event, Sampling, Written
from headtohead.generate.running import EagerRunner, Runner
from headtohead.model.transformer import Transformer

Make = Callable[[Transformer, int, int], Runner]


def eager(model: Transformer, slots: int, room: int) -> Runner:
    return EagerRunner(model, slots, {s.name: room for s in model.architecture.streams})


def native(model: Transformer, slots: int, room: int) -> Runner:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    if (reason := unsupported(model.architecture)) is not None:
        pytest.skip(reason)
    return NativeRunner(model, slots, {s.name: room for s in model.architecture.streams}, "fp32", threads=1)


RUNNERS = pytest.mark.parametrize("make", [eager, native])
COVERING = [
    "causal-linear",
    "block-double-decoder",
    "t5gemma-2",
    "glm",
    "t5",
    "bloom",
    "redllm-half-heads-encoder",
    "local",
]


def check_greedy(family: str, make: Make, steps: int) -> None:
    model = network(family)
    given, begun, prompts = ragged(model.architecture)
    engine = Engine(make(model, 5, 40 + steps))  # fewer slots than rows: two wait until others leave
    written = [choices[0].tokens for choices in engine.write(prompts, Sampling(max_tokens=steps))]
    for row in range(len(prompts)):
        assert len(written[row]) == steps
        assert_full_pass_agrees(model, given[row], begun[row], written[row])
    assert len({tuple(row[-8:]) for row in written}) > 1


@RUNNERS
@pytest.mark.parametrize("family", COVERING)
def test_cached_equals_the_full_pass(family: str, make: Make) -> None:
    check_greedy(family, make, 12)


@pytest.mark.slow
@pytest.mark.timeout(900)
@RUNNERS
@pytest.mark.parametrize("family", generative())
def test_cached_equals_the_full_pass_for_every_family(family: str, make: Make) -> None:
    """256 tokens of a ragged batch of 7, in fp32."""
    check_greedy(family, make, 256)


DRAWS = [
    Sampling(max_tokens=12, temperature=1.0, seed=3),
    Sampling(max_tokens=12, temperature=0.7, top_k=20, top_p=0.9, min_p=0.01, seed=4, repetition_penalty=1.3),
    Sampling(max_tokens=12, temperature=1.5, top_p=0.5, seed=5),
    Sampling(max_tokens=12),
]


@RUNNERS
@pytest.mark.parametrize("family", ["decllm", "redllm", "prefix"])
def test_a_seed_gives_the_same_text_alone_and_in_a_batch(family: str, make: Make) -> None:
    model = network(family)
    _, _, prompts = ragged(model.architecture, 6)
    how = [DRAWS[row % len(DRAWS)] for row in range(6)]
    together = Engine(make(model, 6, 64)).write(prompts, how)
    one = Engine(make(model, 1, 64))
    alone = [one.write([prompt], [each])[0] for prompt, each in zip(prompts, how, strict=True)]
    assert [[c.tokens for c in row] for row in together] == [[c.tokens for c in row] for row in alone]
    assert len({tuple(row[0].tokens) for row in together}) == 6
    again = Engine(make(model, 6, 64)).write(prompts[:1], Sampling(max_tokens=12, temperature=1.0, seed=8))
    assert again[0][0].tokens != together[0][0].tokens


def test_a_row_is_the_same_to_the_bit_alone_and_in_a_batch_in_bf16() -> None:
    if (reason := missing()) is not None:
        pytest.skip(reason)
    model = network("redllm")
    _, _, prompts = ragged(model.architecture)
    room = {s.name: 64 for s in model.architecture.streams}
    many, one = (NativeRunner(model, n, room, "bf16", threads=2) for n in (7, 1))
    first = torch.stack([many.prefill(slot, prompt) for slot, prompt in enumerate(prompts)])
    for row in (0, 3, 6):
        assert torch.equal(one.prefill(0, prompts[row]), first[row])
        found = many.step(list(range(7)), [9 + row] * 7) if row == 3 else None
        if found is not None:
            assert torch.equal(one.step([0], [9 + row])[0], found[row])


@pytest.mark.parametrize("family", ["decllm", "redllm", "t5", "gpt-2", "t5gemma", "llama-3.2"])
def test_the_native_runner_gives_the_logits_of_the_eager_one(family: str) -> None:
    model = network(family)
    _, _, prompts = ragged(model.architecture, 3)
    runners = [make(model, 3, 48) for make in (eager, native)]
    for slot, prompt in enumerate(prompts):
        found, expected = (runner.prefill(slot, prompt) for runner in reversed(runners))
        assert float((found - expected).abs().max()) <= 1e-4
    for step in range(4):
        slots = [2, 0] if step % 2 else [0, 1, 2]
        found, expected = (runner.step(slots, [30 + step] * len(slots)) for runner in reversed(runners))
        assert float((found - expected).abs().max()) <= 1e-4


def test_requests_join_and_leave_while_others_are_written() -> None:
    model = network("decllm")
    _, _, prompts = ragged(model.architecture, 4)
    how = Sampling(max_tokens=10, temperature=0.9, seed=1)
    expected = [row[0].tokens for row in Engine(eager(model, 4, 64)).write(prompts, how)]
    engine = Engine(eager(model, 2, 64))
    found: dict[int, list[int]] = {}
    numbers: dict[int, int] = {}

    def take(events: list[Event]) -> None:
        for event in events:
            found.setdefault(event.request, []).extend(event.tokens)

    numbers[engine.add(prompts[0], how)] = 0
    take(engine.step())
    take(engine.step())
    gone = engine.add(prompts[1], how)
    numbers[engine.add(prompts[2], how)] = 2
    numbers[engine.add(prompts[3], how)] = 3
    take(engine.step())
    assert engine.running == 2 and engine.waiting == 2 and engine.free_slots == 0
    engine.cancel(gone)
    while engine.busy:
        take(engine.step())
    assert engine.free_slots == 2
    assert {numbers[n]: tokens for n, tokens in found.items() if n in numbers} == {
        row: expected[row] for row in (0, 2, 3)
    }


def test_log_probabilities_are_the_scores_of_the_full_pass() -> None:
    model = network("redllm")
    given, begun, prompts = ragged(model.architecture, 2)
    how = Sampling(max_tokens=6, temperature=1.0, seed=2, logprobs=3, repetition_penalty=1.5)
    for row, (written,) in enumerate(Engine(eager(model, 2, 64), never=[3]).write(prompts, how)):
        streams = rows_of(model.architecture, [given[row]], [[*begun[row], *written.tokens[:-1]]])
        logits = model.next_logits(model.hidden(streams)[0, -6:]).double().log_softmax(dim=-1)
        assert written.logprobs is not None and written.top is not None
        for step, token in enumerate(written.tokens):
            assert written.logprobs[step] == pytest.approx(float(logits[step, token]), abs=1e-4)
            values, places = logits[step].topk(3)
            assert [i for i, _ in written.top[step]] == places.tolist()
            assert [p for _, p in written.top[step]] == pytest.approx(values.tolist(), abs=1e-4)


def test_a_beam_search_as_wide_as_the_tree_finds_the_likeliest_text() -> None:
    """Against all texts of three tokens, with and without an end; the n best in order, with their scores."""
    model = network("decllm")
    prompt = prompt_of(model.architecture, ids(5, 1), [1])
    allowed, end, depth = [10, 11, 12], 13, 3
    never = [i for i in range(VOCABULARY) if i not in (*allowed, end)]
    width = len(allowed) ** depth
    penalty = 0.7
    how = Sampling(max_tokens=depth, beams=width, n=4, length_penalty=penalty)
    found = Engine(eager(model, width, 16), ends=[end], never=never).write([prompt], how)[0]

    scores: dict[tuple[int, ...], float] = {}

    def grow(tokens: tuple[int, ...], total: float) -> None:
        streams = rows_of(model.architecture, [ids(5, 1)], [[1, *tokens]])
        logits = model.next_logits(model.hidden(streams)[0, -1]).double()
        logits[never] = float("-inf")
        p = logits.log_softmax(dim=-1)
        scores[(*tokens, end)] = (total + float(p[end])) / (len(tokens) + 1) ** penalty
        for token in allowed:
            if len(tokens) + 1 < depth:
                grow((*tokens, token), total + float(p[token]))
            else:
                scores[(*tokens, token)] = (total + float(p[token])) / depth**penalty

    grow((), 0.0)
    best = sorted(scores.items(), key=lambda pair: -pair[1])[:4]
    assert [tuple(w.tokens) + ((end,) if w.finished == "stop" else ()) for w in found] == [t for t, _ in best]
    assert [w.score for w in found] == pytest.approx([s for _, s in best], abs=1e-5)


def test_narrow_beams_keep_each_texts_own_past() -> None:
    """The score that a text is given is the sum of the full pass, so no cache was mixed up."""
    model = network("redllm")
    given, begun, prompts = ragged(model.architecture, 2)
    how = Sampling(max_tokens=9, beams=4, n=4, length_penalty=1.0)
    for make in (eager, native):
        for row, texts in enumerate(Engine(make(model, 8, 64)).write(prompts, how)):
            assert len({tuple(text.tokens) for text in texts}) == 4
            for text in texts:
                streams = rows_of(model.architecture, [given[row]], [[*begun[row], *text.tokens[:-1]]])
                p = model.next_logits(model.hidden(streams)[0, -9:]).double().log_softmax(dim=-1)
                total = sum(float(p[step, token]) for step, token in enumerate(text.tokens))
                assert text.score == pytest.approx(total / 9, abs=1e-4)


def test_several_choices_are_draws_of_their_own() -> None:
    model = network("decllm")
    prompt = prompt_of(model.architecture, ids(5, 1), [1])
    how = Sampling(max_tokens=8, temperature=1.0, seed=7, n=3)
    choices = Engine(eager(model, 3, 32)).write([prompt], how)[0]
    assert len({tuple(c.tokens) for c in choices}) == 3
    again = Engine(eager(model, 5, 32)).write([prompt], how)[0]
    assert [c.tokens for c in again] == [c.tokens for c in choices]


def test_draws_follow_the_probabilities_that_the_filters_leave() -> None:
    from headtohead.generate.sampling import Drawing, choose

    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])

    def shares(how: Sampling) -> list[float]:
        rows = [Drawing(how, seed) for seed in range(4000)]
        tokens = [c.token for c in choose(logits.expand(len(rows), -1).clone(), rows)]
        return [tokens.count(i) / len(rows) for i in range(6)]

    def wanted(kept: int, heat: float = 1.0) -> list[float]:
        p = (logits[:kept] / heat).softmax(dim=0).tolist()
        return [*p, *[0.0] * (6 - kept)]

    for how, expected in (
        (Sampling(temperature=1.0), wanted(6)),
        (Sampling(temperature=2.0), wanted(6, 2.0)),
        (Sampling(temperature=1.0, top_k=3), wanted(3)),
        (Sampling(temperature=1.0, top_p=0.75), wanted(2)),  # 0.53 + 0.20 < 0.75: the third is needed too
        (Sampling(temperature=1.0, min_p=0.2), wanted(3)),
    ):
        if how.top_p < 1:
            total, kept = 0.0, 0
            for p in wanted(6):
                total, kept = total + p, kept + 1
                if total >= how.top_p:
                    break
            expected = wanted(kept)
        found = shares(how)
        for x, p in zip(found, expected, strict=True):
            assert abs(x - p) <= 4 * math.sqrt(p * (1 - p) / 4000), (how, found, expected)


def test_a_penalty_makes_what_is_there_less_likely() -> None:
    model = network("decllm")
    prompt = prompt_of(model.architecture, ids(5, 1), [1])
    plain, punished = (
        Engine(eager(model, 1, 64))
        .write([prompt], Sampling(max_tokens=40, repetition_penalty=p))[0][0]
        .tokens
        for p in (1.0, 100.0)
    )
    assert len(set(punished)) == 40 > len(set(plain))


def test_stop_ids_and_ends_are_not_part_of_a_text() -> None:
    model = network("decllm")
    prompt = prompt_of(model.architecture, ids(5, 1), [1])
    tokens = Engine(eager(model, 1, 64)).write([prompt], Sampling(max_tokens=9))[0][0].tokens
    end = tokens[4]
    first = tokens.index(end)
    by_id = Engine(eager(model, 1, 64)).write([prompt], Sampling(max_tokens=9, stop_ids=(end,)))[0][0]
    by_end = Engine(eager(model, 1, 64), ends=[end]).write([prompt], Sampling(max_tokens=9))[0][0]
    for found in (by_id, by_end):
        assert (found.tokens, found.finished) == (tokens[:first], "stop")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_tokens": 90}, "don't fit: there is room for 64"),
        ({"n": 3, "temperature": 1.0}, "3 choices at once, and there are 2 slots"),
        ({"stop": ("x",)}, "stop strings need a tokenizer"),
        ({"stop_ids": (999,)}, "the stop id 999 is outside the vocabulary"),
    ],
)
def test_what_can_not_be_done_is_refused_and_leaves_nothing(settings: dict, says: str) -> None:
    model = network("decllm")
    engine = Engine(eager(model, 2, 64))
    with pytest.raises(UserError, match=says):
        engine.add(prompt_of(model.architecture, ids(5, 1), [1]), Sampling(**{"max_tokens": 8, **settings}))
    assert not engine.busy


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"n": 2}, "without a temperature"),
        ({"beams": 2, "temperature": 1.0}, "a beam search draws nothing"),
        ({"beams": 2, "n": 3}, "no more texts than beams"),
        ({"stop": ("",)}, "a stop string is empty"),
        ({"top_p": 0.0}, "top_p"),
    ],
)
def test_options_that_do_not_go_together_are_refused(settings: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Sampling(**settings)


def test_a_prompt_that_breaks_the_network_costs_no_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("decllm")
    engine = Engine(eager(model, 2, 64))
    prompt = prompt_of(model.architecture, ids(5, 1), [1])
    with monkeypatch.context() as patched:
        patched.setattr(engine.runner, "prefill", lambda *_: 1 / 0)
        engine.add(prompt, Sampling(max_tokens=2))
        with pytest.raises(ZeroDivisionError):
            engine.step()
    assert not engine.busy and engine.free_slots == 2
    assert isinstance(engine.write([prompt], Sampling(max_tokens=2))[0][0], Written)
