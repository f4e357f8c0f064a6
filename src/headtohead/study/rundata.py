"""The prepared data of one run: its rows, step by step, and what is scored. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from headtohead.data.objectives import Codes, objective
from headtohead.data.packing import plan_rows
from headtohead.data.shards import Example, ExampleStore, order
from headtohead.data.stream import Sharded, StreamRows
from headtohead.data.tokenizers import Tokenizer, load_tokenizer
from headtohead.errors import UserError
from headtohead.files import read_json, sha256_of
from headtohead.study.prepare import Lengths, check_data, read_data, training_lengths
from headtohead.train.recipe import Recipe


class Rows:
    """The rows of every step: a function of seed and step alone, the same for every arm.

    One pass over the store is planned at a time, each in an order of its own; rows left over at the end of a
    pass begin the next step.
    """

    def __init__(self, store: ExampleStore, lengths: Lengths, recipe: Recipe, row: int, side: int) -> None:
        self.store, self.lengths, self.recipe, self.row, self.side = store, lengths, recipe, row, side
        self.planned = lru_cache(maxsize=2)(self._planned)
        self.per_pass: list[int] = []

    def _planned(self, epoch: int) -> list[list[int]]:
        numbers = order(len(self.store), self.recipe.seed, epoch)
        return plan_rows(*self.lengths, numbers, row=self.row, side=self.side)

    def at(self, step: int) -> list[tuple[Example, ...]]:
        """The rows of a step, counted from 0."""
        first = step * self.recipe.rows_per_step
        return [self._row(number) for number in range(first, first + self.recipe.rows_per_step)]

    def _row(self, number: int) -> tuple[Example, ...]:
        epoch = 0
        while True:
            if epoch == len(self.per_pass):
                self.per_pass.append(len(self.planned(epoch)))
            if number < self.per_pass[epoch]:
                return tuple(self.store[i] for i in self.planned(epoch)[number])
            number -= self.per_pass[epoch]
            epoch += 1


def held_out_of(sharded: Sharded, key: str, windows: int) -> ExampleStore:
    """At most so many held-out examples of sharded data, evenly over all of them, as a store of their own.

    Raises:
        UserError: nothing was held out.
    """
    store = sharded.store("validation", key)
    if not len(store):
        raise UserError(f"{sharded.folder} holds out no text: shard it with --validation 0.01")
    places = np.unique(np.linspace(0, len(store) - 1, min(windows, len(store))).round().astype(np.int64))
    found = [store[int(i)] for i in places]
    numbers = {document: at for at, document in enumerate(dict.fromkeys(e.document for e in found))}
    names = [store.name_of(document) for document in numbers]
    some = (replace(example, document=numbers[example.document]) for example in found)
    return ExampleStore.build(some, names, sharded.vocabulary)


class RunData:
    """The prepared data of a run, checked against what its description names."""

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        wanted = description["data"]
        self.row, self.side, self.regions = wanted["row"], wanted["side"], tuple(wanted["regions"])
        where = (folder / wanted["folder"]).resolve()
        self._objective = objective(description["objective"]) if "objective" in description else None
        if wanted.get("shards"):
            self._open_shards(where, wanted, description["evaluation"])
            return
        there = read_data(where)
        for key in ("corpus_sha256", "tokenizer_sha256", "stores"):
            if there.get(key) != wanted[key]:
                raise UserError(
                    f"{where} is not the data that {folder / 'run.json'} names: its {key} differs"
                )
        check_data(where, there)
        train = ExampleStore.open(where, wanted.get("train", "train"))
        lengths = training_lengths(where, wanted["stores"])
        self.rows: Callable[[Recipe], Rows | StreamRows] = lambda recipe: Rows(
            train, lengths, recipe, self.row, self.side
        )
        self.name_of: Callable[[int], str] = lambda document: train.documents[document]
        """What a document of the training text is called."""
        self.tune = ExampleStore.open(where, "tune")
        split = description["evaluation"]["split"]
        self.scored = self.tune if split == "tune" else ExampleStore.open(where, split)
        self.groups: list[str] = there["groups"][split]
        """Of each document of `scored`: documents of one group count as one where they are compared."""
        self.tokenizer: Tokenizer = load_tokenizer(where / "tokenizer.json")
        self._where = where
        self.codes = Codes(self.tokenizer)

    def beyond(self, of: Mapping[str, str]) -> ExampleStore:
        """A store of text out of the domain, checked.

        Raises:
            UserError: it is not the one that the run's description names.
        """
        there = read_json(self._where / f"{of['store']}.json", "the prepared data")
        if there["sha256"] != of["sha256"]:
            raise UserError(
                f"{self._where / of['store']} is not the data that the run names: its sha256 differs"
            )
        return ExampleStore.open(self._where, of["store"])

    def file(self, name: str, sha256: str) -> Path:
        """A file of the prepared data, checked.

        Raises:
            UserError: it is not the one that the run's description names.
        """
        path = self._where / name
        if not path.is_file() or sha256_of(path) != sha256:
            raise UserError(
                f"{path} is not the file that the run names: delete {self._where} and start the study again"
            )
        return path

    def texts(self) -> dict[int, str]:
        """The scored documents by their places, whole: the windows of their continuations, joined."""
        found: dict[int, list[str]] = {}
        for place in self.scored.region_of("continuation"):
            example = self.scored[int(place)]
            both = [*example.input.tolist(), *example.output.tolist()]
            found.setdefault(example.document, []).append(self.tokenizer.decode(both))
        return {document: "".join(pieces) for document, pieces in found.items()}

    def _open_shards(self, where: Path, wanted: Mapping[str, Any], evaluation: Mapping[str, Any]) -> None:
        """Training rows from sharded data, read as they are needed; of what is held out, as much as is scored."""
        sharded = Sharded.open(where)
        for key, value in sharded.identity.items():
            if wanted[key] != value:
                raise UserError(f"{where} is not the data that the run names: its {key} differs")
        key = wanted["train"]
        self.rows = lambda recipe: StreamRows(
            sharded,
            seed=recipe.seed,
            rows_per_step=recipe.rows_per_step,
            row=self.row,
            side=self.side,
            objective=key,
        )
        self.name_of = sharded.store("train", key).name_of
        self.tokenizer = sharded.tokenizer()
        self.codes = Codes(self.tokenizer)
        self.scored = self.tune = held_out_of(sharded, key, evaluation["windows"])
        self.groups = list(self.scored.documents)

    def presented(self, examples: Sequence[Example]) -> list[Example]:
        """Held-out examples as a network that learnt by this run's objective is used to see them."""
        if self._objective is None:
            return list(examples)
        return [self._objective.present(example, self.codes) for example in examples]
