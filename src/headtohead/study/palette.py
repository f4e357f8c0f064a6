"""One colour and one mark for each arm, the same in every chart, table and drawing of a page.

The colours are told apart under deuteranopia, protanopia and tritanopia, each in a light and a dark variant
with a contrast of at least 4.5 : 1 against its background; the mark and a direct label say it again without
colour.
"""

from __future__ import annotations

from typing import NamedTuple


class Ink(NamedTuple):
    """An arm's look: its colour on a light and on a dark page, its mark in charts, its dash after the first
    round.
    """

    light: str
    dark: str
    mark: str
    dash: tuple[int, int]


PAPER_LIGHT, PAPER_DARK = "#fbfaf7", "#15171a"

_COLOURS = [
    ("#646b75", "#a3abb5"),  # grey: first comes the reference
    ("#1f66b0", "#6db0f5"),  # blue
    ("#0a8270", "#3cc7ae"),  # bluish green
    ("#b24e06", "#f59a52"),  # orange
    ("#ab3a78", "#ec8fc3"),  # reddish purple
    ("#8a6a00", "#e0c04a"),  # ochre
    ("#5a49b8", "#a99cf7"),  # violet
    ("#a32020", "#f08080"),  # red
]
_MARKS = [
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "triangle-down",
    "cross",
    "triangle-right",
    "triangle-left",
]
_DASHES = [(1, 0), (6, 3), (2, 2)]


def inks(count: int) -> list[Ink]:
    """The looks of `count` arms, in order. From the ninth on colours return, with other dashes and marks."""
    return [
        Ink(
            *_COLOURS[index % len(_COLOURS)],
            _MARKS[(index + index // len(_COLOURS)) % len(_MARKS)],
            _DASHES[(index // len(_COLOURS)) % len(_DASHES)],
        )
        for index in range(count)
    ]
