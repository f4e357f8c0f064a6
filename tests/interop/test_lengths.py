"""`headtohead lengths`, on runs and on networks that came from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headtohead.cli import run
from headtohead.interop.folders import write_folder
from headtohead.interop.length_runs import trained_bytes_of

from ..data.small import prose
from ..kitchen import torch_as_it_was
from ..study.test_solo import SMALL
from .test_loading import WRITERS, held
from .test_scoring import filler


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, networks of other kinds, and texts."""
    folder = tmp_path_factory.mktemp("lengths")
    (folder / "text").mkdir()
    for i in range(8):
        (folder / "text" / f"{i}.txt").write_text(prose(i, 1500), "utf-8")
    words = [
        "train",
        "decllm-nano",
        "--text",
        str(folder / "text"),
        "--out",
        str(folder / "run"),
        "--steps",
        "2",
    ]
    with torch_as_it_was():
        assert run([*words, "--set", *SMALL, "data.row=160", "objective=causal"]) == 0
    table = WRITERS[0].resized(name="table", positions={"kind": "learned", "length": 140})
    for a in (WRITERS[2], table):
        write_folder(folder / a.name, held(a))
    filler(folder / "filler")
    return folder


def test_a_table_a_chart_and_json(place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    trained = trained_bytes_of(place / "run")
    assert 40 <= trained <= 64
    words = [
        place / "run",
        place / "two",
        place / "table",
        "--text",
        place / "text",
        "--up-to",
        "6",
        "--blocks",
        "5",
    ]
    asked = ["lengths", *map(str, words)]
    assert run([*asked, "--json", "--chart", str(tmp_path / "lengths.svg")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["trained_bytes"] == trained and told["blocks"] == 5
    for one in told["runs"]:
        assert [at["times"] for at in one["at"]] == [1, 2, 4, 6]
    ours, two, table = (one["at"] for one in told["runs"])
    assert all(at["bits_per_byte"] > 1 and 0 < at["attention"]["local"] < 1 for at in ours)
    assert all(at["attention"]["cross_local"] > 0 for at in two)
    assert "refused" not in table[0] and "a table of 140 tokens" in table[-1]["refused"]
    assert "<svg" in (tmp_path / "lengths.svg").read_text("utf-8")
    assert run(asked) == 0
    out = capsys.readouterr().out
    assert "no such position" in out and "on the last 5 tokens" in out and "table at 6×" in out


def test_what_fills_holes_is_marked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [place / "filler", "--text", place / "text", "--length", "32", "--up-to", "2", "--blocks", "2"]
    assert run(["lengths", *map(str, words)]) == 0
    assert "filler (pseudo)" in "".join(capsys.readouterr().out.split("\n"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["two", "--text", "text"], "two doesn't say how long its training texts were: give --length BYTES"),
        (["two", "--text", "text", "--length", "64", "--up-to", "999"], "no text is 63936 bytes long"),
        (
            ["two", "--text", "text", "--length", "64", "--chart", "x.pdf"],
            "--chart x.pdf: give a file that ends in",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_asking_is_one_line(
    words: list[str],
    message: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    assert run(["lengths", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
