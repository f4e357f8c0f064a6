"""What may be kept of a cache when the text before the answer has grown, decided by the visibility rules alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from headtohead.model.architecture import Architecture, Stream
from headtohead.model.batch import Tokens
from headtohead.model.parts import TwoDimensional
from headtohead.model.positions import standing
from headtohead.model.visibility import OUTPUT, Coordinates, Visibility

Numbers = npt.NDArray[np.int64]


def still_valid(a: Architecture, before: Mapping[str, Tokens], after: Mapping[str, Tokens]) -> dict[str, int]:
    """For each stream, how many of its first tokens keep their states and keys when what is read changes from
    `before` (the tokens (1, T) that a cache was made of) to `after`.

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
                there = (before.get(keys), after.get(keys))
                if there[0] is None or there[1] is None:
                    kept = 0
                else:
                    farthest = _seen(rule, heads, old, new, there[0], there[1], kept)
                    kept = _until(farthest <= found[keys], kept)
        own = [_seen(rule, heads, old, new, old, new, kept) for keys, rule in reads if keys == stream.name]
        kept = _closed(np.maximum.reduce(own), kept) if own else kept
        linear = any(read.mixer == "linear" for layer in stream.layers for read in layer.reads)
        found[stream.name] = 0 if linear and kept < old.ids.shape[1] else kept
    return found


def _alike(a: Architecture, stream: Stream, old: Tokens, new: Tokens) -> int:
    """How many first tokens go into the stream's first layer as they did."""
    n = min(old.ids.shape[1], new.ids.shape[1])
    told = [(t.ids, standing(a, stream, t), t.position, t.document) for t in (old, new)]
    same = np.ones(n, dtype=bool)
    for x, y in zip(*told, strict=True):
        same &= (x[0, :n] == y[0, :n]).cpu().numpy()
    if a.embeddings.segments:
        same &= (old.part[0, :n] == new.part[0, :n]).cpu().numpy()
    if isinstance(a.positions, TwoDimensional):
        for x, y in zip(map(_anchors, (old,)), map(_anchors, (new,)), strict=True):
            same &= x[:n] == y[:n]
        same &= (old.step[0, :n] == new.step[0, :n]).cpu().numpy()
    return _until(same, n)


def _anchors(tokens: Tokens) -> Numbers:
    anchor = (tokens.position - tokens.step).clamp(min=0) if tokens.anchor is None else tokens.anchor
    return anchor[0].cpu().numpy()


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


NEVER = np.iinfo(np.int64).max


def _seen(
    rule: Visibility, heads: int, old: Tokens, new: Tokens, keys_old: Tokens, keys_new: Tokens, n: int
) -> Numbers:
    """For the first `n` queries, the place after the last key that each sees; `NEVER` where what it sees has
    changed. By stretches of positions (`Visibility.spans`), so in linear time.
    """
    farthest = np.zeros(n, np.int64)
    for head in range(heads) if rule.differs_by_head else (0,):
        then, now = (
            _stretches(rule, head, heads, tokens, keys, n)
            for tokens, keys in ((old, keys_old), (new, keys_new))
        )
        changed = (then.shape != now.shape) or (then != now).any(axis=(0, 1))
        last = np.where(then[1] > then[0], then[1], 0).max(axis=0, initial=0)
        farthest = np.maximum(farthest, np.where(changed, NEVER, last))
    return farthest


def _stretches(rule: Visibility, head: int, heads: int, tokens: Tokens, keys: Tokens, n: int) -> Numbers:
    """(2, stretches, n): first place and the one after the last of what each query sees among the keys, joined
    where they touch, in order; empty ones are (0, 0) and come last.
    """
    where = Coordinates(
        *(axis[0, :n].cpu().numpy() for axis in (tokens.position, tokens.document, tokens.part))
    )
    position = keys.position[0].cpu().numpy()
    beginning, end = (int(position[0]), int(position[-1]) + 1) if len(position) else (0, 0)
    found = rule.spans(where, _split(tokens, keys), head, heads)
    ones = np.ones(n, np.int64)
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


def _split(*of: Tokens) -> int:
    """The position of the output's first token, or the one after the last there is."""
    found: list[int] = []
    for tokens in of:
        output = (tokens.part[0] == OUTPUT).nonzero()
        if len(output):
            found.append(int(tokens.position[0, output[0, 0]]))
    if found:
        return min(found)
    return max((int(t.position[0, -1]) + 1 for t in of if t.ids.shape[1]), default=0)
