"""How the user's data are cut for the ladder: vocabulary, windows, rows that hold them. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headtohead.data.corpora import Corpus, Pairs
from headtohead.data.packing import plan_rows
from headtohead.data.shards import ExampleStore, order
from headtohead.data.splits import SMALLEST_BYTES, shares_that_hold, split_by_group
from headtohead.errors import UserError
from headtohead.files import write_atomic
from headtohead.study.choosing.candidates import CANDIDATES, REFERENCE, Lengths
from headtohead.study.parts import ArmArchitecture, DataSettings, Shared
from headtohead.study.plan import Arm, Rung, Rungs, Study
from headtohead.study.prepare import PARTS, SCORED_PARTS, Source, prepare, read_source, row_lengths

VOCABULARIES = (256 + 64, 512, 1024, 2048, 4096, 8192)
BYTES_PER_ENTRY = 1500
"""Of text for each entry of the vocabulary, so that a rare one is still seen a few hundred times."""
WINDOW_BYTES = 384
LONGEST_WINDOW = 2048
BYTES_PER_TOKEN = 3
LONGEST_ROW = 1024
"""Tokens that a pair may have, input and output together with their two special tokens."""
KEPT = 0.98
"""Of pairs: longer ones than this share of them would make every row as long as they are."""
ENOUGH_KEPT = 0.5
"""Of pairs: what is learnt from fewer says little about the others."""
HELD_OUT = 2
"""Texts that each part which is scored has at the least: what an input is worth is measured with that of another."""


@dataclass(frozen=True)
class Cut:
    """The study's data table, the material it cuts, and what its rows are like. `left_out`: how many pairs are too
    long, and `why` in words.
    """

    data: dict[str, Any]
    source: Source
    lengths: Lengths
    left_out: int = 0
    why: str = ""


def cut(
    source: Source, serve: tuple[int | None, int | None], folder: Path, say: Callable[[str], None]
) -> Cut:
    """Decide how the material is cut, with the text prepared in `folder`/data as the studies will want it.

    Args:
        serve: tokens of a request's input and output, where they were told: windows of text are made that long,
            up to `LONGEST_WINDOW` bytes.

    Raises:
        UserError: too little text to learn from or to hold out, pairs most of which are too long.
    """
    material = source.material
    shares = _shares(material, material.name, say)
    if isinstance(material, Pairs):
        size = sum(len(side.encode()) for pair in material.pairs for side in (pair.input, pair.output))
        data: dict[str, Any] = {"vocabulary": _vocabulary(size), "window_bytes": WINDOW_BYTES, **shares}
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
        **shares,
    }
    return Cut(data, source, _lengths(source, material.name, data, folder, say))


def _shares(material: Corpus | Pairs, name: str, say: Callable[[str], None]) -> dict[str, float]:
    """data.tune and data.test where the usual shares of few texts would be a single one.

    Raises:
        UserError: too few texts for two parts of them to be held out.
    """
    if isinstance(material, Pairs):
        texts, smallest, what, more = material.pairs, 0, "different inputs", "hundreds of different pairs"
    else:
        texts, smallest = material.documents, SMALLEST_BYTES
        what, more = "different texts or sections of texts", "12 texts or more, or a longer one"
    try:
        splits = split_by_group(texts, smallest_bytes=smallest)
    except UserError as error:  # it tells how many it takes to be split, which is fewer
        raise UserError(f"{name} makes fewer than 3 {what}: {_NEEDED}; give {more}") from error
    groups = {part: {found.group for found in getattr(splits, part)} for part in PARTS}
    if all(len(groups[part]) >= HELD_OUT for part in SCORED_PARTS):
        return {}
    every = set().union(*groups.values())
    if len(every) <= 2 * HELD_OUT:
        raise UserError(f"{name} makes {len(every)} {what}: {_NEEDED}; give {more}")
    found = shares_that_hold(every, HELD_OUT)
    if found is None:  # seldom: a text's place follows from its name
        raise UserError(
            f"{name} makes {len(every)} {what}, too few of which fall into the parts that are held out: give {more}"
        )
    tune, test = found
    say(f"{len(every)} {what} are few: {tune:.1%} of them are kept for tuning and {test:.1%} for testing")
    return {"tune": tune, "test": test}


_NEEDED = f"to choose by them takes {2 * HELD_OUT + 1} at the least, {HELD_OUT} to tune by and {HELD_OUT} to test on"


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
    held, longer = given + written + 2, np.maximum(given, written) + 1
    usual = np.quantile(held, KEPT)
    most = np.minimum(usual, LONGEST_ROW)
    side = np.minimum(np.quantile(longer, KEPT), LONGEST_ROW)
    fits = (held <= most) & (longer <= side)
    count, beyond = len(material.pairs), int((held > LONGEST_ROW).sum())
    if count - beyond < ENOUGH_KEPT * count:
        raise UserError(
            f"{material.name}: {beyond:,} of {count:,} pairs have more than {LONGEST_ROW:,} tokens, input and output "
            f"together, which is the most that choose compares by (half have {np.median(held):,.0f} or more): give "
            "shorter pairs, such as the part of each input that its output depends on"
        )
    # A pair's tokens change a little with the tokenizer of what is left, so rows get some room more.
    data = {**data, "row": _rounded(most * 1.1), "side": _rounded(side * 1.1)}
    kept = {
        store.documents[store[i].document]
        for store, at in zip(stores, np.split(fits, np.cumsum([len(s) for s in stores])[:-1]), strict=True)
        for i in np.flatnonzero(at).tolist()
    }
    some = [pair for pair in material.pairs if pair.name in kept]
    left_out = count - len(some)
    if not left_out:
        return Cut(data, source, _lengths(source, material.name, data, folder, say))
    limited = beyond if usual > LONGEST_ROW else 0
    reasons = {
        f"have more than {LONGEST_ROW:,} tokens, input and output together": limited,
        f"are longer, in all or on one side, than {KEPT:.0%} of all": left_out - limited,
    }
    why = " and ".join(f"{number:,} {reason}" for reason, number in reasons.items() if number)
    say(f"{left_out:,} of {count:,} pairs are left out: {why}")
    path = folder / "pairs.jsonl"
    lines = (json.dumps({"input": p.input, "output": p.output}, ensure_ascii=False) for p in some)
    write_atomic(path, "".join(line + "\n" for line in lines))
    source = read_source((), path, "text")
    usual_shares = {key: value for key, value in data.items() if key not in ("tune", "test")}
    data = {**usual_shares, **_shares(source.material, material.name, say)}
    return Cut(data, source, _lengths(source, material.name, data, folder, say), left_out, why)


def _rounded(tokens: float) -> int:
    return max(32, -(-int(tokens) // 16) * 16)


def _lengths(
    source: Source, name: str, data: dict[str, Any], folder: Path, say: Callable[[str], None]
) -> Lengths:
    study = _study(data)
    prepare(study, source, folder / "data", say)
    store = ExampleStore.open(folder / "data", "train")
    if len(store) < 64:
        raise UserError(
            f"{name} makes {len(store)} training examples: to choose by it takes 64 at the least, and "
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
