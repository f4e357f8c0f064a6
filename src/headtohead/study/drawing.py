"""Drawings of an architecture: its stacks, and who sees whom, as plain SVG.

Everything is drawn from the description: the matrix is `Visibility.dense` over one short document, never a
picture kept for a family's name, so an architecture that nobody has drawn yet is drawn right. Imports neither
torch nor altair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from headtohead.errors import UserError
from headtohead.files import write_atomic
from headtohead.model.architecture import Architecture, Layer, Read, Stream
from headtohead.model.presets import architecture
from headtohead.model.visibility import INPUT, Coordinates, sequence
from headtohead.study.palette import PAPER_LIGHT

TOKENS_IN, TOKENS_OUT = 4, 4
"""The document in the matrices: four tokens of input; the start token and three tokens of output."""

CELL, PART_GAP, STREAM_GAP, HEADER = 17, 5, 11, 22

PAGE = {"ink": "var(--ink)", "soft": "var(--soft)", "faint": "var(--line)", "panel": "var(--panel)"}
"""Colours inside the page: its own variables, so a drawing follows light and dark."""
FILE = {"ink": "#1c1e21", "soft": "#5d636b", "faint": "#d8d5cd", "panel": "#f1efe9"}
"""Colours of a file that stands alone."""
INK_OF_A_FILE = "#1f66b0"


def markdown(text: object) -> Markup:
    """Text that Markdown and HTML leave alone, in one line: for cells, list items and headings."""
    line = " ".join(str(text).split())
    for character in "\\`*_{}[]<>#|~!&$":
        line = line.replace(character, "\\" + character)
    return Markup(line)


@cache
def environment() -> jinja2.Environment:
    """Templates beside this file; everything is escaped, an unknown name is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["md"] = markdown
    return made


# --------------------------------------------------------------------------------------------------------
# Who sees whom


@dataclass(frozen=True)
class Cell:
    """A query that sees a key, in that `share` of the heads; `across`: a key of another stream."""

    x: float
    y: float
    share: float
    across: bool
    title: str


@dataclass(frozen=True)
class Frame:
    """The rows of one stream: what lies in one frame runs through one set of weights."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Panel:
    """One matrix: a row for each query token, a column for each key token."""

    caption: str
    width: float
    height: float
    columns: list[tuple[float, str, bool]]  # centre, label, is it an input token
    rows: list[tuple[float, str, bool]]
    cells: list[Cell]
    frames: list[Frame]


def _tokens(stream: Stream) -> tuple[Coordinates, list[str]]:
    whole = sequence(TOKENS_IN, TOKENS_OUT)
    labels = [f"x{i}" for i in range(1, TOKENS_IN + 1)] + ["▸"] + [f"y{i}" for i in range(1, TOKENS_OUT)]
    inside = whole.part == INPUT
    held = {"both": np.ones_like(inside), "input": inside, "output": ~inside}[stream.holds]
    return Coordinates(*(array[held] for array in whole)), [labels[i] for i in np.flatnonzero(held)]


def patterns(stream: Stream) -> list[tuple[Layer, list[int]]]:
    """The stream's different lists of reads, each with the numbers (from 1) of the layers that have it."""
    found: dict[tuple[Read, ...], tuple[Layer, list[int]]] = {}
    for number, layer in enumerate(stream.expanded, start=1):
        found.setdefault(layer.reads, (layer, []))[1].append(number)
    return list(found.values())


def _layers(numbers: list[int], depth: int) -> str:
    if len(numbers) == depth:
        return f"{depth} layer{'s' * (depth != 1)}"
    if len(numbers) > 1 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"layers {numbers[0]}–{numbers[-1]}"
    return f"layer{'s' * (len(numbers) != 1)} {', '.join(map(str, numbers))}"


def panels(a: Architecture) -> list[Panel]:
    """The matrices of `a`: one if all layers of a stream read alike, more if they don't."""
    kinds = {stream.name: patterns(stream) for stream in a.streams}
    return [_panel(a, kinds, index) for index in range(max(map(len, kinds.values())))]


def _panel(a: Architecture, kinds: dict[str, list[tuple[Layer, list[int]]]], index: int) -> Panel:
    places: dict[str, list[float]] = {}
    labels: list[tuple[float, str, bool]] = []
    at = 0.0
    for stream in a.streams:
        coordinates, names = _tokens(stream)
        places[stream.name] = []
        at += STREAM_GAP * bool(labels)
        for n, name in enumerate(names):
            if n and coordinates.part[n] != coordinates.part[n - 1]:
                at += PART_GAP
            places[stream.name].append(at)
            labels.append((at + CELL / 2, name, bool(coordinates.part[n] == INPUT)))
            at += CELL
    cells: list[Cell] = []
    frames: list[Frame] = []
    captions: list[str] = []
    for stream in a.streams:
        layer, numbers = kinds[stream.name][min(index, len(kinds[stream.name]) - 1)]
        seen: list[float] = []
        for read in layer.reads:
            cells += _cells(a, stream, read, places)
            seen += places[read.keys]
        rows = places[stream.name]
        frames.append(Frame(min(seen), rows[0], max(seen) + CELL - min(seen), rows[-1] + CELL - rows[0]))
        role = {"both": "", "input": "encoder ", "output": "decoder "}[stream.holds]
        captions.append(role + _layers(numbers, stream.depth))
    return Panel(", ".join(captions), at + HEADER, at + HEADER, labels, labels, cells, frames)


def _cells(a: Architecture, stream: Stream, read: Read, places: dict[str, list[float]]) -> list[Cell]:
    (queries, rows), (keys, columns) = _tokens(stream), _tokens(a.stream(read.keys))
    share = np.asarray(read.visibility.dense(queries, keys, a.width(stream).heads)).mean(axis=-3)
    across = read.keys != stream.name and not read.merged
    return [
        Cell(
            places[read.keys][j],
            places[stream.name][i],
            float(share[i, j]),
            across,
            f"{rows[i]} sees {columns[j]}"
            + (f" in {share[i, j]:.0%} of the heads" if share[i, j] < 1 else ""),
        )
        for i, j in np.argwhere(share > 0).tolist()
    ]


# --------------------------------------------------------------------------------------------------------
# The stacks

BOX, LINE, BLOCK_GAP, COLUMN, BETWEEN = 206, 25, 12, 206, 64


@dataclass(frozen=True)
class Sublayer:
    """A line of a block: what it does, and whether it reads another stream."""

    y: float
    text: str
    kind: str  # "self", "cross" or "feed-forward"
    keys: str


@dataclass(frozen=True)
class Block:
    """Layers that are alike, drawn once with how often they come."""

    y: float
    height: float
    times: int
    sublayers: list[Sublayer]


@dataclass(frozen=True)
class Column:
    """One stack, from its tokens at the bottom to its final states at the top."""

    x: float
    top: float
    blocks: list[Block]
    title: str
    tokens: str


@dataclass(frozen=True)
class Stacks:
    """All stacks, and the paths along which later ones read earlier ones."""

    width: float
    height: float
    columns: list[Column]
    paths: list[str]
    base: float


def plain(read: Read) -> str:
    """The read's visibility for the drawing; that documents of a row don't see each other goes without
    saying.
    """
    text = str(read.visibility)
    return text.removesuffix(" & same_document")


def _sublayers(stream: Stream, layer: Layer) -> list[tuple[str, str, str]]:
    lines = []
    for group in layer.sublayers:
        first, *_, last = (group[0], *group)
        kind = "self" if first.keys == stream.name else "cross"
        what = "self-attention" if kind == "self" else f"attention to {first.keys}"
        if len(group) > 1:
            what = "merged attention"
        text = f"{what}: " + " + ".join(f"{r.keys} {plain(r)}" if len(group) > 1 else plain(r) for r in group)
        lines.append((text, "self" if len(group) > 1 else kind, last.keys))
    return [*lines, (f"feed-forward: {layer.d_ff}", "feed-forward", "")]


def _runs(stream: Stream) -> list[tuple[Layer, int]]:
    """The layers in order, equal neighbours together."""
    runs: list[tuple[Layer, int]] = []
    for layer in stream.expanded:
        alone = layer.model_copy(update={"repeat": 1})
        if runs and runs[-1][0] == alone:
            runs[-1] = (alone, runs[-1][1] + 1)
        else:
            runs.append((alone, 1))
    return runs


def stacks(a: Architecture) -> Stacks:
    """The stacks of `a`, laid out: origin at the top left, the tokens at the bottom."""
    heights = [
        sum(len(_sublayers(s, layer)) * LINE + 8 + BLOCK_GAP for layer, _ in _runs(s)) for s in a.streams
    ]
    top = 26.0
    base = top + max(heights)
    columns: list[Column] = []
    for number, stream in enumerate(a.streams):
        y = base
        blocks: list[Block] = []
        for layer, times in _runs(stream):
            lines = _sublayers(stream, layer)
            height = len(lines) * LINE + 8
            y -= height
            inside = [
                Sublayer(y + height - 4 - LINE * (n + 1), text, kind, keys)
                for n, (text, kind, keys) in enumerate(lines)
            ]
            blocks.append(Block(y, height, times, inside))
            y -= BLOCK_GAP
        tokens = {"both": "x1 … x4  ▸  y1 y2 y3", "input": "x1 x2 x3 x4", "output": "▸  y1 y2 y3"}[
            stream.holds
        ]
        title = {"both": "input and output", "input": "input", "output": "output"}[stream.holds]
        columns.append(Column(number * (COLUMN + BETWEEN + 26), y + BLOCK_GAP, blocks, title, tokens))
    return Stacks(columns[-1].x + BOX + 34, base + 48, columns, _paths(a, columns), base)


def _paths(a: Architecture, columns: list[Column]) -> list[str]:
    """From the top of the stream that is read, round to every sublayer of the other stream that reads it."""
    names = [stream.name for stream in a.streams]
    found = []
    for name, column in zip(names, columns, strict=True):
        for line in (line for block in column.blocks for line in block.sublayers):
            if line.keys in names and line.keys != name:
                source = columns[names.index(line.keys)]
                out, turn, into = source.x + BOX / 2, column.x - BETWEEN / 2, column.x
                y = line.y + LINE / 2
                found.append(f"M{out:g},{source.top:g} V{source.top - 12:g} H{turn:g} V{y:g} H{into - 3:g}")
    return found


# --------------------------------------------------------------------------------------------------------
# Out


def sentence(a: Architecture) -> str:
    """Who sees whom, in words: what a screen reader says, and the drawing's title."""
    parts = []
    for stream in a.streams:
        for layer, numbers in patterns(stream):
            reads = ", ".join(
                f"{read.keys} ({plain(read)}{', merged' if read.merged else ''})" for read in layer.reads
            )
            parts.append(f"stream {stream.name}, {_layers(numbers, stream.depth)}, reads {reads}")
    return "; ".join(parts)


def who_sees_whom(a: Architecture, colour: str, theme: Mapping[str, str] = PAGE) -> Markup:
    """The matrices of `a` as one inline SVG element for the page."""
    found = panels(a)
    return _render("matrices.svg.jinja", a=a, panels=found, t=theme, colour=colour)


def drawing(a: Architecture, colour: str = INK_OF_A_FILE, theme: Mapping[str, str] = FILE) -> str:
    """The whole drawing as an SVG file's text: the stacks, the matrices, the sizes."""
    return str(
        _render(
            "drawing.svg.jinja",
            a=a,
            stacks=stacks(a),
            panels=panels(a),
            t=theme,
            colour=colour,
            paper=PAPER_LIGHT,
        )
    )


def _render(template: str, **values: Any) -> Markup:
    geometry = {"CELL": CELL, "HEADER": HEADER, "BOX": BOX, "LINE": LINE}
    text = environment().get_template(template).render(**values, **geometry, sentence=sentence(values["a"]))
    return Markup(text)  # made by a template that escapes


def draw(name: str, out: Path) -> None:
    """Write the drawing of the preset `name` to `out`.

    Raises:
        UserError: for an unknown name, or a file that is no .svg or can't be written.
    """
    if out.suffix.lower() != ".svg":
        raise UserError(f"{out}: the drawing is an SVG picture: name a file that ends in .svg")
    write_atomic(out, drawing(architecture(name)))
