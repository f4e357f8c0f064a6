"""The study's data, made once: corpus, splits, tokenizer, stores of examples, and what costs nothing beside
them.

OUT/data appears whole or not at all: it is made under another name and renamed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headtohead.data.corpora import Corpus, Pairs, load_corpus, load_pairs
from headtohead.data.objectives import (
    Codes,
    aligned,
    examples,
    pair_examples,
    tokenizer_texts,
    wrong_inputs,
)
from headtohead.data.packing import plan_rows
from headtohead.data.shards import ExampleStore, order
from headtohead.data.splits import Splits, split_by_group
from headtohead.data.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer, train_tokenizer
from headtohead.errors import UserError
from headtohead.files import explain_os_error, make_folder, read_json, sha256_of, write_atomic
from headtohead.study.parts import DataSettings
from headtohead.study.plan import Study

PARTS = ("train", "tune", "test")
SCORED_PARTS = ("tune", "test")
FORMAT = 3
"""Of data.json: what another version prepared is made again."""


@dataclass(frozen=True)
class Source:
    """What the study reads: a corpus of documents, or the user's pairs."""

    material: Corpus | Pairs
    beyond: Mapping[str, Corpus] = field(default_factory=dict)
    """Texts out of its domain, by name, that runs are scored on too."""
    tasks: Mapping[str, Path] = field(default_factory=dict)
    """Files of questions that runs are asked, by name."""

    @property
    def regions(self) -> tuple[str, ...] | None:
        """The scored regions, where the material decides them."""
        return ("answer",) if isinstance(self.material, Pairs) else None


def read_source(text: Sequence[Path], pairs: Path | None, field: str) -> Source:
    """The material of `--text`, `--pairs`, or the embedded default.

    Raises:
        UserError: both are given, or a file that can't be read.
    """
    if pairs is not None:
        if text:
            raise UserError("--text and --pairs can't be given together: choose one")
        if field != "text":
            raise UserError(
                "--field can't be given with --pairs: they are read from the fields input and output"
            )
        return Source(load_pairs(pairs))
    if field != "text" and not text:
        raise UserError("--field says where the text of .jsonl files is: give them with --text")
    return Source(load_corpus(text, field))


def fingerprint(study: Study, source: Source, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
    """What decides the prepared data: the text and every setting that cuts it, and a tokenizer that is given."""
    elsewhere = {"text", "out_of_domain", "out_of_domain_windows"}  # they don't cut this text
    settings = study.data.model_dump(mode="json", exclude=elsewhere)
    found = {"corpus_sha256": source.material.sha256, **settings, "regions": list(regions(study, source))}
    own = [objective.model_dump(mode="json") for objective in study.own_objectives.values()]
    given = {} if tokenizer is None else {"given_tokenizer": tokenizer.sha256}
    beyond = {name: corpus.sha256 for name, corpus in source.beyond.items()}
    if beyond:
        given = {**given, "out_of_domain": beyond, "out_of_domain_windows": study.data.out_of_domain_windows}
    if source.tasks:
        given = {**given, "tasks": {name: sha256_of(path) for name, path in source.tasks.items()}}
    return {"format": FORMAT, **found, **given, **({"objectives": own} if own else {})}


def regions(study: Study, source: Source) -> tuple[str, ...]:
    """The regions that are trained and scored."""
    return source.regions or study.data.regions


def prepare(
    study: Study,
    source: Source,
    folder: Path,
    say: Callable[[str], None],
    tokenizer: Tokenizer | None = None,
) -> dict[str, Any]:
    """FOLDER/data.json and the files it names; nothing is made again when they are there and of the same
    text and settings. A tokenizer is trained where none is given.

    Raises:
        UserError: text too short to split, a vocabulary it can't fill, a full disk.
    """
    wanted = fingerprint(study, source, tokenizer)
    if (folder / "data.json").is_file():
        there = read_data(folder)
        if there["fingerprint"] == wanted:
            check_data(folder, there)
            return there
    say(f"preparing the text: {source.material.source}")
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    make_folder(unfinished)
    try:
        description = {
            "fingerprint": wanted,
            **_prepare(study, source, regions(study, source), unfinished, tokenizer),
        }
        write_atomic(unfinished / "data.json", json.dumps(description, indent=1, ensure_ascii=False) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {explain_os_error(error)}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return description


def read_data(folder: Path) -> dict[str, Any]:
    """FOLDER/data.json.

    Raises:
        UserError: it is damaged.
    """
    path, again = folder / "data.json", f"delete {folder} and start the study again"
    try:
        found = read_json(path, "the prepared data")
    except UserError as error:
        raise UserError(f"{error}; {again}") from error
    if not isinstance(found, dict) or MADE - found.keys() or not isinstance(found["fingerprint"], dict):
        raise UserError(f"the prepared data {path} is damaged: {again}")
    return found


def check_data(folder: Path, there: Mapping[str, Any]) -> None:
    """Whether the files are those that `there`, data.json, was written with.

    Raises:
        UserError: naming the first that is missing, cut short or altered.
    """
    again = f"delete {folder} and start the study again"
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file() or sha256_of(tokenizer) != there["tokenizer_sha256"]:
        raise UserError(f"{tokenizer} is missing or has been altered since it was written: {again}")
    for part in there["stores"]:
        ExampleStore.open(folder, part)
        if read_json(folder / f"{part}.json", "the prepared data")["sha256"] != there["stores"][part]:
            raise UserError(f"{folder / f'{part}.json'} has been altered since it was written: {again}")


MADE = {"fingerprint", "name", "source", "corpus_sha256", "tokenizer_sha256", "vocabulary", "bytes_per_token",
        "dropped", "merged_groups", "sectioned", "splits", "stores", "regions"}  # fmt: skip
"""The keys of data.json."""


def _prepare(
    study: Study, source: Source, found: Sequence[str], folder: Path, given: Tokenizer | None
) -> dict[str, Any]:
    settings, material, own = study.data, source.material, study.own_objectives
    if isinstance(material, Pairs):
        if own:
            raise UserError(
                "pairs are an input and an output already: leave the arms' 'objective' out with --pairs"
            )
        splits = split_by_group(material.pairs, tune=settings.tune, test=settings.test, smallest_bytes=0)
        tokenizer = given or _tokenizer(
            settings, (side for pair in splits.train for side in (pair.input, pair.output))
        )
        stores = {part: pair_examples(getattr(splits, part), tokenizer) for part in PARTS}
    else:
        splits = split_by_group(material.documents, tune=settings.tune, test=settings.test)
        objectives = [settings.objective(region) for region in found]
        texts = [document.text for document in splits.train]
        for objective in (*objectives, *own.values()):
            objective.check(texts)
        learnt = tokenizer_texts(splits.train, objectives, settings.window_bytes)
        tokenizer = given or _tokenizer(settings, learnt, study.extra_tokens)
        size, fits = settings.window_bytes, settings.fits
        plans = [objectives, *([objective] for objective in own.values())]
        stores = dict(zip(("train", *own), aligned(splits.train, plans, tokenizer, size, fits), strict=True))
        for part in SCORED_PARTS:
            some = getattr(splits, part)
            stores[part] = examples(some, objectives, tokenizer, size, every_region=True, fits=fits)
    tokenizer.save(folder / "tokenizer.json")
    for part, store in stores.items():
        store.save(folder, part)
    beyond: dict[str, Any] = (
        {} if not source.beyond else {"out_of_domain": _beyond(study, source, found, folder, tokenizer)}
    )
    if source.tasks:
        beyond["tasks"] = {}
        for number, (name, path) in enumerate(source.tasks.items()):
            shutil.copyfile(path, folder / f"task-{number}.jsonl")
            beyond["tasks"][name] = {"file": f"task-{number}.jsonl", "sha256": sha256_of(path)}
    return {
        **beyond,
        "name": material.name,
        "source": material.source,
        "corpus_sha256": material.sha256,
        "tokenizer_sha256": tokenizer.sha256,
        "vocabulary": tokenizer.vocabulary,
        "bytes_per_token": _bytes_per_token(stores["train"]),
        "dropped": splits.dropped,
        "merged_groups": splits.merged,
        "sectioned": splits.sectioned,
        "splits": {part: _size(splits, part, store) for part, store in stores.items()},
        "groups": {part: [d.group for d in getattr(splits, part)] for part in SCORED_PARTS},
        "stores": {
            part: read_json(folder / f"{part}.json", "the prepared data")["sha256"] for part in stores
        },
        "regions": list(found),
    }


def _beyond(
    study: Study, source: Source, found: Sequence[str], folder: Path, tokenizer: Tokenizer
) -> dict[str, Any]:
    """A store for each text out of the domain: windows from the beginnings of at most 50 of its documents, evenly."""
    settings, told = study.data, {}
    if isinstance(source.material, Pairs):
        raise UserError(
            "texts out of the domain stand beside text, not beside pairs: leave data.out_of_domain out"
        )
    objectives = [settings.objective(region) for region in found]
    for number, (name, corpus) in enumerate(source.beyond.items()):
        places = np.unique(np.linspace(0, len(corpus.documents) - 1, min(50, len(corpus.documents))).round())
        each = settings.window_bytes * (1 + settings.out_of_domain_windows // len(places))
        some = [replace(d, text=d.text[:each]) for d in (corpus.documents[int(i)] for i in places)]
        store = examples(
            some, objectives, tokenizer, settings.window_bytes, every_region=True, fits=settings.fits
        )
        part = f"beyond-{number}"
        store.save(folder, part)
        sha256 = read_json(folder / f"{part}.json", "the prepared data")["sha256"]
        told[name] = {
            "store": part,
            "sha256": sha256,
            "source": corpus.source,
            "corpus_sha256": corpus.sha256,
        }
    return told


def _tokenizer(settings: DataSettings, texts: Any, extra: Sequence[str] = ()) -> Tokenizer:
    if settings.tokenizer == "bytes":
        return ByteTokenizer(extra)
    return train_tokenizer(texts, settings.vocabulary, extra)


def _bytes_per_token(store: ExampleStore) -> float:
    """Of the outputs alone: inputs without vowels are no text to measure a tokenizer by."""
    return round(float(store.column("output_bytes").sum() / max(1, store.column("output").sum())), 3)


def _size(splits: Splits[Any], part: str, store: ExampleStore) -> dict[str, int]:
    documents = getattr(splits, part if part in SCORED_PARTS else "train")
    return {
        "documents": len(documents),
        "bytes": int(store.column("input_bytes").sum() + store.column("output_bytes").sum()),
        "examples": len(store),
        "input_tokens": int(store.column("input").sum()),
        "output_tokens": int(store.column("output").sum()),
    }


def held_out(store: ExampleStore, windows: int, regions: Sequence[str]) -> npt.NDArray[np.int64]:
    """Indices of at most `windows` examples of each region, spread evenly over the documents, regions in
    turn.

    In a store of every window under every objective, the n-th examples of all regions are one window, so all
    regions are scored on the same windows.
    """
    chosen: list[npt.NDArray[np.int64]] = []
    for region in regions:
        own = store.region_of(region)
        if not len(own):
            raise UserError(f"the held-out text holds no example of the {region} region")
        places = np.unique(np.linspace(0, len(own) - 1, min(windows, len(own))).round().astype(np.int64))
        chosen.append(own[places])
    return np.sort(np.concatenate(chosen))


def check_rows(folder: Path, settings: DataSettings) -> None:
    """Whether every training example fits a row. Windows of documents are cut until they do, pairs are not.

    Raises:
        UserError: with the longest, and the sizes that would hold all.
    """
    store = ExampleStore.open(folder, "train")
    lengths_in, lengths_out = row_lengths([store])
    sides = np.maximum(lengths_in, lengths_out) + 1
    rows = lengths_in + lengths_out + 2
    long = int(((rows > settings.row) | (sides > settings.side)).sum())
    if long:
        longest = int(rows.argmax())
        raise UserError(
            f"{long} of {len(store)} training examples do not fit a row of {settings.row} tokens with sides "
            f"of {settings.side}, the longest of them {store.documents[store[longest].document]}: make them "
            f"shorter, or the rows longer (--set data.row={max(settings.row, rows.max())} "
            f"data.side={max(settings.side, sides.max())})"
        )


Lengths = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def row_lengths(stores: Sequence[ExampleStore]) -> Lengths:
    """How much room the n-th example needs in the input and in the output, whichever store it is from: so that a
    row holds the same windows for every arm, by whatever objective it learns.
    """
    return (
        np.maximum.reduce([store.lengths_in for store in stores]),
        np.maximum.reduce([store.lengths_out for store in stores]),
    )


def training_lengths(folder: Path, stores: Iterable[str]) -> Lengths:
    """`row_lengths` over all training examples of prepared data."""
    return row_lengths([ExampleStore.open(folder, name) for name in stores if name.startswith("train")])


def rows_in_pass(lengths: Lengths, seed: int, row: int, side: int) -> int:
    """How many rows one pass over examples of these lengths makes under a seed.

    Raises:
        UserError: an example fits in no row.
    """
    numbers = order(len(lengths[0]), seed, 0)
    return len(plan_rows(*lengths, numbers, row=row, side=side))


def scored_rows(
    folder: Path, study: Study, regions: Sequence[str], windows: Mapping[str, int]
) -> tuple[int, int]:
    """Row and side that hold every example that is scored, as each arm sees it, with its own input and with a
    wrong one.

    At least those of training; longer where held-out text is odder than any of the training text, since what
    is scored must be the same bytes whatever a row holds.

    Args:
        windows: how many windows of each region are scored, by split.

    Raises:
        UserError: held-out text in which no example can lend another its input.
    """
    settings, ways = study.data, [None, *study.own_objectives.values()]
    codes = Codes(load_tokenizer(folder / "tokenizer.json"))
    row, side = settings.row, settings.side
    if study.evaluation.lengths and "test" in windows:
        _check_lengths(folder, round(study.evaluation.lengths[-1] * settings.window_bytes))
    for part, count in windows.items():
        store = ExampleStore.open(folder, part)
        scored = [store[int(i)] for i in held_out(store, count, regions)]
        swapped = study.evaluation.swaps and part in SCORED_PARTS
        for example in (*scored, *(wrong_inputs(scored) if swapped else ())):
            for way in ways:
                if way is not None and way.in_place != example.in_place:
                    continue  # scored for those that answer it: in place, or after the input
                shown = example if way is None else way.present(example, codes)
                n, m = (1 + held for held in shown.held)
                row, side = max(row, n + m), max(side, n, m)
    return _rounded(row, settings.row), _rounded(side, settings.side)


def _check_lengths(folder: Path, longest: int) -> None:
    """Whether any held-out document is as long as the longest stretch that is scored: told before anything is trained.

    Raises:
        UserError: none is.
    """
    store = ExampleStore.open(folder, "test")
    sizes: dict[int, int] = {}
    for place in store.region_of("continuation"):
        example = store[int(place)]
        sizes[example.document] = sizes.get(example.document, 0) + example.input_bytes + example.output_bytes
    if max(sizes.values(), default=0) < longest:
        raise UserError(
            f"evaluation.lengths asks for held-out texts of {longest:,} bytes, and the longest has "
            f"{max(sizes.values(), default=0):,}: leave out the longest length, or give longer texts"
        )


def _rounded(size: int, trained: int) -> int:
    """Up to a multiple of 32 beyond the size trained on, for few shapes."""
    return trained + -(-(size - trained) // 32) * 32
