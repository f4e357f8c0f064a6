"""Stores come back from disk as they were, read-only; damage is named; the order is a fixed permutation."""

import json
from pathlib import Path

import numpy as np
import pytest

from headtohead.data.shards import RESTORE, Example, ExampleStore, order
from headtohead.errors import UserError

from .small import example

MADE = [
    example([7, 8, 9], [10, 11]),
    example([], [12], document=1),
    example([13], [14, 15, 16], RESTORE, True, 1, "restoration"),
]


def same(one: Example, two: Example) -> bool:
    rest = [(e.mode, e.ends, e.document, e.region, e.input_bytes, e.output_bytes) for e in (one, two)]
    return (
        np.array_equal(one.input, two.input) and np.array_equal(one.output, two.output) and rest[0] == rest[1]
    )


@pytest.mark.parametrize("vocabulary", [1024, 70_000])
def test_a_store_comes_back_as_it_was(vocabulary: int, tmp_path: Path) -> None:
    built = ExampleStore.build(MADE, ["a.txt", "b.txt"], vocabulary)
    built.save(tmp_path, "train")
    for store in (built, ExampleStore.open(tmp_path, "train")):
        assert len(store) == 3 and all(map(same, store, MADE))
        assert same(store[-1], MADE[2]) and same(store[1:][0], MADE[1])
        assert store.documents == ("a.txt", "b.txt") and store.regions == ("continuation", "restoration")
        assert store.lengths_in.tolist() == [3, 0, 1] and store.lengths_out.tolist() == [2, 1, 3]
        assert store.region_of("restoration").tolist() == [2] and store.region_of("answer").tolist() == []
        assert same(store.subset([2, 0])[0], MADE[2])
        assert store[0].input.dtype == np.int32


def test_an_open_store_cannot_be_written_to(tmp_path: Path) -> None:
    ExampleStore.build(MADE, ["a", "b"], 1024).save(tmp_path, "train")
    store = ExampleStore.open(tmp_path, "train")
    for array in (store.tokens, store.table):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_an_empty_store(tmp_path: Path) -> None:
    ExampleStore.build([], [], 1024).save(tmp_path, "none")
    assert len(ExampleStore.open(tmp_path, "none")) == 0


@pytest.mark.parametrize("part", ["tokens", "index"])
@pytest.mark.parametrize("damage", ["cut short", "altered", "missing", "longer"])
def test_damage_names_the_file(part: str, damage: str, tmp_path: Path) -> None:
    ExampleStore.build(MADE, ["a", "b"], 1024).save(tmp_path, "train")
    path = tmp_path / f"train.{part}"
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        altered = bytes([data[0] ^ 1]) + data[1:]
        path.write_bytes({"cut short": data[:-1], "altered": altered, "longer": data + b"\0"}[damage])
    with pytest.raises(UserError, match="start again") as raised:
        ExampleStore.open(tmp_path, "train")
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 0, "columns": []}', '{"format": 1}'])
def test_a_damaged_description_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(UserError, match=r"train\.json"):
        ExampleStore.open(tmp_path, "train")


def test_the_description_says_what_is_there(tmp_path: Path) -> None:
    ExampleStore.build(MADE, ["a", "b"], 1024).save(tmp_path, "train")
    said = json.loads((tmp_path / "train.json").read_text())
    assert (said["examples"], said["tokens"], said["dtype"]) == (3, 10, "uint16")


def test_the_order_is_a_permutation_of_seed_and_epoch() -> None:
    made = {(s, e): tuple(order(100, s, e).tolist()) for s in range(3) for e in range(3)}
    assert all(sorted(numbers) == list(range(100)) for numbers in made.values())
    assert len(set(made.values())) == 9
    # The same on every machine and under every version.
    assert order(10, 0, 0).tolist() == PUBLISHED
    assert order(0, 1, 1).tolist() == []


PUBLISHED = [1, 4, 5, 7, 6, 9, 0, 3, 2, 8]
