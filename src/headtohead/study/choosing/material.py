"""How the user's data are cut for the ladder: vocabulary, windows, rows that hold them. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headtohead.data.corpora import Pairs
from headtohead.data.packing import plan_rows
from headtohead.data.shards import ExampleStore, order
from headtohead.errors import UserError
from headtohead.files import write_atomic
from headtohead.study.choosing.candidates import CANDIDATES, REFERENCE, Lengths
from headtohead.study.parts import ArmArchitecture, DataSettings, Shared
from headtohead.study.plan import Arm, Rung, Rungs, Study
from headtohead.study.prepare import PARTS, Source, prepare, read_source, row_lengths

VOCABULARIES = (256 + 64, 512, 1024, 2048, 4096, 8192)
BYTES_PER_ENTRY = 1500
"""Of text for each entry of the vocabulary, so that a rare one is still seen a few hundred times."""
WINDOW_BYTES = 384
LONGEST_WINDOW = 2048
BYTES_PER_TOKEN = 3
LONGEST_ROW = 1024
KEPT = 0.98
"""Of pairs: longer ones than this share of them would make every row as long as they are."""


@dataclass(frozen=True)
class Cut:
    """The study's data table, the material it cuts, and what its rows are like. `left_out`: pairs that are too long."""

    data: dict[str, Any]
    source: Source
    lengths: Lengths
    left_out: int


def cut(
    source: Source, serve: tuple[int | None, int | None], folder: Path, say: Callable[[str], None]
) -> Cut:
    """Decide how the material is cut, with the text prepared in `folder`/data as the studies will want it.

    Args:
        serve: tokens of a request's input and output, where they were told: windows of text are made that long,
            up to `LONGEST_WINDOW` bytes.

    Raises:
        UserError: too little text to learn from.
    """
    material = source.material
    if isinstance(material, Pairs):
        size = sum(len(side.encode()) for pair in material.pairs for side in (pair.input, pair.output))
        data: dict[str, Any] = {"vocabulary": _vocabulary(size), "window_bytes": WINDOW_BYTES}
        return _cut_pairs(source, material, data, folder, say)
    size = sum(len(document.text.encode()) for document in material.documents)
    asked = BYTES_PER_TOKEN * sum(part or 0 for part in serve)
    window = min(max(WINDOW_BYTES, asked), LONGEST_WINDOW)
    row = -(-window * 2 // 3 // 32) * 32
    data = {
        "vocabulary": _vocabulary(size),
        "window_bytes": window,
        "regions": ["continuation"],
        "row": row,
        "side": row * 9 // 16,
    }
    return Cut(data, source, _lengths(source, data, folder, say), 0)


def _vocabulary(size: int) -> int:
    fitting = [entries for entries in VOCABULARIES if entries * BYTES_PER_ENTRY <= size]
    return fitting[-1] if fitting else VOCABULARIES[0]


def _cut_pairs(
    source: Source, material: Pairs, data: dict[str, Any], folder: Path, say: Callable[[str], None]
) -> Cut:
    wide = {**data, "row": 2**16, "side": 2**16}
    prepare(_study(wide), source, folder / "measured", say)
    stores = [ExampleStore.open(folder / "measured", part) for part in PARTS]
    given, written = (np.concatenate(some) for some in zip(*(row_lengths([s]) for s in stores), strict=True))
    most = np.minimum(np.quantile(given + written, KEPT) + 2, LONGEST_ROW)
    side = np.minimum(np.quantile(np.maximum(given, written), KEPT) + 1, LONGEST_ROW)
    fits = (given + written + 2 <= most) & (np.maximum(given, written) + 1 <= side)
    # A pair's tokens change a little with the tokenizer of what is left, so rows get some room more.
    data = {**data, "row": _rounded(most * 1.1), "side": _rounded(side * 1.1)}
    kept = {
        store.documents[store[i].document]
        for store, at in zip(stores, np.split(fits, np.cumsum([len(s) for s in stores])[:-1]), strict=True)
        for i in np.flatnonzero(at).tolist()
    }
    some = [pair for pair in material.pairs if pair.name in kept]
    if len(some) < len(material.pairs):
        path = folder / "pairs.jsonl"
        lines = (json.dumps({"input": p.input, "output": p.output}, ensure_ascii=False) for p in some)
        write_atomic(path, "".join(line + "\n" for line in lines))
        say(
            f"{len(material.pairs) - len(some):,} of {len(material.pairs):,} pairs are longer than a row and left out"
        )
        source = read_source((), path, "text")
    lengths = _lengths(source, data, folder, say)
    return Cut(data, source, lengths, len(material.pairs) - len(some))


def _rounded(tokens: float) -> int:
    return max(32, -(-int(tokens) // 16) * 16)


def _lengths(source: Source, data: dict[str, Any], folder: Path, say: Callable[[str], None]) -> Lengths:
    study = _study(data)
    prepare(study, source, folder / "data", say)
    store = ExampleStore.open(folder / "data", "train")
    if len(store) < 64:
        raise UserError(
            f"{source.material.name} makes {len(store)} training examples: to choose by it takes 64 at the least, and "
            "thousands to tell architectures apart"
        )
    given, written = row_lengths([store])
    rows = len(plan_rows(given, written, order(len(store), 1, 0), row=data["row"], side=data["side"]))
    return Lengths(
        1 + round(float(given.mean())),
        1 + round(float(written.mean())),
        data["row"],
        data["side"],
        len(store) / rows,
        rows,
    )


def _study(data: dict[str, Any]) -> Study:
    """A study of nothing, for what `prepare` reads of one: its data."""
    rung, preset = Rung(steps=1), CANDIDATES[0].preset
    settings = {key: value for key, value in data.items() if key != "regions"}
    if "regions" in data:
        settings["regions"] = tuple(data["regions"])
    return Study(
        name="choose",
        title="choose",
        question="Which?",
        margin=0.01,
        seeds=(1,),
        data=DataSettings(**settings),
        architecture=Shared(d_model=32, heads=1, d_head=32, d_ff=64),
        recipe={"rows_per_step": 1},
        rungs=Rungs(rehearsal=rung, full=rung),
        arms=(
            Arm(
                key=REFERENCE,
                label=preset,
                supervise="output",
                architecture=ArmArchitecture(preset=preset),
            ),
        ),
    )
