"""Texts after rows of prompts, all at once: what a study, a task and `headtohead generate` ask for.

The loop is `engine.Engine`, for every architecture.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from headtohead.data.layouts import Layout
from headtohead.data.shards import END, Example
from headtohead.data.tokenizers import FIRST
from headtohead.generate.engine import Engine
from headtohead.generate.prompts import Prompt, check_writes, prompts, split
from headtohead.generate.requests import Sampling, Written
from headtohead.generate.running import EagerRunner
from headtohead.generate.telling import Decode
from headtohead.model.batch import Tokens
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import INPUT, OUTPUT, PADDING

AT_ONCE = 64
"""Slots at most, for more rows than that."""


def greedy(
    model: Transformer, layout: Layout, examples: Sequence[Example], max_tokens: int
) -> list[list[int]]:
    """The most probable continuation, token by token, of each example's input (its output is not looked at).

    Rows may differ in length. Generation ends at <end>, which is not returned, or after `max_tokens`; no other
    special token can be chosen.

    Raises:
        UserError: the network can't write token by token, since a token of its output sees later ones.
    """
    never = [i for i in range(FIRST) if i != END]
    return written_after(model, prompts(layout, examples), max_tokens, ends=(END,), never=never)


def written_after(
    model: Transformer,
    prompt: Mapping[str, Tokens],
    max_tokens: int,
    *,
    ends: Collection[int],
    never: Sequence[int] = (),
) -> list[list[int]]:
    """`greedy` after rows of raw ids: the prompt of each stream (B, T), padded on the right.

    A row ends at any of `ends`, which is not returned; ids of `never` can't be chosen.

    Raises:
        UserError: the network can't write token by token, since a token of its output sees later ones.
    """
    check_writes(model.architecture, *_lengths(prompt, max_tokens))
    rows = split(prompt)
    found = write(model, rows, Sampling(max_tokens=max_tokens), ends=ends, never=never)
    return [choices[0].tokens for choices in found]


def write(
    model: Transformer,
    rows: Sequence[Prompt],
    sampling: Sampling | Sequence[Sampling],
    *,
    ends: Collection[int],
    never: Sequence[int] = (),
    decode: Decode | None = None,
) -> list[list[Written]]:
    """The choices of each prompt, by the network as it is."""
    return engine_for(model, rows, sampling, ends=ends, never=never, decode=decode).write(rows, sampling)


def engine_for(
    model: Transformer,
    rows: Sequence[Prompt],
    sampling: Sampling | Sequence[Sampling],
    *,
    ends: Collection[int],
    never: Sequence[int] = (),
    decode: Decode | None = None,
) -> Engine:
    """An engine with slots for these prompts, of the room that the longest needs."""
    each = [sampling] * len(rows) if isinstance(sampling, Sampling) else sampling
    slots = min(AT_ONCE, sum(how.rows for how in each))
    slots = max(slots, 1, *(how.rows for how in each))
    runner = EagerRunner(model, slots, room_for(model, rows, each))
    return Engine(runner, ends=ends, never=never, decode=decode)


def room_for(model: Transformer, rows: Sequence[Prompt], each: Sequence[Sampling]) -> dict[str, int]:
    """Tokens that each stream of a slot must have room for."""
    found: dict[str, int] = {}
    for stream in model.architecture.streams:
        grows = stream.holds != "input"
        sizes = (
            prompt[stream.name].ids.shape[1] + grows * how.max_tokens
            for prompt, how in zip(rows, each, strict=True)
        )
        found[stream.name] = max(sizes, default=1)
    return found


def _lengths(prompt: Mapping[str, Tokens], max_tokens: int) -> tuple[int, int]:
    """The longest input and the longest output that there will be."""
    parts = {
        part: max(int(((t.part == part) & (t.document != PADDING)).sum(dim=1).max()) for t in prompt.values())
        for part in (INPUT, OUTPUT)
    }
    return parts[INPUT], parts[OUTPUT] + max_tokens
