"""Splits: groups and near-duplicates stay together, others stay where they are, no part is empty."""

import random

import pytest

from headtohead.data.corpora import Document, Pair, load_corpus
from headtohead.data.duplicates import near_duplicates
from headtohead.data.splits import Splits, split_by_group
from headtohead.errors import UserError

from .small import documents, prose


def parts(splits: Splits) -> dict[str, str]:
    """The part of each document by name."""
    return {d.name: part for part in ("train", "tune", "test") for d in getattr(splits, part)}


def test_every_document_is_in_one_part_and_adding_one_moves_no_other() -> None:
    before = documents(60)
    splits = split_by_group(before)
    assert sum(map(len, (splits.train, splits.tune, splits.test))) == 60 == len(parts(splits))
    assert splits.tune and splits.test and len(splits.train) > 40
    after = parts(split_by_group([*documents(61)[60:], *before]))
    assert {name: after[name] for name in parts(splits)} == parts(splits)


def test_groups_and_near_duplicates_are_never_parted() -> None:
    made = random.Random(0)
    texts = documents(40)
    copies = []
    for d in texts:
        words = d.text.split(" ")
        for _ in range(len(words) // 40):  # one word in forty is another, and the layout differs
            words[made.randrange(len(words))] = "changed"
        copies.append(Document(f"copy of {d.name}", "  ".join(words).upper(), f"copy of {d.name}"))
    fellows = [Document(f"fellow of {d.name}", prose(1000 + i, 1500), d.group) for i, d in enumerate(texts)]
    splits = split_by_group([*texts, *copies, *fellows])
    where = parts(splits)
    assert all(where[d.name] == where[f"copy of {d.name}"] == where[f"fellow of {d.name}"] for d in texts)
    assert splits.merged == 40
    group = {d.name: d.group for part in (splits.train, splits.tune, splits.test) for d in part}
    assert all(group[d.name] == group[f"copy of {d.name}"] == group[f"fellow of {d.name}"] for d in texts)
    assert len(set(group.values())) == 40
    assert set(where.values()) == {"train", "tune", "test"}


def test_phrases_that_many_texts_share_make_no_duplicates() -> None:
    words = sorted(set(prose(3, 8000).lower().replace(".", "").split()))
    asked = [f"Please translate the following sentence into French: {w} {i}" for i, w in enumerate(words)]
    assert near_duplicates(asked) == []
    assert near_duplicates([*asked, asked[7].upper()]) == [(7, len(asked))]
    assert near_duplicates([]) == []
    assert near_duplicates(["", "a", " ", "A"]) == [(0, 2), (1, 3)]


def test_exact_copies_are_found_however_many() -> None:
    links = near_duplicates([prose(i % 5, 1200) for i in range(100)])
    assert links == [(i % 5, i) for i in range(5, 100)]


def test_short_texts_are_dropped_and_counted() -> None:
    short = [Document(f"short {i}", "x" * 999, f"short {i}") for i in range(3)]
    splits = split_by_group([*documents(20), *short])
    assert splits.dropped == 3 and not any("short" in name for name in parts(splits))


@pytest.mark.parametrize("size", [3 * 4096, 60_000, 1_000_000])
def test_one_long_text_is_split_in_sections_that_join_to_it(size: int) -> None:
    text = (
        (prose(1, 30_000) * (size // 30_000 + 1))[:size]
        if size < 30_000
        else "".join(prose(i, 30_000) for i in range(size // 30_000 + 1))
    )
    splits = split_by_group([Document("book.txt", text, "book.txt")])
    assert splits.sectioned and all((splits.train, splits.tune, splits.test))
    everything = sorted((*splits.train, *splits.tune, *splits.test), key=lambda d: d.name)
    assert "".join(d.text for d in everything) == text
    assert len(splits.train) >= len(everything) / 2 or len(everything) < 6
    assert all(d.name.startswith("book.txt#") for d in everything)


def test_a_line_without_spaces_is_cut_between_characters() -> None:
    text = "".join(chr(0x4E00 + (i * 7919) % 20000) for i in range(20_000))
    splits = split_by_group([Document("han.txt", text, "han.txt")])
    everything = sorted((*splits.train, *splits.tune, *splits.test), key=lambda d: d.name)
    assert "".join(d.text for d in everything) == text


TOO_SHORT = {
    "nothing": ([], "0 bytes in 0 texts"),
    "two": (documents(2, 1500), "in 2 texts; at least 3 different texts are needed, or 12288 bytes"),
    "short ones": (
        [Document(str(i), "x" * 500, str(i)) for i in range(30)],
        "30 shorter than 1000 bytes dropped",
    ),
    "all the same": (
        [Document(str(i), prose(1, 1500), str(i)) for i in range(9)],
        "8 of them near-duplicates of others",
    ),
}


@pytest.mark.parametrize("case", TOO_SHORT)
def test_too_short_to_split_says_how_much_is_needed(case: str) -> None:
    texts, said = TOO_SHORT[case]
    with pytest.raises(UserError, match="too short to split") as raised:
        split_by_group(texts)
    assert said in str(raised.value)


@pytest.mark.parametrize("count", range(3, 12))
def test_a_few_texts_still_make_three_parts(count: int) -> None:
    splits = split_by_group(documents(count, 1500))
    assert all((splits.train, splits.tune, splits.test))


def test_pairs_with_one_input_stay_together() -> None:
    pairs = [Pair(f"{i}/{k}", f"{i} + {i}", str(k), f"group {i}") for i in range(50) for k in range(2)]
    splits = split_by_group(pairs, smallest_bytes=0)
    where = parts(splits)
    assert len(where) == 100 and all(where[f"{i}/0"] == where[f"{i}/1"] for i in range(50))


def test_the_speeches_split_as_published() -> None:
    splits = split_by_group(load_corpus().documents)
    years = [{d.group for d in part} for part in (splits.train, splits.tune, splits.test)]
    assert not years[0] & years[1] and not years[0] & years[2] and not years[1] & years[2]
    assert (len(splits.train), len(splits.tune), len(splits.test), splits.dropped) == (225, 13, 11, 0)
