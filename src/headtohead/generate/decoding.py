"""One decoding loop for every architecture, on the key-value cache.

What may be kept from step to step follows from the visibility rules: the prompt is read at once, under whatever
view of the input the architecture has, and each new token sees the cache through its coordinates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from headtohead.data.layouts import Layout
from headtohead.data.shards import END, Example
from headtohead.data.tokenizers import FIRST
from headtohead.errors import UserError
from headtohead.model.architecture import Architecture
from headtohead.model.batch import Tokens
from headtohead.model.transformer import Cache, Transformer
from headtohead.model.visibility import INPUT, OUTPUT, PADDING, Coordinates, sequence


@torch.no_grad()
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


@torch.no_grad()
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
    _check_append_only(model.architecture, *_lengths(prompt, max_tokens))
    prompt = {name: tokens.map(lambda field: field.to(model.device)) for name, tokens in prompt.items()}
    room = {name: tokens.ids.shape[1] + max_tokens for name, tokens in prompt.items()}
    cache = model.start_cache(room)
    growing = [s.name for s in model.architecture.streams if s.holds != "input"]
    output = growing[-1]
    h = model.hidden(prompt, cache)
    real = prompt[output].document != PADDING
    last = real.sum(dim=1) - 1
    position, written_so_far = (
        where.gather(1, last[:, None]) for where in (prompt[output].position, prompt[output].step)
    )
    choice = _choose(model, h[torch.arange(len(last), device=last.device), last], never)
    written: list[list[int]] = [[] for _ in last]
    running = set(range(len(last)))
    for step in range(max_tokens):
        for row in list(running):
            token = int(choice[row])
            if token in ends:
                running.discard(row)
            else:
                written[row].append(token)
        if not running or step == max_tokens - 1:
            break
        position, written_so_far = position + 1, written_so_far + 1
        choice = _choose(model, _step(model, cache, growing, choice, position, written_so_far), never)
    return written


def _lengths(prompt: Mapping[str, Tokens], max_tokens: int) -> tuple[int, int]:
    """The longest input and the longest output that there will be."""
    parts = {
        part: max(int(((t.part == part) & (t.document != PADDING)).sum(dim=1).max()) for t in prompt.values())
        for part in (INPUT, OUTPUT)
    }
    return parts[INPUT], parts[OUTPUT] + max_tokens


def _check_append_only(architecture: Architecture, input_length: int, output_length: int) -> None:
    """Whether no token sees a later one of the output: only then do the states of written tokens stay as they are."""
    where = sequence(input_length, output_length)
    written = Coordinates(*(axis[input_length:] for axis in where))
    for stream in architecture.streams:
        for read in (read for layer in stream.layers for read in layer.reads):
            if architecture.stream(read.keys).holds == "input" or stream.holds == "input":
                continue
            queries = where if stream.holds == "both" else written
            if not read.visibility.append_only(queries, written, architecture.heads):
                raise UserError(
                    f"{architecture.name} can't write token by token: in stream '{stream.name}' a token sees later "
                    f"ones of the output ({read.visibility})"
                )


def prompts(layout: Layout, examples: Sequence[Example]) -> Mapping[str, Tokens]:
    """Each example's input and the start of its output (with what is given there before its first text), one
    example a row, cut to the longest.
    """
    given = [int(np.argmax(example.text)) if example.text.any() else 0 for example in examples]
    empty = [
        replace(e, output=e.output[:n], ends=False, where=None if e.where is None else e.where[:n])
        for e, n in zip(examples, given, strict=True)
    ]
    return layout.batch([[example] for example in empty]).trimmed().streams


def _step(
    model: Transformer, cache: Cache, growing: list[str], choice: Tensor, position: Tensor, step: Tensor
) -> Tensor:
    """Final states (B, d) after one more token in each row of every stream that holds output."""
    ids = choice[:, None]
    new = Tokens(ids, position, torch.zeros_like(ids), torch.full_like(ids, OUTPUT), step)
    return model.hidden({name: new for name in growing}, cache)[:, 0]


def _choose(model: Transformer, h: Tensor, never: Sequence[int]) -> Tensor:
    logits = model.next_logits(h)
    if never:
        logits[:, torch.tensor(never, device=h.device)] = float("-inf")
    return logits.argmax(dim=-1)
