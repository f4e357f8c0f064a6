"""Packing: examples into rows, from their lengths alone, the same rows for every arm. Imports no torch."""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from headtohead.errors import UserError

Lengths = Sequence[int] | np.ndarray
Supervise = Literal["output", "all", "holes"]
"""Which tokens carry loss: see `Layout`."""


def fits_row(input_tokens: int, output_tokens: int, row: int, side: int) -> bool:
    """Whether an example fits a row of one stream and both sides of two: see `plan_rows`."""
    n, m = 1 + input_tokens, 1 + output_tokens
    return n + m <= row and max(n, m) <= side


def check_fit(
    lengths_in: Lengths, lengths_out: Lengths, numbers: Sequence[int], *, row: int, side: int
) -> None:
    """Raises UserError where some of the examples `numbers` fit no row (`fits_row`)."""
    held = {i: (int(lengths_in[i]), int(lengths_out[i])) for i in numbers}
    long = [i for i in numbers if not fits_row(*held[i], row, side)]
    if long:
        i = max(long, key=lambda i: (sum(held[i]), -i))
        raise UserError(
            f"{len(long)} of {len(numbers)} examples do not fit a row of {row} tokens with sides of {side}: "
            f"the longest is example {i} with {held[i][0]} input and {held[i][1]} output tokens; "
            f"row = {max(sum(there) for there in held.values()) + 2} and "
            f"side = {max(max(there) for there in held.values()) + 1} would hold all"
        )


def plan_rows(
    lengths_in: Lengths,
    lengths_out: Lengths,
    order: Iterable[int],
    *,
    row: int,
    side: int,
    lookahead: int = 64,
) -> list[list[int]]:
    """Pack examples into rows that fit every architecture: a list of example numbers for each row.

    In one stream an example of n input and m output tokens takes 1 + n + 1 + m places of `row`; in two it
    takes 1 + n of `side` in the input stream and 1 + m of `side` in the output stream (the mode token and
    <start>). Each row takes the oldest of the `lookahead` next examples, then every other one that still fits
    (first fit). Every example of `order` is in exactly one row. Raises UserError for examples too long for
    any row.
    """
    one, two = [int(n) + 1 for n in lengths_in], [int(m) + 1 for m in lengths_out]
    waiting = [int(i) for i in order]
    check_fit(lengths_in, lengths_out, waiting, row=row, side=side)
    waiting.reverse()
    rows: list[list[int]] = []
    near: list[int] = []
    while near or waiting:
        while waiting and len(near) < lookahead:
            near.append(waiting.pop())
        taken, left = [], []
        both, first, second = row, side, side
        for i in near:
            n, m = one[i], two[i]
            if n + m <= both and n <= first and m <= second:
                taken.append(i)
                both, first, second = both - n - m, first - n, second - m
            else:
                left.append(i)
        rows.append(taken)
        near = left
    return rows


def fill(
    rows: Sequence[Sequence[int]], lengths_in: Lengths, lengths_out: Lengths, row: int, side: int
) -> dict[str, float]:
    """The share of places that hold a token, in one stream of `row` and in two of `side`."""
    held = sum(int(lengths_in[i]) + int(lengths_out[i]) + 2 for some in rows for i in some)
    places = max(1, len(rows))
    return {"one_stream": held / (places * row), "two_streams": held / (places * 2 * side)}
