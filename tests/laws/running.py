"""Ways to run a network that several laws share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from tests.laws.cells import Cell
from tests.laws.plain import Token
from torch import Tensor

from headtohead.data.shards import Example
from headtohead.model.batch import Tokens
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import OUTPUT, PADDING

Streams = Mapping[str, Tokens]


def fields(tokens: Tokens) -> tuple[Tensor, ...]:
    all_but_last = (tokens.ids, tokens.position, tokens.document, tokens.part, tokens.step)
    return all_but_last if tokens.anchor is None else (*all_but_last, tokens.anchor)


def taken(tokens: Tokens, rows: Tensor | slice | list[int]) -> Tokens:
    """Some rows, in any order and as often as asked."""
    return Tokens(*(field[rows] for field in fields(tokens)))


def with_ids(tokens: Tokens, ids: Tensor) -> Tokens:
    return Tokens(ids, *fields(tokens)[1:])


def plainly(tokens: Tokens, row: int) -> list[Token]:
    """A row as the tokens of `plain`."""
    columns = (field[row].tolist() for field in (tokens.position, tokens.document, tokens.part, tokens.ids))
    return [Token(*values) for values in zip(*columns, strict=True)]


def gathered(tokens: Tokens, chosen: Tensor) -> tuple[Tokens, Tensor]:
    """The places that are `chosen` (B, T), moved to the left of each row; the rest padding. Also where they
    were.
    """
    width = int(chosen.sum(dim=1).max())
    order = torch.argsort((~chosen).int(), dim=1, stable=True)[:, :width]
    kept = chosen.gather(1, order)
    found = tokens.map(lambda field: field.gather(1, order) * kept)
    return replace(found, document=found.document.masked_fill(~kept, PADDING)), order


def cached(model: Transformer, streams: Streams, *, one_by_one: bool = False) -> tuple[Tensor, Tensor]:
    """Final states (B, T, d) of the last stream, by a prefill and then one token at a time on the cache.

    `streams` hold one document a row, of any length. The prefill is the input; with `one_by_one`, of streams
    that hold input and output, only the first token. Returns the states and which places (B, T) were run; the
    others are 0.
    """
    last = model.architecture.output_stream.name
    cache = model.start_cache({name: 2 * tokens.ids.shape[1] for name, tokens in streams.items()})
    first, later = {}, {}
    for stream in model.architecture.streams:
        tokens = streams[stream.name]
        real = tokens.document != PADDING
        grows = tokens.part == OUTPUT
        if one_by_one and stream.holds == "both":
            grows = tokens.position > 0
        if (real & ~grows).any():
            first[stream.name] = gathered(tokens, real & ~grows)
        if (real & grows).any():
            later[stream.name] = gathered(tokens, real & grows)
    width = model.architecture.width(model.architecture.output_stream).d_model
    states = torch.zeros(*streams[last].ids.shape, width, dtype=next(model.parameters()).dtype)
    run = torch.zeros(streams[last].ids.shape, dtype=torch.bool)

    def feed(part: dict[str, tuple[Tokens, Tensor]]) -> None:
        h = (
            model.hidden({name: tokens for name, (tokens, _) in part.items()}, cache)
            if last in part
            else None
        )
        if h is None:  # the prefill of an encoder: no place of the last stream yet
            return
        tokens, order = part[last]
        real = tokens.document != PADDING
        rows = torch.arange(len(real))[:, None].expand_as(order)
        states[rows[real], order[real]] = h[real]
        run[rows[real], order[real]] = True

    if first and last not in first:  # an encoder's states are read with the decoder's first token
        step, later = _split(later)
        feed({**first, **step})
    else:
        feed(first)
    while later:
        step, later = _split(later)
        feed(step)
    return states, run


Part = dict[str, tuple[Tokens, Tensor]]


def _split(part: Part) -> tuple[Part, Part]:
    """The next token of each stream, and what is left."""
    step: Part = {}
    rest: Part = {}
    for name, (tokens, order) in part.items():
        step[name] = (Tokens(*(f[:, :1] for f in fields(tokens))), order[:, :1])
        if order.shape[1] > 1:
            rest[name] = (Tokens(*(f[:, 1:] for f in fields(tokens))), order[:, 1:])
    return step, rest


def supervised_tokens(cell: Cell, example: Example) -> list[int]:
    """The targets of an example in order, as the contract says them: the input's if all are asked for, the
    output's, and <end> where the output really ends.
    """
    assert example.in_place == (cell.task.supervise == "holes")
    asked = [int(i) for i in example.input] if cell.task.supervise == "all" else []
    return [*asked, *map(int, example.output), *([2] if example.ends else [])]
