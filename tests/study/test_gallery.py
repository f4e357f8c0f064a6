"""The page of architectures says what the presets say, and the terminal shows every one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from headtohead.cli import run
from headtohead.errors import UserError
from headtohead.model.presets import architecture, families
from headtohead.study import gallery, objectives, terminal
from headtohead.study.drawing import drawing

DOCS = Path("docs")
ON_THE_PAGE = [name for name in families() if (DOCS / gallery.PICTURES / f"{name}.svg").is_file()]


@pytest.mark.parametrize("name", ON_THE_PAGE)
def test_what_stands_on_the_page_is_what_the_preset_says(name: str) -> None:
    """If this fails, run make docs. A family that was just added may not be on the page yet."""
    family = families()[name]
    assert gallery.entry(family) in (DOCS / gallery.PAGE).read_text()
    assert (DOCS / gallery.PICTURES / f"{name}.svg").read_text() == drawing(gallery.shown(family))


def test_the_page_of_objectives_is_what_the_objectives_do() -> None:
    """If this fails, run make docs."""
    assert (DOCS / gallery.OBJECTIVES).read_text() == objectives.page()


def test_objectives_are_shown_for_networks_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["objectives", "redllm-nano"]) == 0
    shown = capsys.readouterr().out
    assert "redllm-nano" in shown and "(1) its input is empty" in " ".join(shown.split())
    assert run(["objectives", "redllm-nanoo"]) == 2


def test_the_page_has_no_family_that_is_gone() -> None:
    assert {path.stem for path in (DOCS / gallery.PICTURES).glob("*.svg")} <= set(families())
    assert len(ON_THE_PAGE) >= 40


@pytest.mark.parametrize("name", families())
def test_every_family_says_what_it_is(name: str) -> None:
    family = families()[name]
    assert family.source and family.title
    assert 220 < len(family.about) < 1200


@pytest.mark.parametrize("name", families())
def test_the_terminal_shows_every_family(name: str) -> None:
    a = gallery.shown(families()[name])
    text = "\n".join(line.plain for line in terminal.lines(a))
    for stream in a.streams:
        assert f"{stream.name}  {stream.depth} layers" in text
    assert terminal.SEES in text


def test_heads_that_differ_are_shown_apart() -> None:
    text = "\n".join(line.plain for line in terminal.lines(architecture("half-heads-nano")))
    assert "heads 1–2" in text and "heads 3–4" in text
    forward, backward = (text[text.index(heads) :].splitlines()[2:10] for heads in ("heads 1–2", "heads 3–4"))
    assert forward[0].split()[1:] == ["■"] + ["·"] * 7
    assert backward[0].split()[1:] == ["■"] * 8


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(UserError, match="no architecture"):
        terminal.show("gpt-9-huge")
