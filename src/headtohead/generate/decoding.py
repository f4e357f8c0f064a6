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
from headtohead.data.objectives import Example
from headtohead.data.shards import END
from headtohead.data.tokenizers import FIRST
from headtohead.model.batch import Tokens
from headtohead.model.transformer import Cache, Transformer
from headtohead.model.visibility import OUTPUT, PADDING


@torch.no_grad()
def greedy(
    model: Transformer, layout: Layout, examples: Sequence[Example], max_tokens: int
) -> list[list[int]]:
    """The most probable continuation, token by token, of each example's input (its output is not looked at).

    Rows may differ in length. Generation ends at <end>, which is not returned, or after `max_tokens`; no other
    special token can be chosen.
    """
    prompt = prompts(layout, examples)
    room = {name: tokens.ids.shape[1] + max_tokens for name, tokens in prompt.items()}
    cache = model.start_cache(room)
    growing = [s.name for s in model.architecture.streams if s.holds != "input"]
    output = growing[-1]
    h = model.hidden(prompt, cache)
    real = prompt[output].document != PADDING
    last = real.sum(dim=1) - 1
    position = prompt[output].position.gather(1, last[:, None])
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
        position = position + 1
        choice = _choose(model, _step(model, cache, growing, choice, position))
    return written


def prompts(layout: Layout, examples: Sequence[Example]) -> Mapping[str, Tokens]:
    """Each example's input and the start of its output, one example a row, cut to the longest."""
    empty = [[replace(example, output=example.output[:0], ends=False)] for example in examples]
    streams = layout.batch(empty).streams
    longest = {name: int((tokens.document != PADDING).sum(dim=1).max()) for name, tokens in streams.items()}
    return {
        name: Tokens(*(a[:, : longest[name]] for a in (t.ids, t.position, t.document, t.part)))
        for name, t in streams.items()
    }


def _step(model: Transformer, cache: Cache, growing: list[str], choice: Tensor, position: Tensor) -> Tensor:
    """Final states (B, d) after one more token in each row of every stream that holds output."""
    ids = choice[:, None]
    new = Tokens(ids, position, torch.zeros_like(ids), torch.full_like(ids, OUTPUT))
    return model.hidden({name: new for name in growing}, cache)[:, 0]


def _choose(model: Transformer, h: Tensor) -> Tensor:
    logits = model.next_logits(h)
    logits[:, :FIRST] = torch.where(
        torch.arange(FIRST, device=h.device) == END, logits[:, :FIRST], float("-inf")
    )
    return logits.argmax(dim=-1)
