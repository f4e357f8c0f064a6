"""One decoding loop for every architecture, on the key-value cache.

What may be kept from step to step follows from the visibility rules: the prompt is read at once, under whatever
view of the input the architecture has, and each new token sees the cache through its coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from headtohead.data.layouts import Layout
from headtohead.data.shards import END, Example
from headtohead.data.tokenizers import FIRST
from headtohead.errors import UserError
from headtohead.model.architecture import Architecture
from headtohead.model.batch import Tokens
from headtohead.model.transformer import Cache, Transformer
from headtohead.model.visibility import OUTPUT, PADDING, Coordinates, sequence


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
    prompt = prompts(layout, examples)
    _check_append_only(model.architecture, max(len(e.input) for e in examples), max_tokens)
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
    choice = _choose(model, h[torch.arange(len(last)), last])
    written: list[list[int]] = [[] for _ in examples]
    running = set(range(len(examples)))
    for step in range(max_tokens):
        for row in list(running):
            token = int(choice[row])
            if token == END:
                running.discard(row)
            else:
                written[row].append(token)
        if not running or step == max_tokens - 1:
            break
        position, written_so_far = position + 1, written_so_far + 1
        choice = _choose(model, _step(model, cache, growing, choice, position, written_so_far))
    return written


def _check_append_only(architecture: Architecture, input_length: int, output_length: int) -> None:
    """Whether no token sees a later one of the output: only then do the states of written tokens stay as they are."""
    where = sequence(1 + input_length, 1 + output_length)
    written = Coordinates(*(axis[1 + input_length :] for axis in where))
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
    """Each example's input and the start of its output, one example a row, cut to the longest."""
    empty = [[replace(example, output=example.output[:0], ends=False, where=None)] for example in examples]
    streams = layout.batch(empty).streams
    longest = {name: int((tokens.document != PADDING).sum(dim=1).max()) for name, tokens in streams.items()}
    return {name: tokens.map(lambda part, n=longest[name]: part[:, :n]) for name, tokens in streams.items()}


def _step(
    model: Transformer, cache: Cache, growing: list[str], choice: Tensor, position: Tensor, step: Tensor
) -> Tensor:
    """Final states (B, d) after one more token in each row of every stream that holds output."""
    ids = choice[:, None]
    new = Tokens(ids, position, torch.zeros_like(ids), torch.full_like(ids, OUTPUT), step)
    return model.hidden({name: new for name in growing}, cache)[:, 0]


def _choose(model: Transformer, h: Tensor) -> Tensor:
    logits = model.next_logits(h)
    logits[:, :FIRST] = torch.where(
        torch.arange(FIRST, device=h.device) == END, logits[:, :FIRST], float("-inf")
    )
    return logits.argmax(dim=-1)
