"""Sharding and the stream of rows: the same bytes for any number of workers, every example once in an epoch."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.test_trouble import disk

from headtohead import cli
from headtohead.data import sources
from headtohead.data.blocks import Seen, Sharding
from headtohead.data.layouts import Layout
from headtohead.data.mixture import BLOCK, Mixture
from headtohead.data.sharding import shard
from headtohead.data.sources import dataset_source, files_source
from headtohead.data.stream import STRETCH, Sharded, ShardedStore, StreamRows, permuted
from headtohead.errors import UserError
from headtohead.files import write_atomic
from headtohead.model.presets import architecture

SMALL: dict[str, Any] = {
    "objectives": ["prefix"],
    "window_bytes": 64,
    "row": 160,
    "side": 96,
    "validation": 0.1,
    "shard_bytes": 6000,
    "tokenizer": "bytes",
}


def lines(path: Path, count: int, word: str = "word", seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    with path.open("w") as file:
        for i in range(count):
            text = " ".join(f"{word}{n}" for n in random.integers(0, 999, 5 + i % 40))
            file.write(json.dumps({"text": text}) + "\n")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def text_of(store: ShardedStore, data: Sharded) -> dict[str, str]:
    """The text of every document, put together from its windows."""
    decode = data.tokenizer().decode
    found: dict[str, str] = {}
    for i in range(len(store)):
        example = store[i]
        name = store.name_of(example.document)
        found[name] = found.get(name, "") + decode([*example.input.tolist(), *example.output.tolist()])
    return found


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    folder = tmp_path_factory.mktemp("mixed")
    one = files_source([lines(folder / "one.jsonl", 150)], name="one", weight=3)
    two = files_source([lines(folder / "two.jsonl", 60, "other", 1)], name="two", weight=1)
    plan = Sharding(**{**SMALL, "objectives": ["prefix", "causal", "span-corruption"]})
    return shard([one, two], plan, folder / "out")


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    text = lines(tmp_path / "text.jsonl", 300)
    for workers in (1, 3):
        plan = Sharding(**{**SMALL, "tokenizer": "bpe", "vocabulary": 300})
        shard([files_source([text])], plan, tmp_path / f"out{workers}", workers=workers)
    one = contents(tmp_path / "out1")
    assert one == contents(tmp_path / "out3")
    assert sum(name.endswith("shard.json") for name in one) > 4


def test_every_text_is_in_one_shard_and_duplicates_are_counted(tmp_path: Path) -> None:
    text = lines(tmp_path / "text.jsonl", 100)
    wanted = [json.loads(line)["text"] for line in text.read_text().splitlines()]
    text.write_text(
        text.read_text() + text.read_text()[: text.read_text().index("\n") + 1] + '{"text": " "}\n'
    )
    data = shard([files_source([text])], Sharding(**SMALL), tmp_path / "out")
    about = data.description["sources"][0]
    assert (about["documents"], about["duplicates"], about["empty"]) == (100, 1, 1)
    train, validation = (text_of(data.store(part), data) for part in ("train", "validation"))
    assert not train.keys() & validation.keys() and len(validation) > 2
    assert sorted([*train.values(), *validation.values()]) == sorted(wanted)
    # The same documents are held out when others are added.
    other = shard(
        [files_source([lines(tmp_path / "more.jsonl", 140), text])], Sharding(**SMALL), tmp_path / "new"
    )
    assert set(validation.values()) <= set(text_of(other.store("validation"), other).values())


def test_every_kind_of_file_gives_the_same_texts(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    plain = lines(tmp_path / "t.jsonl", 30)
    wanted = [json.loads(line)["text"] for line in plain.read_text().splitlines()]
    (tmp_path / "g.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    with pa.CompressedOutputStream(str(tmp_path / "z.jsonl.zst"), "zstd") as file:
        file.write(plain.read_bytes())
    pq.write_table(pa.table({"n": range(30), "text": wanted}), tmp_path / "p.parquet", row_group_size=7)
    made = datasets.Dataset.from_dict({"text": wanted})
    made.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": made}).save_to_disk(str(tmp_path / "dict"))
    found = [
        *(files_source([tmp_path / n]) for n in ("t.jsonl", "g.jsonl.gz", "z.jsonl.zst", "p.parquet")),
        *(dataset_source(str(tmp_path / name)) for name in ("saved", "dict")),
        dataset_source(made.to_iterable_dataset(num_shards=3)),
    ]
    for source in found:
        for _ in range(2):  # from the start each time
            assert [text.text for text in source.texts()] == wanted


@given(st.text(max_size=300), st.integers(8, 40))
@settings(max_examples=60, deadline=None)
def test_sections_joined_are_the_text(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "SECTION", size)
        found = list(sources._sections("t", text, 0))
    assert "".join(section.text for section in found) == text
    assert all(len(section.text.encode()) <= size for section in found)
    assert len({section.key for section in found}) == 1


def test_a_long_file_is_read_in_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SECTION", 100)
    (tmp_path / "long.txt").write_text("Grüße, 漢字 and\n more of it. " * 50)
    found = list(files_source([tmp_path / "long.txt"]).texts())
    assert "".join(text.text for text in found) == (tmp_path / "long.txt").read_text() and len(found) > 10


# ------------------------------------------------------------------------------------------------------------ order


@given(st.integers(1, 5000), st.integers(0, 2**63 - 1), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_permuted_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    found = permuted(np.arange(size), size, seed, epoch)
    assert np.array_equal(np.sort(found), np.arange(size))
    some = np.arange(size)[::7]
    assert np.array_equal(permuted(some, size, seed, epoch), found[::7])


@given(st.lists(st.floats(0.2, 10), min_size=1, max_size=6), st.integers(0, 2**40))
@settings(max_examples=40, deadline=None)
def test_a_mixture_takes_every_turn_once_and_keeps_its_shares(weights: list[float], seed: int) -> None:
    mixture, blocks = Mixture(weights, seed), 3
    sources_, turns = mixture.at(np.arange(blocks * BLOCK))
    for source, share in enumerate(mixture.shares):
        own = turns[sources_ == source]
        assert np.array_equal(np.sort(own), np.arange(len(own)))
        assert abs(len(own) - share * blocks * BLOCK) <= 1
        assert len(own) == mixture.counts(blocks * BLOCK)[source]


def test_shards_in_their_order_are_shuffled_anew_in_each_epoch() -> None:
    one, two = (permuted(np.arange(1000), 1000, 1, epoch) for epoch in (0, 1))
    assert abs(np.corrcoef(one, np.arange(1000))[0, 1]) < 0.15 and abs(np.corrcoef(one, two)[0, 1]) < 0.15


@given(
    seed=st.integers(0, 2**32),
    weights=st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)),
    per_step=st.integers(1, 24),
    cuts=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 7)), min_size=1, max_size=6),
)
@settings(max_examples=12, deadline=None)
def test_ledger_no_token_is_lost_or_seen_twice_in_an_epoch(
    mixed: Sharded, seed: int, weights: tuple[float, float], per_step: int, cuts: list[tuple[int, int]]
) -> None:
    """Read by ever other numbers of ranks, each start anew: what comes is the places of the order, once each."""
    rows = StreamRows(mixed, seed=seed, rows_per_step=per_step, weights=weights)
    steps = 2 * STRETCH // (2 * per_step)  # beyond one stretch, and one epoch of at least one source
    seen: list[tuple[int, int]] = []
    tokens = Counter[tuple[int, int]]()
    step = turn = 0
    while step < steps:
        stretch, world = cuts[turn % len(cuts)]
        turn += 1
        resumed = StreamRows(mixed, seed=seed, rows_per_step=per_step, weights=weights) if turn < 4 else rows
        for now in range(step, step + 20 * stretch):
            numbers = resumed.numbers(now)
            seen += [each for row in numbers for each in row]
            if now - step < 2:  # what the ranks are given is those rows, one after another
                given_ = [row for rank in range(world) for row in resumed.at(now, rank, world)]
                assert [len(row) for row in given_] == [len(row) for row in numbers]
                for row, wanted in zip(given_, numbers, strict=True):
                    for example, (source, i) in zip(row, wanted, strict=True):
                        store = mixed.store("train", None, mixed.sources[source])
                        assert np.array_equal(example.output, store[i].output)
                        tokens[source, i] += 1
        step += 20 * stretch
    assert rows.counts(step) == {
        name: {"examples": (n := sum(s == k for s, _ in seen)), "epochs": n / rows.sizes[k]}
        for k, name in enumerate(mixed.sources)
    }
    whole = len(seen) // STRETCH * STRETCH
    for source, size in enumerate(rows.sizes):
        wanted = Counter(
            i for s, i in zip(*(a.tolist() for a in rows.place(np.arange(whole))), strict=True) if s == source
        )
        # Rows of a stretch are packed out of order, so only whole stretches are compared.
        own = Counter(i for s, i in seen[:whole] if s == source)
        assert own == wanted
        assert max(own.values()) - min(own.get(i, 0) for i in range(size)) <= 1


def test_every_objective_gets_the_same_windows(mixed: Sharded) -> None:
    texts = []
    for key in mixed.objectives:
        rows = StreamRows(mixed, seed=4, rows_per_step=8, objective=key)
        texts.append([[e.document for e in row] for step in range(5) for row in rows.at(step)])
        assert all(e.output.size for row in rows.at(0) for e in row)
    assert texts[0] == texts[1] == texts[2]


def test_rows_make_batches(mixed: Sharded) -> None:
    rows = StreamRows(mixed, seed=4, rows_per_step=8)
    for name in ("decllm-nano", "redllm-nano"):
        layout = Layout(architecture(name), "output", mixed.row, mixed.side)
        assert layout.batch(rows.at(3, rank=1, world=2)).targets.shape[0] == 4


def test_seen_knows_what_it_has_seen() -> None:
    seen = Seen(64)
    assert all(seen.add(key) for key in range(0, 640, 20))
    assert not any(seen.add(key) for key in range(0, 640, 20))


# --------------------------------------------------------------------------------------------- trouble and resuming


def test_killed_it_goes_on_with_the_shards_that_are_whole(tmp_path: Path) -> None:
    text = lines(tmp_path / "text.jsonl", 4000)
    code = (
        "import sys, headtohead.data.blocks as b\n"
        "from headtohead.data import sharding, sources\n"
        "from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        "    s = b.Sharding(objectives=['prefix'], window_bytes=64, row=96, side=96, "
        "vocabulary=400, shard_bytes=20000)\n"
        f"    sharding.shard([sources.files_source([Path({str(text)!r})])], s, Path(sys.argv[1]), workers=2)\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    out, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, script, out])
    deadline = time.monotonic() + 60
    while len(list(out.glob("text.*/shard.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "shards.json").exists()
    with pytest.raises(UserError, match="is unfinished"):
        Sharded.open(out)
    kept = {path: path.stat().st_mtime_ns for path in out.glob("text.*/shard.json")}
    assert len(kept) >= 3
    broken, *_ = sorted(kept)
    spoiled = broken.parent / "prefix.tokens"
    spoiled.write_bytes(b"?" + spoiled.read_bytes()[1:])  # looks whole, and is not
    subprocess.run([sys.executable, script, out], check=True)
    subprocess.run([sys.executable, script, whole], check=True)
    assert contents(out) == contents(whole)
    assert [p for p, at in kept.items() if p.stat().st_mtime_ns != at] == [broken]


def test_a_file_altered_is_found_by_verify_and_one_cut_short_at_once(tmp_path: Path) -> None:
    data = shard([files_source([lines(tmp_path / "t.jsonl", 60)])], Sharding(**SMALL), tmp_path / "out")
    file = next((tmp_path / "out").glob("text.train.*/prefix.tokens"))
    there = file.read_bytes()
    data.verify()
    file.write_bytes(there[:-1] + bytes([there[-1] ^ 1]))
    with pytest.raises(UserError, match=r"prefix.tokens has been altered"):
        Sharded.open(tmp_path / "out").verify()
    file.write_bytes(there[:-1])
    with pytest.raises(UserError, match=rf"has {len(there) - 1} bytes where {len(there)} were written"):
        Sharded.open(tmp_path / "out")


def test_a_full_disk_is_told_and_loses_no_shard(tmp_path: Path) -> None:
    text = lines(tmp_path / "text.jsonl", 1500)
    small = {**SMALL, "shard_bytes": 100_000}
    out, whole = tmp_path / "out", tmp_path / "whole"
    out.mkdir()
    with disk(out, "size=800k") as mounted:
        if not mounted:
            pytest.skip("no disk may be mounted here")
        with pytest.raises(UserError, match="no space left on the disk"):
            shard([files_source([text])], Sharding(**small), out)
        kept = contents(out)
        assert not [name for name in kept if "unfinished" in name]
        assert sum(name.endswith("shard.json") for name in kept) >= 1
        subprocess.run(["mount", "-o", "remount,size=64m", str(out)], check=True)
        shard([files_source([text])], Sharding(**small), out)
        shard([files_source([text])], Sharding(**small), whole)
        made = contents(out)
        assert made == contents(whole)
        assert {name: made[name] for name in kept} == kept


BAD = {
    '{"text": "a"}\nno json\n': r"t.jsonl:2 is not JSON: Expecting value at column 1",
    '{"text": "a"}\n\n{"body": "b"}\n': r"t.jsonl:3 has no field 'text': its fields are 'body'",
    '{"text": 3}\n': r"t.jsonl:1: the field 'text' is 3",
    '{"text": " "}\n': "no text to train on",
    "": "is empty",
}


@pytest.mark.parametrize("content", BAD)
def test_bad_lines_are_one_clear_line(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.jsonl").write_text(content)
    assert (
        cli.run(
            ["shard", "--text", str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "o"), "--workers", "1"]
        )
        == 2
    )
    told = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in told if line.startswith("error:")]) == 1
    import re

    assert re.search(BAD[content], told[-1])
    assert not (tmp_path / "o" / "shards.json").exists()


def test_bad_files_and_settings(tmp_path: Path) -> None:
    (tmp_path / "p.parquet").write_bytes(b"PAR1 nothing of the kind PAR1")
    (tmp_path / "l.txt").write_bytes("Grüße".encode("latin-1"))
    (tmp_path / "g.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 999)[:-20])
    pq.write_table(pa.table({"body": ["a"]}), tmp_path / "q.parquet")
    for name, told in {
        "p.parquet": "can't be read as Parquet",
        "q.parquet": "has no column 'text': its columns are body",
        "l.txt": "l.txt is not UTF-8: byte 0xfc at offset 2",
        "g.jsonl.gz": "is damaged",
    }.items():
        with pytest.raises(UserError, match=told):
            list(files_source([tmp_path / name]).texts())
    text = lines(tmp_path / "t.jsonl", 20)
    shard([files_source([text])], Sharding(**SMALL), tmp_path / "out")
    with pytest.raises(UserError, match="was begun with other window_bytes"):
        shard([files_source([text])], Sharding(**{**SMALL, "window_bytes": 48}), tmp_path / "out")
    write_atomic(tmp_path / "m.toml", '[[sources]]\nname = "a"\ntext = ["t.jsonl"]\nwieght = 2.0\n')
    assert cli.run(["shard", "--mixture", str(tmp_path / "m.toml"), "--out", str(tmp_path / "n")]) == 2


def test_a_mixture_file_and_a_changed_text(tmp_path: Path) -> None:
    lines(tmp_path / "a" / "t.jsonl", 200)
    lines(tmp_path / "b.jsonl", 90, "b")
    write_atomic(
        tmp_path / "m.toml",
        '[[sources]]\nname = "a"\ntext = ["a"]\nweight = 2\n[[sources]]\nname = "b"\ntext = ["b.jsonl"]\n',
    )
    words = ["--mixture", str(tmp_path / "m.toml"), "--out", str(tmp_path / "o"), "--tokenizer", "bytes"]
    words += ["--workers", "1", "--window-bytes", "64"]
    assert cli.run(["shard", *words]) == 0
    data = Sharded.open(tmp_path / "o")
    assert data.sources == ("a", "b") and data.weights == (2, 1)
    counts = StreamRows(data, seed=1, rows_per_step=4).counts(800)
    assert counts["a"]["examples"] == pytest.approx(2 * counts["b"]["examples"], rel=0.02)
    (tmp_path / "o" / "shards.json").unlink()
    changed = tmp_path / "b.jsonl"
    changed.write_text(changed.read_text().replace("b1", "c1"))  # the same size, another text
    assert cli.run(["shard", *words]) == 2
