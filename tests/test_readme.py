"""What the README shows is true: its commands exist, its example is what is printed, its links work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from headtohead import cli

ROOT = Path(__file__).parent.parent
NAMES = ("README.md", "README.zh-CN.md")


def blocks(name: str, language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", (ROOT / name).read_text("utf-8"), re.MULTILINE | re.DOTALL
    )


@pytest.mark.parametrize("name", NAMES)
def test_starts_with_the_two_commands(name: str) -> None:
    commands = [line.split("#")[0].strip() for line in blocks(name, "sh")[0].splitlines()]
    assert commands == ["make study", "make test"]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_example_is_what_the_program_prints(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    example = blocks(name, "console")[0].splitlines()
    words = shlex.split(example[0].removeprefix("$ headtohead "))
    assert cli.run(words) == 0
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    shown = [line.strip() for line in example[1:]]
    assert shown == printed[1 : 1 + len(shown)]


@pytest.mark.parametrize("name", NAMES)
def test_every_option_shown_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in blocks(name, "sh") for line in block.splitlines() if "bin/headtohead" in line]
    lines += re.findall(r"^\| `(headtohead [^`]*)`", (ROOT / name).read_text("utf-8"), re.MULTILINE)
    assert len(lines) >= 10
    for line in lines:
        _, command, *rest = shlex.split(line)
        cli.run([command, "--help"])
        usage = capsys.readouterr().out
        for word in rest:
            assert not word.startswith("-") or word in usage, line


def test_both_languages_show_the_same() -> None:
    def bare(block: str) -> str:
        return re.sub(r"[#<].*", "", block)  # comments and placeholders are translated

    english, chinese = (
        [bare(b) for language in ("sh", "toml", "console") for b in blocks(n, language)] for n in NAMES
    )
    assert english == chinese
