"""Whom a network's answer can depend on, from its description alone.

A token of one place reaches another place's final state if there is a way from the one to the other: in each
sublayer a place takes in every place that some head lets it see, and keeps what it had (the residual). That
is a product of Boolean matrices over the layers. It goes across streams: a decoder's place that sees an
encoder's place is reached by whatever reaches that place's *final* state, in every layer.

Law 1 holds a network to it in both directions: what is not in the reach never changes an answer, what is
does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture, Read
from headtohead.model.visibility import OUTPUT, Coordinates, Visibility, sequence

Reach = dict[tuple[str, str], np.ndarray]
"""By (query stream, key stream): Boolean (…, Tq, Tk), whether the key's token reaches the query's final
state.
"""

TRIED = 8
"""Places of input and of output on which a description is tried for leaks."""


def reach(a: Architecture, coordinates: Mapping[str, Coordinates]) -> Reach:
    """The reach of every place of every stream.

    Args:
        a: the network.
        coordinates: NumPy arrays (…, T) for each stream by name, alike in all but T.

    Returns:
        A matrix for each stream with itself and with each earlier stream. Padding reaches itself alone.
    """
    found: Reach = {}
    for index, stream in enumerate(a.streams):
        sources = [s.name for s in a.streams[: index + 1]]
        now = {name: _nothing_yet(coordinates, stream.name, name) for name in sources}
        for reads in (group for layer in stream.expanded for group in layer.sublayers):
            taken = {name: matrix.copy() for name, matrix in now.items()}
            for read in reads:
                seen = _seen(read.visibility, coordinates[stream.name], coordinates[read.keys], a.heads)
                for name in sources:
                    through = now.get(name) if read.keys == stream.name else found.get((read.keys, name))
                    if through is not None:
                        taken[name] |= _product(seen, through)
            now = taken
        found.update({(stream.name, name): matrix for name, matrix in now.items()})
    return found


def _nothing_yet(coordinates: Mapping[str, Coordinates], queries: str, keys: str) -> np.ndarray:
    """Before the first layer a place holds its own token and nothing else."""
    q, k = coordinates[queries].position, coordinates[keys].position
    shape = (*q.shape, k.shape[-1])
    return np.broadcast_to(np.eye(*shape[-2:], dtype=bool) if queries == keys else False, shape).copy()


def _seen(rule: Visibility, q: Coordinates, k: Coordinates, heads: int) -> np.ndarray:
    """What at least one head sees: (…, Tq, Tk)."""
    return rule.dense(q, k, heads).any(axis=-3)


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The Boolean matrix product. Counts of up to 2^24 ways are exact in fp32, and only their being 0
    matters.
    """
    return np.matmul(left.astype(np.float32), right.astype(np.float32)) > 0


def check_supervision(a: Architecture, supervise: Literal["output", "all"]) -> None:
    """Whether the network can learn to predict those tokens.

    Raises:
        UserError: they are in no place of its last stream, or the places that predict them see them.
    """
    if supervise == "all" and a.output_stream.holds != "both":
        raise UserError(
            f"{a.name}: supervise = 'all' needs a last stream that holds the input too; "
            "its input stream predicts nothing, so supervise = 'output' is right"
        )
    if sees_its_answer(a, supervise):
        raise UserError(
            f"{a.name}: under its visibility, tokens that supervise = '{supervise}' asks to "
            "be predicted are seen by the places that predict them"
            + (
                "; give the output a view of what comes before it alone, such as 'causal' or 'prefix'"
                if sees_its_answer(a, "output")
                else "; supervise = 'output' is right"
            )
        )


def crossing(a: Architecture) -> tuple[str, Read] | None:
    """A stream, and the first of its reads under which documents that share a row see each other."""
    one = sequence(TRIED, TRIED)
    two = Coordinates(*(np.concatenate((array, array)) for array in one))
    two = two._replace(document=np.repeat([0, 1], 2 * TRIED))
    for stream in a.streams:
        for read in (read for layer in stream.layers for read in layer.reads):
            if (read.visibility.dense(two, two, a.heads) & (two.document[:, None] != two.document)).any():
                return stream.name, read
    return None


def sees_its_answer(a: Architecture, supervise: Literal["output", "all"]) -> bool:
    """Whether a place that predicts the next token is reached by that token, or by one after it, in any
    stream.

    Such a network copies its answers and learns nothing. `supervise`: which places predict, the output's or
    all of the last stream. Tried on `TRIED` places of input and of output, which no rule of distance or block
    can hide a leak from: a leak reaches the next place first.
    """
    whole = sequence(TRIED, TRIED)
    held = {"input": slice(0, TRIED), "output": slice(TRIED, None), "both": slice(None)}
    where = {s.name: Coordinates(*(array[held[s.holds]] for array in whole)) for s in a.streams}
    last = where[a.output_stream.name]
    asked = last.part == OUTPUT if supervise == "output" else np.ones(len(last.part), dtype=bool)
    found = reach(a, where)
    return any(
        bool((found[a.output_stream.name, name][asked] & (k.position > last.position[asked, None])).any())
        for name, k in where.items()
    )
