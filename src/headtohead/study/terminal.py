"""A network in the terminal: its stacks in words, and who sees whom as small matrices.

From the description alone, like the SVG drawing. Imports no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import numpy as np
from rich.console import Console
from rich.text import Text

from headtohead.model.architecture import Architecture, Layer, Read, Stream
from headtohead.model.budget import parameter_groups
from headtohead.model.presets import architecture
from headtohead.model.visibility import INPUT, ByHead, Coordinates, Visibility, sequence
from headtohead.study.drawing import TOKENS_IN, TOKENS_OUT, patterns, plain
from headtohead.study.tables import decimal

SEES, BLIND, GAP = "■", "·", "  "
INPUT_STYLE, OUTPUT_STYLE, ACROSS_STYLE = "cyan", "green", "magenta"


def show(name: str) -> None:
    """Print the drawing of a preset.

    Raises:
        UserError: an unknown name.
    """
    a = architecture(name)
    console = Console(file=sys.stdout, highlight=False)
    for line in lines(a):
        console.print(line, soft_wrap=True)


def lines(a: Architecture) -> list[Text]:
    """The drawing, line by line."""
    found = [Text(a.name, style="bold"), Text(_about(a), style="dim"), Text()]
    for stream in reversed(a.streams):
        found += _stack(a, stream)
    found += matrices(a, _tokens)
    found.append(
        Text(f"rows see columns: {SEES} seen, {BLIND} not; x input, ▸ start of the output, y output")
    )
    narrow = _narrower(a)
    if narrow:
        found.append(
            Text(f"{narrow}: wider than these {TOKENS_IN + TOKENS_OUT} tokens, so nothing of it shows here")
        )
    return found


Held = Callable[[Stream], tuple[Coordinates, list[str]]]
"""Where the tokens of a stream stand in the document that is drawn, and a letter for each."""


def matrices(a: Architecture, held: Held) -> list[Text]:
    """Who sees whom of a document's tokens, for every list of layers and group of heads."""
    return [
        line
        for stream in a.streams
        for layer, numbers in patterns(stream)
        for heads, chosen in _groups(a, stream, layer, held)
        for line in _matrix(a, stream, layer, numbers, heads, chosen, held)
    ]


def _about(a: Architecture) -> str:
    groups = cast(dict[str, int], parameter_groups(a))
    parts = ", ".join(f"{name.replace('_', ' ')} {decimal(count)}" for name, count in groups.items() if count)
    across = getattr(a.positions, "across", None) if a.two_streams else None
    positions = a.positions.kind if across is None else f"{a.positions.kind} ({across})"
    norms = {"rms": "RMSNorm", "layer": "LayerNorm"}[a.norms.kind]
    place = {"before": "before", "after": "after", "both": "before and after"}[a.norms.place]
    tied = "tied head" if a.embeddings.tied else "head of its own"
    return (
        f"{decimal(sum(groups.values()))} parameters ({parts})\n"
        f"positions {positions}; {norms} {place} each sublayer; {a.feed_forward}; {tied}"
    )


def _stack(a: Architecture, stream: Stream) -> list[Text]:
    width = a.width(stream)
    keys = f", {width.key_heads} of keys" if width.key_heads else ""
    shared = f", the weights of '{stream.shares}'" if stream.shares else ""
    found = [
        Text.assemble(
            (f"{stream.name}", "bold"),
            f"  {stream.depth} layers of width {width.d_model}, {width.heads} heads of {width.d_head}{keys}{shared}",
        )
    ]
    for layer, numbers in reversed(patterns(stream)):
        reads = "; ".join(_said(group, stream) for group in layer.sublayers)
        found.append(Text(f"  {_numbers(numbers, stream.depth):<16} {reads}; feed-forward {layer.d_ff}"))
    return [*found, Text()]


def _said(group: tuple[Read, ...], stream: Stream) -> str:
    words = [plain(read) if read.keys == stream.name else f"{read.keys}: {plain(read)}" for read in group]
    kind = "linear " if group[0].mixer == "linear" else ""
    return kind + (" merged with ".join(words))


def _numbers(numbers: list[int], depth: int) -> str:
    if len(numbers) == depth:
        return "every layer"
    step = {b - a for a, b in pairwise(numbers)}
    if len(numbers) > 3 and len(step) == 1:
        return f"layers {numbers[0]}, {numbers[1]} … {numbers[-1]}"
    return f"layer{'s' * (len(numbers) > 1)} " + (
        ", ".join(map(str, numbers)) if len(numbers) <= 4 else f"{numbers[0]}, {numbers[1]}, {numbers[2]} …"
    )


def _groups(a: Architecture, stream: Stream, layer: Layer, held: Held) -> list[tuple[str, int]]:
    """Groups of heads that see alike: what they are called, and one of them."""
    heads = a.width(stream).heads
    alike: dict[bytes, list[int]] = {}
    reads = [_seen(a, stream, read, held) for read in layer.reads]
    for head in range(heads):
        seen = b"".join(matrix[min(head, len(matrix) - 1)].tobytes() for matrix in reads)
        alike.setdefault(seen, []).append(head)
    if len(alike) == 1:
        return [("all heads", 0)]
    return [
        (f"heads {some[0] + 1}–{some[-1] + 1}" if len(some) > 1 else f"head {some[0] + 1}", some[0])
        for some in alike.values()
    ]


def _tokens(stream: Stream) -> tuple[Coordinates, list[str]]:
    whole = sequence(TOKENS_IN, TOKENS_OUT)
    inside = whole.part == INPUT
    held = {"both": np.ones_like(inside), "input": inside, "output": ~inside}[stream.holds]
    labels = ["x"] * TOKENS_IN + ["▸"] + ["y"] * (TOKENS_OUT - 1)
    return Coordinates(*(array[held] for array in whole)), [labels[i] for i in np.flatnonzero(held)]


def _seen(a: Architecture, stream: Stream, read: Read, held: Held) -> np.ndarray:
    """(heads or 1, queries, keys) of the document."""
    (queries, _), (keys, _) = held(stream), held(a.stream(read.keys))
    return np.asarray(read.visibility.dense(queries, keys, a.width(stream).heads))


def _matrix(
    a: Architecture, stream: Stream, layer: Layer, numbers: list[int], heads: str, chosen: int, held: Held
) -> list[Text]:
    title = f"{stream.name}, {_numbers(numbers, stream.depth)}, {heads}"
    found = [Text(title, style="bold")]
    header = Text("    ")
    blocks: list[tuple[np.ndarray, str]] = []
    for read in layer.reads:
        seen = _seen(a, stream, read, held)
        _, columns = held(a.stream(read.keys))
        own = read.keys == stream.name
        style = INPUT_STYLE if own and stream.holds == "input" else OUTPUT_STYLE if own else ACROSS_STYLE
        blocks.append((seen[min(chosen, len(seen) - 1)], style))
        header.append(" ".join(columns) + GAP, style="dim")
    found.append(header)
    _, rows = held(stream)
    for index, row in enumerate(rows):
        line = Text(f"  {row} ")
        for matrix, style in blocks:
            for seen in matrix[index]:
                line.append((SEES if seen else BLIND) + " ", style=style if seen else "dim")
            line.append(" ")
        found.append(line)
    if len(layer.reads) > 1:
        names = [read.keys for read in layer.reads]
        found.append(Text("    keys: " + ", then ".join(names), style="dim"))
    return [*found, Text()]


def _narrower(a: Architecture) -> str:
    """The windows and blocks that a short document doesn't reach the end of, as they are written."""
    found: dict[str, None] = {}

    def visit(rule: Visibility) -> None:
        if isinstance(rule, ByHead):
            for inner in rule.rules:
                visit(inner)
        elif hasattr(rule, "left"):
            visit(rule.left)  # type: ignore[attr-defined]
            visit(rule.right)  # type: ignore[attr-defined]
        elif "(" in str(rule) and int(str(rule).partition("(")[2].rstrip(")")) >= TOKENS_IN + TOKENS_OUT:
            found[str(rule)] = None

    for stream in a.streams:
        for layer in stream.layers:
            for read in layer.reads:
                visit(read.visibility)
    return ", ".join(found)
