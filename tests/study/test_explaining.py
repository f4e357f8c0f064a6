"""One real batch for people: the tokens, targets and marks are those of the layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headtohead.cli import run
from headtohead.data.objectives import Codes, MaskedLM, SpanCorruption
from headtohead.data.tokenizers import ByteTokenizer
from headtohead.model.presets import architecture
from headtohead.study.explaining import Shown, rendered, word

from .short_study import write_study

WINDOW = "of the people"


def printed(shown: Shown, width: int, capsys: pytest.CaptureFixture[str]) -> str:
    from rich.console import Console

    console = Console(width=width, color_system=None)
    for part in rendered(shown, 0, 99, width):
        console.print(part)
    return capsys.readouterr().out


def shown(kind: SpanCorruption | MaskedLM, name: str, window: str = WINDOW) -> tuple[Shown, list[str]]:
    tokenizer = ByteTokenizer(kind.specials(16))
    e = kind.make(window, [tokenizer.encode(window)], Codes(tokenizer)).example(0, kind.region)
    a = architecture(name).resized(vocabulary=tokenizer.vocabulary)
    holes = "holes" if kind.in_place else "output"
    found = Shown("a title", a, holes, 64, 40, (e,), ("a.txt",), tokenizer)
    return found, [word(tokenizer, int(token)) for token in e.output]


@pytest.mark.parametrize("width", [60, 100, 160])
def test_spans_are_shown_with_their_targets(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    found, answers = shown(SpanCorruption(rate=0.5, mean=2), "redllm-nano")
    out = printed(found, width, capsys)
    lines = [line.split() for line in out.splitlines()]
    written = [line for line in lines if len(line) in (6, 7) and line[1:2] == ["O"]]
    targets = [line[5] for line in written]
    assert targets == [*answers, "<end>"]
    marks = [line[6] for line in written]
    expected = ["*" if not answer.startswith("<") else "+" for answer in answers]
    assert marks == [*expected, "+"]
    assert next(line[2] for line in lines if line[1:2] == ["I"]) == "<denoise>"
    assert max(map(len, out.splitlines())) <= max(width, 100)


@pytest.mark.parametrize("width", [64, 80, 110, 140])
def test_a_long_example_is_drawn_as_far_as_it_fits(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    found, answers = shown(SpanCorruption(rate=0.3, mean=9), "redllm-nano", window=WINDOW * 2)
    out = printed(found, width, capsys)
    assert max(map(len, out.splitlines())) <= width
    fit = min(28, (width - 8) // 2)
    drawn = [line.split() for line in out.splitlines() if line[:4] in ("  x ", "  y ")]
    rows = {letter: sum(line[0] == letter for line in drawn) for letter in "xy"}
    assert rows["x"] + rows["y"] == fit and min(rows.values()) > 1
    asked = (
        f"the first {rows['x']} of {1 + len(found.examples[0].input)} tokens of the input, {rows['y']} of "
    )
    assert asked + f"{1 + len(answers)} of the output" in " ".join(out.split())


def test_holes_are_shown_at_their_places(capsys: pytest.CaptureFixture[str]) -> None:
    found, answers = shown(MaskedLM(rate=0.3, replace="mask"), "bert-nano")
    lines = [line.split() for line in printed(found, 100, capsys).splitlines()]
    rows = [line for line in lines if line[1:2] == ["I"]]
    marked = [line for line in rows if line[-1] == "*"]
    assert [line[-2] for line in marked] == answers
    assert all(line[2] == "<mask>" for line in marked)
    assert found.examples[0].where is not None
    assert [int(line[0]) for line in marked] == (1 + np.array(found.examples[0].where)).tolist()
    # Who sees whom of a short example: everything sees everything.
    seen = [line for line in lines if line[:1] == ["x"] and "■" in line]
    assert len(seen) == len(rows) and all("·" not in line for line in seen)


def test_a_study_is_explained_as_it_would_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study, _, text = write_study(tmp_path)
    assert run(["explain-batch", str(study), "--text", str(text), "--arm", "two-full"]) == 0
    out = capsys.readouterr().out
    assert "two stacks" in out and "output (holds output)" in out and "other arms: prefix" in out
    assert "learns by prefix and restoration in turn" in out
    assert ("<start>" in out and "<continue>" in out) or "<restore>" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arm", "two-ful"], "has no arm 'two-ful': did you mean 'two-full'?"),
        (["--example", "99"], "--example 99: the row holds"),
        (["--tokens", "0"], "'0' is not a whole number"),
    ],
)
def test_bad_words_are_told(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, _, text = write_study(tmp_path)
    assert run(["explain-batch", str(study), "--text", str(text), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert run(["explain-batch", str(tmp_path)]) == 2
    assert "holds no run.json" in capsys.readouterr().err
