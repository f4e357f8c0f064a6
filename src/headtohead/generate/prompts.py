"""What is there before the first token is written: rows of each stream, and whether a network can write at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from headtohead.data.layouts import Layout
from headtohead.data.shards import Example
from headtohead.errors import UserError
from headtohead.model.architecture import Architecture
from headtohead.model.batch import Tokens
from headtohead.model.visibility import INPUT, OUTPUT, PADDING, Coordinates, sequence

Prompt = Mapping[str, Tokens]
"""The tokens (1, T) of each stream, none of them padding; of each stream that holds the output, one at least."""

CPU = torch.device("cpu")


def rows_of(
    a: Architecture,
    given: Sequence[Sequence[int]],
    begun: Sequence[Sequence[int]],
    pad: int = 0,
    device: torch.device = CPU,
    more: int = 0,
    left: bool = False,
) -> dict[str, Tokens]:
    """Rows of raw ids for each stream, one example a row, padded on the right, or on the `left`.

    `given` is the input part, `begun` what is given of the output part, in the same row where the network has one;
    `more` tokens will be written.

    Raises:
        UserError: more tokens than learned positions, or a row without a token where there must be one.
    """
    longest = max(len(n) + len(m) for n, m in zip(given, begun, strict=True)) + more
    if a.context is not None and longest > a.context:
        raise UserError(
            f"{a.name} has learned positions for {a.context} tokens, and this needs {longest}: give less"
        )
    found: dict[str, Tokens] = {}
    for stream in a.streams:
        rows: list[list[tuple[int, int, int, int]]] = []
        for n, m in zip(given, begun, strict=True):
            all_input = [(token, at, INPUT, 0) for at, token in enumerate(n)]
            all_output = [(token, len(n) + at, OUTPUT, 1 + at) for at, token in enumerate(m)]
            held = {"input": all_input, "output": all_output, "both": all_input + all_output}
            rows.append(held[stream.holds])
        if not any(rows) or (stream.holds != "input" and not all(rows)):
            raise UserError(f"{a.name}: a row without a token in stream '{stream.name}': give a text")
        found[stream.name] = _padded(rows, pad, device, left)
    return found


def _padded(
    rows: Sequence[Sequence[tuple[int, int, int, int]]], pad: int, device: torch.device, left: bool
) -> Tokens:
    """Rows of (id, position, part, step), padded as a layout pads them, or on the other side."""
    width = max(map(len, rows))
    table = torch.full((len(rows), width, 4), 0, device=device)
    table[..., 0] = pad
    document = torch.full((len(rows), width), PADDING, device=device)
    for number, row in enumerate(rows):
        if row:
            first = width - len(row) if left else 0
            table[number, first : first + len(row)] = torch.tensor(row, device=device)
            document[number, first : first + len(row)] = 0
    ids, position, part, step = table.unbind(-1)
    return Tokens(ids, position, document, part, step)


def prompt_of(a: Architecture, given: Sequence[int], begun: Sequence[int] = ()) -> Prompt:
    """The prompt of one request: ids of the input part, and those that begin the output part.

    Raises:
        UserError: as `rows_of`.
    """
    return rows_of(a, [given], [begun])


def prompts(layout: Layout, examples: Sequence[Example]) -> Mapping[str, Tokens]:
    """Each example's input and the start of its output (with what is given there before its first text), one
    example a row, cut to the longest.
    """
    given = [int(np.argmax(example.text)) if example.text.any() else 0 for example in examples]
    empty = [
        [replace(e, output=e.output[:n], ends=False, where=None if e.where is None else e.where[:n])]
        for e, n in zip(examples, given, strict=True)
    ]
    return layout.batch(empty).trimmed().streams


def split(rows: Mapping[str, Tokens]) -> list[Prompt]:
    """The rows of each stream (B, T), padded on the right, as B prompts without padding."""
    count = len(next(iter(rows.values())).ids)
    found: list[Prompt] = []
    for row in range(count):
        lengths = {name: int((tokens.document[row] != PADDING).sum()) for name, tokens in rows.items()}
        found.append(
            {
                name: tokens.map(lambda field, r=row, n=lengths[name]: field[r : r + 1, :n])
                for name, tokens in rows.items()
            }
        )
    return found


def check_writes(a: Architecture, input_length: int, output_length: int) -> None:
    """Whether no token sees a later one of the output: only then do the states of written tokens stay as they are.

    Raises:
        UserError: one does, so that the network can't write token by token.
    """
    where = sequence(input_length, output_length)
    written = Coordinates(*(axis[input_length:] for axis in where))
    for stream in a.streams:
        for read in (read for layer in stream.layers for read in layer.reads):
            if a.stream(read.keys).holds == "input" or stream.holds == "input":
                continue
            queries = where if stream.holds == "both" else written
            if not read.visibility.append_only(queries, written, a.heads):
                raise UserError(
                    f"{a.name} can't write token by token: in stream '{stream.name}' a token sees later "
                    f"ones of the output ({read.visibility})"
                )
