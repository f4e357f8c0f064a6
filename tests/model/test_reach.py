"""The reach against ways walked one step at a time, and in cases that can be seen by eye."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headtohead.model.architecture import Architecture, Layer, Read, Stream, one_stack, two_stacks
from headtohead.model.presets import architecture
from headtohead.model.reach import reach
from headtohead.model.visibility import Coordinates, sequence

SIZES: dict[str, Any] = {"d_model": 16, "heads": 2, "d_head": 8, "vocabulary": 32, "d_ff": 32}


def cut(input: int, output: int) -> dict[str, Coordinates]:
    whole = sequence(input, output)
    return {
        "text": whole,
        "input": Coordinates(*(array[:input] for array in whole)),
        "output": Coordinates(*(array[input:] for array in whole)),
    }


def walked(a: Architecture, where: dict[str, Coordinates]) -> dict[tuple[str, str], np.ndarray]:
    """The same by a walk back from each place through single layers and heads, without matrices."""

    def sources(stream: Stream, layer: int, place: int) -> set[tuple[str, int]]:
        """Tokens that the state of a place before a layer depends on."""
        if layer == 0:
            return {(stream.name, place)}
        states = {(stream.name, place)}  # of this stream: what enters this layer
        ends: set[tuple[str, int]] = set()
        for group in reversed(stream.expanded[layer - 1].sublayers):
            for _, at in list(states):
                for read in group:
                    seen = read.visibility.dense(where[stream.name], where[read.keys], a.heads)[:, at]
                    for key in np.flatnonzero(seen.any(axis=0)).tolist():
                        if read.keys == stream.name:
                            states.add((stream.name, key))
                        else:
                            other = a.stream(read.keys)
                            ends |= sources(other, other.depth, key)
        for _, at in states:
            ends |= sources(stream, layer - 1, at)
        return ends

    found = {}
    for index, stream in enumerate(a.streams):
        for earlier in a.streams[: index + 1]:
            shape = (len(where[stream.name].position), len(where[earlier.name].position))
            found[stream.name, earlier.name] = np.zeros(shape, dtype=bool)
        for place in range(len(where[stream.name].position)):
            for name, key in sources(stream, stream.depth, place):
                found[stream.name, name][place, key] = True
    return found


def described(*streams: Stream) -> Architecture:
    return Architecture(
        name="a description", streams=streams, **{k: v for k, v in SIZES.items() if k != "d_ff"}
    )


def read(keys: str, visibility: str, merged: bool = False) -> Read:
    return Read.model_validate({"keys": keys, "visibility": visibility, "merged": merged})


MERGED = described(
    Stream(
        name="input", holds="input", layers=(Layer(reads=(read("input", "window(2)"),), d_ff=32, repeat=2),)
    ),
    Stream(
        name="output",
        holds="output",
        layers=(
            Layer(
                reads=(read("output", "causal & window(2)"), read("input", "window(4)", merged=True)), d_ff=32
            ),
            Layer(
                reads=(read("output", "same_block(2) & causal"), read("input", "earlier_block(2)")), d_ff=32
            ),
        ),
    ),
)


@pytest.mark.parametrize(
    "a",
    [
        one_stack("causal", "causal", depth=1, **SIZES),
        one_stack("window", "window(2) & causal", depth=3, **SIZES),
        one_stack("heads", "by_head(causal & window(2), anticausal & window(3))", depth=2, **SIZES),
        one_stack("prefix", "prefix", depth=2, **SIZES),
        two_stacks("two", "full", depths=(1, 2), **SIZES),
        two_stacks("two, causal", "causal & window(3)", depths=(2, 1), **SIZES),
        MERGED,
    ],
    ids=lambda a: a.name,
)
def test_reach_is_every_way_that_can_be_walked(a: Architecture) -> None:
    where = cut(5, 4)
    expected = walked(a, where)
    found = reach(a, where)
    assert found.keys() == expected.keys()
    for key in expected:
        assert (found[key] == expected[key]).all(), key


def test_depth_widens_a_window() -> None:
    where = cut(0, 9)
    for depth in (1, 2, 3):
        found = reach(one_stack("window", "causal & window(3)", depth=depth, **SIZES), where)["text", "text"]
        assert found[8].nonzero()[0].tolist() == list(range(8 - 2 * depth, 9))


def test_a_full_encoder_lets_every_output_depend_on_the_whole_input() -> None:
    found = reach(architecture("redllm-nano"), cut(6, 3))
    assert found["output", "input"].all()
    assert found["input", "input"].all()
    assert (found["output", "output"] == np.tri(3, dtype=bool)).all()
    assert ("input", "output") not in found


def test_documents_and_padding_are_out_of_each_others_reach() -> None:
    where = Coordinates(
        *(np.array([row]) for row in ([0, 1, 2, 0, 1, 0], [0, 0, 0, 1, 1, -1], [0, 0, 1, 0, 1, 0]))
    )
    found = reach(architecture("prefix-nano"), {"text": where})["text", "text"]
    assert found.shape == (1, 6, 6)
    assert found[0].astype(int).tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
