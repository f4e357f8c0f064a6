"""``headtohead diff``: every difference, in its section, and one line where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headtohead.errors import UserError
from headtohead.study.difference import ABSENT, Difference, differences, print_difference, read_run, shown

RUN: dict[str, Any] = {
    "arm": "prefix",
    "seed": 1,
    "architecture": {
        "name": "prefix-nano",
        "streams": [{"name": "text", "layers": [{"d_ff": 512, "repeat": 3}]}],
    },
    "recipe": {"learning_rate": 1e-3, "betas": [0.9, 0.95], "compile": True},
    "data": {"corpus_sha256": "0" * 64},
}
LEDGER = {"tokens_shown": 3_000_000, "flops": 10**15, "seconds": 100.5}


def write(folder: Path, run: Any = RUN, ledger: dict[str, Any] | None = LEDGER) -> Path:
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(run))
    if ledger is not None:
        (folder / "result.json").write_text(
            json.dumps({"ledger": ledger, "bits_per_byte": {"continuation": 2.0}})
        )
    return folder


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    return {**RUN, **{key: {**RUN[key], **values} for key, values in sections.items()}}


def test_equal_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b")
    print_difference(a, b)
    assert capsys.readouterr().out == f"no differences between {a} and {b}\n"


def test_every_difference_is_found_in_its_section(tmp_path: Path) -> None:
    streams = [{"name": "text", "layers": [{"d_ff": 528, "repeat": 3}]}, {"name": "output", "layers": []}]
    other = changed(architecture={"streams": streams}, recipe={"betas": [0.9, 0.99], "clip": 1.0}) | {
        "seed": 2
    }
    a, b = (
        read_run(write(tmp_path / "a")),
        read_run(write(tmp_path / "b", other, {**LEDGER, "flops": 2 * 10**15})),
    )
    assert differences(a, b) == [
        Difference("run", "seed", 1, 2),
        Difference("description", "streams[0].layers[0].d_ff", 512, 528),
        Difference("description", "streams[1]", ABSENT, {"name": "output", "layers": []}),
        Difference("recipe", "betas", [0.9, 0.95], [0.9, 0.99]),
        Difference("recipe", "clip", ABSENT, 1.0),
        Difference("ledger", "flops", 10**15, 2 * 10**15),
    ]


@pytest.mark.parametrize(
    ("a", "b", "same"), [(1, 1.0, True), (1, True, False), (0, None, False), ("1", 1, False)]
)
def test_what_counts_as_the_same(a: Any, b: Any, same: bool) -> None:
    assert (differences({"recipe": {"x": a}}, {"recipe": {"x": b}}) == []) is same


def test_not_a_number_is_itself() -> None:
    nan = float("nan")
    assert differences({"recipe": {"x": nan}}, {"recipe": {"x": float("nan")}}) == []


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = changed(recipe={"learning_rate": 2e-3, "compile": False})
    print_difference(
        write(tmp_path / "a"), write(tmp_path / "b", other, {**LEDGER, "tokens_shown": 3_003_000})
    )
    text = capsys.readouterr().out
    assert str(tmp_path) not in text  # the folders' common path is left out
    assert "× 2.00" in text
    assert "+0.10%" in text
    assert "3,003,000" in text
    assert text.endswith("3 differences in recipe and ledger\n")


def test_an_unfinished_run_has_no_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write(tmp_path / "a"), write(tmp_path / "b", ledger=None)
    print_difference(a, b)
    assert capsys.readouterr().out == (
        f"no ledger to compare: {b} is not finished\nno differences between {a} and {b}\n"
    )


def test_names_are_not_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {**RUN, "arm": "[red]x[/red]", "[b]key": 1}
    print_difference(write(tmp_path / "[a]"), write(tmp_path / "[b]", other))
    text = capsys.readouterr().out
    assert "[red]x[/red]" in text
    assert "[b]key" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no run.json"),
        ("", "is empty"),
        ("{", "not valid JSON"),
        ("[1]", "should hold a JSON object"),
    ],
)
def test_a_bad_folder_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    good, bad = write(tmp_path / "good"), tmp_path / "bad"
    with pytest.raises(UserError, match="bad is not a folder"):
        print_difference(good, bad)
    bad.mkdir()
    if content is not None:
        (bad / "run.json").write_text(content)
    with pytest.raises(UserError, match=message):
        print_difference(good, bad)


def test_long_values_keep_both_ends() -> None:
    text = shown("a" * 100 + "z" * 100)
    assert len(text) < 40
    assert text.startswith("aaa")
    assert text.endswith("zzz")
    assert shown("a\nb") == "a b"
    assert shown("") == '""'
    assert shown(1234567) == "1,234,567"
