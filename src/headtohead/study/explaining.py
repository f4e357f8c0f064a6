"""One real batch, token by token: what an arm is shown, what it has to say, and who sees whom.

The first row that a run trains on, as its layout makes it: nothing here is made up for the picture.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headtohead.data.layouts import Layout
from headtohead.data.objectives import Objective
from headtohead.data.packing import Supervise, plan_rows
from headtohead.data.shards import SPECIALS, Example, ExampleStore, order
from headtohead.data.stream import Sharded, StreamRows
from headtohead.data.tokenizers import Tokenizer, load_tokenizer
from headtohead.errors import UserError
from headtohead.model.architecture import Architecture, Stream
from headtohead.model.batch import Batch
from headtohead.model.parts import TwoDimensional
from headtohead.model.visibility import INPUT, OUTPUT, Coordinates
from headtohead.study.arms import matched_arms
from headtohead.study.loading import load
from headtohead.study.prepare import prepare, read_data, read_source, training_lengths
from headtohead.study.results import learnt_by, read_run
from headtohead.study.terminal import INPUT_STYLE, OUTPUT_STYLE, matrices
from headtohead.validation import suggest

MOST_IN_MATRICES = 28
"""Tokens of an example of which who sees whom is drawn pair by pair, on a wide terminal: more don't fit a screen."""
BESIDE_MATRICES = 8
"""Characters of a matrix's line that are no token's: the row's letter, and the gap after each read."""


@dataclass(frozen=True)
class Shown:
    """What is explained: an arm's network and the examples of the first row it trains on."""

    title: str
    network: Architecture
    supervise: Supervise
    row: int
    side: int
    examples: tuple[Example, ...]
    documents: tuple[str, ...]
    tokenizer: Tokenizer
    others: tuple[str, ...] = ()


def explain(
    target: Path, arm: str | None, number: int, tokens: int, text: list[Path], field: str = "text"
) -> None:
    """Print the batch of a study's arm, or of a run.

    Args:
        number: which example of the row is explained, from 1.
        tokens: how many of its tokens are shown at most, of each stream.

    Raises:
        UserError: neither a study nor a run, an unknown arm, or fewer examples in the row.
    """
    if target.is_dir():
        shown = _of_run(target)
    else:
        with tempfile.TemporaryDirectory(prefix="headtohead-") as folder:
            shown = _of_study(target, arm, text, field, Path(folder) / "data")
    if not 1 <= number <= len(shown.examples):
        raise UserError(f"--example {number}: the row holds {len(shown.examples)}, counted from 1")
    console = Console(file=sys.stdout, highlight=False)
    for part in rendered(shown, number - 1, tokens, console.width):
        console.print(part)


def _of_run(folder: Path) -> Shown:
    description = read_run(folder)
    wanted = description["data"]
    data = (folder / wanted["folder"]).resolve()
    network = Architecture.model_validate(description["architecture"])
    title = f"{folder.name}: {description['label']}, {_learns(learnt_by(folder, description))}"
    if wanted.get("shards"):
        sharded, key, seed = Sharded.open(data), wanted["train"], description["recipe"]["seed"]
        rows = StreamRows(
            sharded, seed=seed, rows_per_step=1, row=wanted["row"], side=wanted["side"], objective=key
        )
        examples, store = rows.at(0)[0], sharded.store("train", key)
        names = tuple(store.name_of(e.document) for e in examples)
        return Shown(
            title, network, description["supervise"], wanted["row"], wanted["side"], examples, names,
            sharded.tokenizer(),
        )  # fmt: skip
    read_data(data)
    return _first_row(
        title, network, description["supervise"], wanted["row"], wanted["side"], data,
        wanted.get("train", "train"), list(wanted["stores"]), description["recipe"]["seed"],
    )  # fmt: skip


def _of_study(file: Path, key: str | None, text: list[Path], field: str, folder: Path) -> Shown:
    study, _ = load(file)
    arms = matched_arms(study)
    if key is not None and key not in arms:
        raise UserError(f"{file} has no arm '{key}': {suggest(key, list(arms))}")
    matched = arms[key or next(iter(arms))]
    data = prepare(study, read_source(text, None, field), folder, lambda line: None)
    own = matched.arm.objective
    learnt = [study.data.objective(region) for region in study.data.regions] if own is None else [own]
    found = _first_row(
        f"{study.name}: {matched.arm.label}, {_learns(learnt)}", matched.architecture, matched.arm.supervise,
        study.data.row, study.data.side, folder, study.trains_on(matched.arm), list(data["stores"]), study.seeds[0],
    )  # fmt: skip
    others = tuple(name for name in arms if name != matched.arm.key)
    return Shown(**{**vars(found), "others": others})


def _learns(objectives: Sequence[Objective]) -> str:
    kinds = [type(one).model_fields["kind"].default for one in objectives]
    return f"learns by {' and '.join(kinds)}{' in turn' if len(kinds) > 1 else ''}"


def _first_row(
    title: str, network: Architecture, supervise: Supervise, row: int, side: int, data: Path, store: str,
    stores: list[str], seed: int,
) -> Shown:  # fmt: skip
    lengths = training_lengths(data, stores)
    train = ExampleStore.open(data, store)
    first = plan_rows(*lengths, order(len(train), seed, 0), row=row, side=side)[0]
    examples = tuple(train[i] for i in first)
    names = tuple(train.documents[e.document] for e in examples)
    tokenizer = load_tokenizer(data / "tokenizer.json")
    return Shown(title, network, supervise, row, side, examples, names, tokenizer)


def rendered(shown: Shown, number: int, tokens: int, width: int) -> list[Text | Table]:
    """The parts that are printed, from top to bottom, for a terminal so many characters wide."""
    a = shown.network
    layout = Layout(a, shown.supervise, shown.row, shown.side)
    batch = layout.batch([shown.examples])
    count = f"{len(shown.examples)} example{'s' * (len(shown.examples) > 1)}"
    held = ", ".join(f"{layout.width(stream)} in '{stream.name}'" for stream in a.streams)
    found: list[Text | Table] = [
        Text(shown.title, style="bold"),
        Text(f"loss on {shown.supervise}; row of {count}; places: {held}", style="dim"),
        Text(f"example {number + 1}: {shown.documents[number]}, region {shown.examples[number].region}"),
        Text.assemble(
            ("I", INPUT_STYLE), " input part   ", ("O", OUTPUT_STYLE), " output part   ",
            "target: what the place has to say", style="dim",
        ),
        Text("* carries loss and is scored   + carries loss, is not scored", style="dim"),
    ]  # fmt: skip
    for stream in a.streams:
        found += ["", *_table(shown, batch, stream, number, tokens)]
    fit = min(MOST_IN_MATRICES, (width - BESIDE_MATRICES) // 2)
    of_input, of_output = (1 + n for n in shown.examples[number].held)
    first = min(of_input, max(fit // 2, fit - of_output))
    cut = (first, min(of_output, fit - first))
    found += ["", *matrices(a, lambda stream: _where(batch, stream, number, cut))]
    if cut != (of_input, of_output):
        drawn = f"drawn: the first {cut[0]} of {of_input} tokens of the input, {cut[1]} of {of_output} of the output"
        found.append(Text(drawn, style="dim"))
    if shown.others:
        found.append(Text(f"other arms: {', '.join(shown.others)} (--arm)", style="dim"))
    return found


def _table(shown: Shown, batch: Batch, stream: Stream, number: int, tokens: int) -> list[Table | Text]:
    """A stream's tokens of one example: a line each."""
    a = shown.network
    held = batch.streams[stream.name]
    places = (held.document[0] == number).nonzero().squeeze(1).tolist()
    last = stream.name == a.output_stream.name
    spans = isinstance(a.positions, TwoDimensional)
    table = Table(
        title=f"{stream.name} (holds {stream.holds})", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
        padding=(0, 1, 0, 0), show_edge=False,
    )  # fmt: skip
    columns = ["place", "", "token", "position", "segment"]
    columns += ["belongs to", "step"] if spans else []
    columns += ["target", "loss"] if last else []
    for name in columns:
        right = name in ("place", "position", "segment", "belongs to", "step")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for place in places[:tokens]:
        output = int(held.part[0, place]) == OUTPUT
        style = OUTPUT_STYLE if output else INPUT_STYLE
        cells = [
            Text(str(place)),
            Text("O" if output else "I", style=style),
            Text(word(shown.tokenizer, int(held.ids[0, place])), style=style),
            Text(str(int(held.position[0, place]))),
            Text(str(int(held.document[0, place]))),
        ]
        if spans and held.anchor is not None:
            cells += [Text(str(int(held.anchor[0, place]))), Text(str(int(held.step[0, place])))]
        if last:
            carries, scored = bool(batch.weights[0, place]), bool(batch.scored[0, place])
            mark = ("*" if scored else "+") if carries else ""
            target = word(shown.tokenizer, int(batch.targets[0, place])) if carries else ""
            cells += [Text(target, style="bold" if carries else ""), Text(mark, style="bold")]
        table.add_row(*cells)
    more = len(places) - tokens
    return [table, Text(f"… and {more} tokens more (--tokens)", style="dim")] if more > 0 else [table]


def word(tokenizer: Tokenizer, token: int) -> str:
    """A token for people: special ones by name, white space made visible."""
    if token < len(SPECIALS):
        return SPECIALS[token]
    first = tokenizer.vocabulary - len(tokenizer.extra)
    if token >= first:
        return tokenizer.extra[token - first]
    text = tokenizer.decode([token])
    return text.replace(" ", "\u2423").replace("\n", "\u21b5").replace("\ufffd", "\u25a1")


def _where(batch: Batch, stream: Stream, number: int, cut: tuple[int, int]) -> tuple[Coordinates, list[str]]:
    """Where the first tokens of an example's input and output part stand in a stream, and a letter for each."""
    held = batch.streams[stream.name]
    own = held.document[0] == number
    chosen = torch.zeros_like(own)
    for part, most in zip((INPUT, OUTPUT), cut, strict=True):
        chosen[(own & (held.part[0] == part)).nonzero()[:most]] = True
    where = Coordinates(*(axis[0][chosen].numpy() for axis in held.coordinates))
    return where, ["y" if part == OUTPUT else "x" for part in where.part.tolist()]
