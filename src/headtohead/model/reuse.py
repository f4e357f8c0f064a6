"""What may be kept of a cache when the text before the answer has grown, decided by the visibility rules alone.

NumPy only: `headtohead cost` asks it without a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from headtohead.model.architecture import Architecture, Stream
from headtohead.model.parts import TwoDimensional
from headtohead.model.visibility import OUTPUT, Coordinates, Visibility, sequence

Numbers = npt.NDArray[np.int64]
NEVER = np.iinfo(np.int64).max


class Row(NamedTuple):
    """The tokens of one row of a stream, arrays (T,): ids, and where each stands (`batch.Tokens`)."""

    ids: Numbers
    position: Numbers
    document: Numbers
    part: Numbers
    step: Numbers
    anchor: Numbers | None = None


def rows_of_lengths(a: Architecture, input: int, output: int) -> dict[str, Row]:
    """The rows of each stream for one document of so many tokens of input and output, all of one id: where one is a
    beginning of the other, they are the same text.
    """
    whole = sequence(input, output)
    step = np.maximum(whole.position - input + 1, 0)
    held = {"input": slice(0, input), "output": slice(input, None), "both": slice(None)}
    ids = np.zeros_like(whole.position)
    every = Row(ids, whole.position, whole.document, whole.part, step)
    return {
        stream.name: Row(*(axis[held[stream.holds]] for axis in every if axis is not None))
        for stream in a.streams
    }


def still_valid(a: Architecture, before: Mapping[str, Row], after: Mapping[str, Row]) -> dict[str, int]:
    """For each stream, how many of its first tokens keep their states and keys when what is read changes from
    `before` (the tokens that a cache was made of) to `after`.

    A token keeps them if it is the same token at the same place, if in each layer it sees the same keys as before (for
    each head), and if all of these keep theirs. Causal reads keep all that is the same from the beginning; a token of
    an input that sees itself whole keeps nothing once the input grows, unless nothing was added. A stream of linear
    attention, whose sums can't be taken apart, keeps all of its tokens or none.
    """
    found: dict[str, int] = {}
    for stream in a.streams:
        old, new = before.get(stream.name), after.get(stream.name)
        if old is None or new is None:
            found[stream.name] = 0
            continue
        kept = _alike(a, stream, old, new)
        reads = {(read.keys, read.visibility) for layer in stream.layers for read in layer.reads}
        heads = a.width(stream).heads
        for keys, rule in reads:
            if keys != stream.name:
                then, now = before.get(keys), after.get(keys)
                if then is None or now is None:
                    kept = 0
                else:
                    farthest = _seen(rule, heads, old, new, then, now, kept)
                    kept = _until(farthest <= found[keys], kept)
        own = [_seen(rule, heads, old, new, old, new, kept) for keys, rule in reads if keys == stream.name]
        kept = _closed(np.maximum.reduce(own), kept) if own else kept
        linear = any(read.mixer == "linear" for layer in stream.layers for read in layer.reads)
        found[stream.name] = 0 if linear and kept < len(old.ids) else kept
    return found


def _standing(a: Architecture, stream: Stream, row: Row) -> Numbers:
    """The positions that the encoding speaks of, as `positions.standing`."""
    if stream.holds == "output" and getattr(a.positions, "across", None) == "restarted":
        return np.maximum(row.step - 1, 0)
    return row.position


def _alike(a: Architecture, stream: Stream, old: Row, new: Row) -> int:
    """How many first tokens go into the stream's first layer as they did."""
    n = min(len(old.ids), len(new.ids))
    told = [[row.ids, _standing(a, stream, row), row.position, row.document] for row in (old, new)]
    for row, facts in zip((old, new), told, strict=True):
        if a.embeddings.segments:
            facts.append(row.part)
        if isinstance(a.positions, TwoDimensional):
            anchor = np.maximum(row.position - row.step, 0) if row.anchor is None else row.anchor
            facts += [anchor, row.step]
    same = np.ones(n, dtype=bool)
    for x, y in zip(*told, strict=True):
        same &= x[:n] == y[:n]
    return _until(same, n)


def _until(good: npt.NDArray[np.bool_], n: int) -> int:
    """How many of the first `n` are good before the first that isn't."""
    bad = np.flatnonzero(~good[:n])
    return int(bad[0]) if len(bad) else n


def _closed(farthest: Numbers, n: int) -> int:
    """The largest number of first tokens, up to `n`, that need no token beyond them."""
    while True:
        fewer = _until(farthest[:n] <= n, n)
        if fewer == n:
            return n
        n = fewer


def _seen(rule: Visibility, heads: int, old: Row, new: Row, keys_old: Row, keys_new: Row, n: int) -> Numbers:
    """For the first `n` queries, the place after the last key that each sees; `NEVER` where what it sees has
    changed. By stretches of positions (`Visibility.spans`), so in linear time.
    """
    farthest = np.zeros(n, np.int64)
    for head in range(heads) if rule.differs_by_head else (0,):
        then, now = (
            _stretches(rule, head, heads, row, keys, n) for row, keys in ((old, keys_old), (new, keys_new))
        )
        changed = (then.shape != now.shape) or (then != now).any(axis=(0, 1))
        last = np.where(then[1] > then[0], then[1], 0).max(axis=0, initial=0)
        farthest = np.maximum(farthest, np.where(changed, NEVER, last))
    return farthest


def _stretches(rule: Visibility, head: int, heads: int, row: Row, keys: Row, n: int) -> Numbers:
    """`stretches` of the first `n` tokens, in places of the keys."""
    where = Coordinates(row.position[:n], row.document[:n], row.part[:n])
    position = keys.position
    beginning, end = (int(position[0]), int(position[-1]) + 1) if len(position) else (0, 0)
    return stretches(rule, head, heads, where, split_of(row, keys), beginning, end)


def stretches(
    rule: Visibility,
    head: int,
    heads: int,
    where: Coordinates,
    split: int,
    beginning: int,
    end: int | Numbers,
) -> Numbers:
    """(2, stretches, n): first place and the one after the last of what each of n queries sees of its document, where
    the keys stand one after another from position `beginning` on, up to `end`. Joined where they touch, in order;
    empty ones are (0, 0) and come last. `split`: the position of the output's first token.
    """
    n = len(where.position)
    ones = np.ones(n, np.int64)
    found = rule.spans(where, split, head, heads)
    edges = [
        (np.clip(low * ones, beginning, end), np.clip(high * ones, beginning, end)) for low, high in found
    ]
    first = np.stack([low for low, _ in edges]) - beginning
    last = np.stack([high for _, high in edges]) - beginning
    first = np.where(last <= first, NEVER, first)
    order = np.argsort(first, axis=0, kind="stable")
    first, last = (np.take_along_axis(edge, order, axis=0) for edge in (first, last))
    joined = np.zeros((2, len(edges), n), np.int64)
    at, low, high = np.zeros(n, np.int64), first[0].copy(), last[0].copy()
    every = np.arange(n)
    for then, until in zip(first[1:], last[1:], strict=True):
        apart = (then > high) & (then != NEVER)
        joined[:, at[apart], every[apart]] = low[apart], high[apart]
        at += apart
        high = np.where(apart, until, np.where(then != NEVER, np.maximum(high, until), high))
        low = np.where(apart, then, low)
    some = low != NEVER
    joined[:, at[some], every[some]] = low[some], high[some]
    return joined


def split_of(*of: Row) -> int:
    """The position of the output's first token, or the one after the last there is."""
    found = [int(row.position[row.part == OUTPUT][0]) for row in of if (row.part == OUTPUT).any()]
    if found:
        return min(found)
    return max((int(row.position[-1]) + 1 for row in of if len(row.ids)), default=0)
