"""docs/architectures.md: every family of presets with its drawing and what there is to say about it.

    python -m headtohead.study.gallery [docs]

`make docs` runs it. The page is made from the presets alone; nothing on it is kept elsewhere.
"""

from __future__ import annotations

import sys
from pathlib import Path

from headtohead.files import write_atomic
from headtohead.model.architecture import Architecture
from headtohead.model.budget import parameters
from headtohead.model.presets import Family, architecture, families
from headtohead.study import objectives
from headtohead.study.drawing import drawing, plain
from headtohead.study.tables import decimal

SHOWN = "mini"
PAGE, PICTURES = "architectures.md", "architectures"
OPENING = """# Architectures

Every family of presets: one description each, run by the one Transformer. A drawing shows a laptop size: the stacks,
and who sees whom for a document of four tokens of input and four of output (rows see columns; paler where some heads
do). `headtohead draw NAME` shows the same in the terminal, head by head; `headtohead budget NAME` counts it.

This page is made from the presets (`src/headtohead/model/presets/`) by `make docs`.
"""


def shown(family: Family) -> Architecture:
    """The network of a family that is drawn."""
    sizes = list(family.sizes)
    return architecture(f"{family.name}-{SHOWN if SHOWN in sizes else sizes[-1]}")


def _sees(a: Architecture) -> str:
    found: dict[str, None] = {}
    for stream in a.streams:
        for layer in stream.layers:
            for read in layer.reads:
                rule = (
                    plain(read).removeprefix("(").removesuffix(")")
                    if plain(read).count("(") == 1
                    else plain(read)
                )
                found[rule if read.keys == stream.name else f"{read.keys}: {plain(read)}"] = None
    return "; ".join(found)


def entry(family: Family) -> str:
    """One family's part of the page."""
    sizes = ", ".join(
        f"{size} {decimal(parameters(architecture(f'{family.name}-{size}'))['total'])}"
        for size in family.sizes
    )
    return (
        f"## {family.title}\n\n`{family.name}` · {family.source}\n\n"
        f"![{family.title}]({PICTURES}/{family.name}.svg)\n\n{family.about}\n\n"
        f"Parameters: {sizes}.\n"
    )


OBJECTIVES = "objectives.md"


def page() -> str:
    """The whole page, Markdown."""
    rows = ["| family | who sees whom | positions | norms | feed-forward |", "|---|---|---|---|---|"]
    for family in families().values():
        a = shown(family)
        link = family.title.lower().replace(" ", "-")
        link = "".join(character for character in link if character.isalnum() or character in "-_")
        norms = f"{'LayerNorm' if a.norms.kind == 'layer' else 'RMSNorm'} {a.norms.place}"
        rows.append(
            f"| [{family.name}](#{link}) | {_sees(a).replace('|', 'or')} | {a.positions.kind} | {norms} "
            f"| {a.feed_forward} |"
        )
    return "\n".join([OPENING, *rows, "", *map(entry, families().values())])


def write(docs: Path) -> None:
    """Write the page and its pictures under `docs`."""
    write_atomic(docs / PAGE, page())
    write_atomic(docs / OBJECTIVES, objectives.page())
    (docs / PICTURES).mkdir(exist_ok=True)
    for family in families().values():
        write_atomic(docs / PICTURES / f"{family.name}.svg", drawing(shown(family)))


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
