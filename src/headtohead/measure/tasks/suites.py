"""Tasks that a program makes, and that networks of a million parameters can learn.

A question is a function of the suite, the seed and its number alone. Whether a question is for training or for
testing is decided by a hash of it, so none is ever in both, whatever the seeds and the numbers asked for.

copy        ``copy k f a q`` -> ``k f a q``
reverse     ``reverse k f a q`` -> ``q a f k``
lookup      ``k:3 f:9 a:0 ? f`` -> ``9``: the value that stands beside a key
regression  ``1:5 4:14 2:8 ? 3`` -> ``11``: a line y = a x + b from examples of it, in the context alone
arithmetic  ``37+58`` -> ``95``; sums and differences, of which some are below zero
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from headtohead.data.corpora import is_for_testing
from headtohead.data.objectives.base import Draws
from headtohead.errors import UserError
from headtohead.measure.tasks.files import Written
from headtohead.validation import suggest

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _letters(draws: Draws, size: int) -> list[str]:
    return [LETTERS[draws.below(len(LETTERS))] for _ in range(size)]


def _copy(draws: Draws, size: int) -> tuple[str, str]:
    text = " ".join(_letters(draws, size))
    return f"copy {text}", text


def _reverse(draws: Draws, size: int) -> tuple[str, str]:
    letters = _letters(draws, size)
    return f"reverse {' '.join(letters)}", " ".join(reversed(letters))


def _lookup(draws: Draws, size: int) -> tuple[str, str]:
    keys = draws.shuffled(LETTERS)[:size]
    values = [draws.below(10) for _ in keys]
    asked = draws.below(len(keys))
    return f"{' '.join(f'{k}:{v}' for k, v in zip(keys, values, strict=True))} ? {keys[asked]}", str(
        values[asked]
    )


def _regression(draws: Draws, size: int) -> tuple[str, str]:
    slope, start = 1 + draws.below(9), draws.below(10)
    places = draws.shuffled(range(max(10, size + 1)))[: size + 1]
    shown = " ".join(f"{x}:{slope * x + start}" for x in places[:-1])
    return f"{shown} ? {places[-1]}", str(slope * places[-1] + start)


def _arithmetic(draws: Draws, size: int) -> tuple[str, str]:
    first, second = draws.below(10**size), draws.below(10**size)
    if draws.below(2):
        return f"{first}+{second}", str(first + second)
    return f"{first}-{second}", str(first - second)


Make = Callable[[Draws, int], tuple[str, str]]
SUITES: dict[str, tuple[Make, int, int, int]] = {
    "copy": (_copy, 6, 3, 64),
    "reverse": (_reverse, 6, 3, 64),
    "lookup": (_lookup, 6, 2, 26),
    "regression": (_regression, 4, 2, 64),
    "arithmetic": (_arithmetic, 2, 1, 12),
}
"""By name: how a question is made, and its usual, smallest and largest size (letters, pairs, or digits)."""


def usual_size(name: str) -> int:
    """The size of a suite's questions if none is asked for.

    Raises:
        UserError: no such suite.
    """
    return _suite(name)[1]


def questions(name: str, amount: int, *, test: bool, size: int | None = None, seed: int = 0) -> list[Written]:
    """`amount` different questions of a suite, all for training or all for testing.

    Args:
        size: letters of copy and reverse, pairs of lookup and regression, digits of arithmetic.

    Raises:
        UserError: no such suite, a size it doesn't have, or more questions than there are.
    """
    make, usual, smallest, largest = _suite(name)
    size = usual if size is None else size
    if not smallest <= size <= largest:
        raise UserError(f"{name} has sizes from {smallest} to {largest}, not {size}")
    found: dict[str, Written] = {}
    misses = 0
    for number in count():
        if len(found) == amount:
            return list(found.values())
        text, answer = make(Draws(seed, f"{name} {size} {number}"), size)
        if is_for_testing(text) is test and text not in found:
            found[text] = Written(input=text, answers=(answer,))
            misses = 0
        elif (misses := misses + 1) > 2000 + 2 * len(found):
            kind = "testing" if test else "training"
            raise UserError(
                f"{name} of size {size} has hardly more than {len(found)} questions for {kind}: "
                f"ask for fewer, or for a larger size"
            )
    raise AssertionError("counting never ends")


def _suite(name: str) -> tuple[Make, int, int, int]:
    if name not in SUITES:
        raise UserError(f"unknown suite '{name}': {suggest(name, SUITES)}")
    return SUITES[name]
