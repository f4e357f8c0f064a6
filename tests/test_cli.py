"""The command line: help at once, one line for every error, values as people write them."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headtohead import __version__, cli
from headtohead.errors import Interrupted, UserError
from headtohead.model.presets import families

COMMANDS = ("study", "report", "claims", "diff", "budget", "draw", "run")


def launch(*words: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """``python -m headtohead`` as a process of its own."""
    command = [sys.executable, "-m", "headtohead", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **settings)  # type: ignore[call-overload]


def without(*modules: str) -> str:
    """A program that runs the command line where importing one of ``modules`` fails."""
    blocked = f"sys.modules.update(dict.fromkeys({modules!r}))"
    return f"import sys; {blocked}; from headtohead.cli import run; sys.exit(run(sys.argv[1:]))"


def test_help_answers_within_0_4_seconds() -> None:
    launch("--help")  # compiles the bytecode of a fresh clone
    times: list[float] = []
    while not times or (min(times) >= 0.4 and len(times) < 10):  # a busy machine is not the program's doing
        start = time.perf_counter()
        assert launch("--help").returncode == 0
        times.append(time.perf_counter() - start)
    assert min(times) < 0.4, times


def test_help_shows_every_command_and_an_example() -> None:
    text = launch("--help").stdout
    for command in COMMANDS:
        assert re.search(rf"│ {command}\s+[A-Z]", text), command
    assert "headtohead study studies/first-look.toml --dry-run" in text
    assert launch().stdout == text  # without a command, too
    assert launch("-h").stdout == text


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str) -> None:
    answer = launch(command, "--help")
    assert answer.returncode == 0
    assert f"Usage: headtohead {command} [OPTIONS] " in answer.stdout
    assert "{" not in answer.stdout
    assert "<bool>" not in answer.stdout


def test_help_of_budget_lists_the_presets_that_exist() -> None:
    assert "--list" in launch("budget", "--help").stdout
    text = launch("budget", "--list").stdout
    for family in families().values():
        assert re.search(
            rf"^ *{re.escape(family.name)} .*{re.escape(family.title)} .*{list(family.sizes)[-1]}", text, re.M
        )
    answer = launch("budget")
    assert answer.returncode == 2 and "--list" in answer.stderr


def test_version() -> None:
    assert launch("--version").stdout == f"headtohead {__version__}\n"


def test_the_command_line_itself_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "scipy", "pydantic", "polars", "altair", "rich")
    program = f"import sys, headtohead.cli; print([m for m in {heavy} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["budget", "decllm-8b", "redllm-8b"],
        ["budget", "decllm-nano", "--json"],
        ["draw", "redllm-nano", "--out", "OUT.svg"],
        ["study", "STUDY", "--text", "TEXT", "--set", "recipe.warmup_steps=10", "--dry-run"],
    ],
    ids=lambda words: words[0],
)
def test_what_needs_no_torch_does_not_import_it(words: list[str], tmp_path: Path) -> None:
    # The first study, at one learning rate (the tuned ones are another file), on a text that is quickly read.
    first_look = (Path(__file__).parent.parent / "studies" / "first-look.toml").read_text("utf-8")
    one_rate = re.sub(r"^rates = .*$", "", first_look, flags=re.MULTILINE)
    (tmp_path / "study.toml").write_text(
        one_rate.replace("[recipe]", "[recipe]\nlearning_rate = 1e-3"), "utf-8"
    )
    lines = (
        f"Line {n} of {n * n % 977} says {n * 7919 % 1009} things about {n % 31}.\n" for n in range(4000)
    )
    (tmp_path / "text.txt").write_text("".join(lines), "utf-8")
    places = {"STUDY": "study.toml", "TEXT": "text.txt"}
    answer = subprocess.run(
        [sys.executable, "-c", without("torch"), *(places.get(word, word) for word in words)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope"], "no such command 'nope'; see headtohead --help"),
        (["stduy"], "no such command 'stduy': did you mean 'study'\\? see headtohead --help"),
        (["--verbose"], "no such option: --verbose"),
        (["study"], "missing argument 'FILE'; see headtohead study --help"),
        (["study", "a.toml", "b.toml"], r"unexpected extra argument\S* \(b.toml\)"),
        (["study", "a.toml", "--ouut", "x"], r"no such option: --ouut \(did you mean --on, --out\)"),
        (["study", "a.toml", "--workers", "0"], "'--workers': '0' is not a whole number from 1 up"),
        (["study", "a.toml", "--workers", "two"], "'--workers': 'two' is not a whole number from 1 up"),
        (["study", "a.toml", "--text"], "option '--text' requires an argument"),
        (["study", "a.toml", "--dry-run=yes"], "'--dry-run' does not take a value"),
        (["budget", "decllm-nano", "--input", "-1"], "'-1' is not a whole number from 0 up"),
        (["budget", "decllm-nano", "--output", "1e3"], "'1e3' is not a whole number from 0 up"),
        (["diff", "one"], "missing argument 'RUN'"),
        (["run"], "missing argument 'DIR'"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: [^\n]*\n", err)
    assert re.search(message, err), err


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (UserError("the file\nx.toml is empty"), 2, "error: the file x.toml is empty\n"),
        (Interrupted("go on with: x"), 130, "error: go on with: x\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; what is finished is kept\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: no space left on the disk\n"),
        (OSError(errno.ENOSPC, "No space", "runs/a"), 2, "error: runs/a: no space left on the disk\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "error: /x: permission denied\n"),
    ],
    ids=["user", "stopped", "interrupt", "disk", "disk-named", "permission"],
)
def test_errors_of_a_command_are_told_once(
    raised: BaseException,
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from headtohead.study import tables

    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(tables, "print_budget", fail)
    assert cli.run(["budget", "decllm-nano"]) == code
    assert capsys.readouterr() == ("", told)


def test_a_defect_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from headtohead.study import tables

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tables, "print_budget", fail)
    with pytest.raises(ZeroDivisionError):
        cli.run(["budget", "decllm-nano"])


def test_a_full_disk_under_the_output_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        answer = subprocess.run(
            [sys.executable, "-m", "headtohead", "budget", "decllm-nano", "--json"],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert answer.returncode == 2
    assert answer.stderr == "error: no space left on the disk\n"


def test_a_terminal_of_few_characters_gets_what_it_can_show() -> None:
    answer = launch("budget", "decllm-nano", "redllm-nano", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "? 0.79" in answer.stdout  # × 0.79


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    answer = subprocess.run(
        [sys.executable, "-m", "headtohead", "budget", "decllm-nano", "--json"],
        stdout=write, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(write)
    assert answer.stderr == ""


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("s.toml --text a b c --out d", "s.toml --text a --text b --text c --out d"),
        ("--text a b s.toml", "--text a --text b s.toml"),
        ("--text a s.toml b", "--text a s.toml b"),
        ("s.toml --set x=1 y=-2 --dry-run", "s.toml --set x=1 --set y=-2 --dry-run"),
        ("--set x=1 s.toml", "--set x=1 s.toml"),
        ("s.toml --text -- b", "s.toml --text -- b"),
        ("s.toml --text a --set x=1 y=2 --text b c", "s.toml --text a --set x=1 --set y=2 --text b --text c"),
        ("s.toml --text=a b", "s.toml --text=a b"),
        ("s.toml --out d e", "s.toml --out d e"),
        ("s.toml --text x.toml", "s.toml --text x.toml"),
    ],
)
def test_options_of_many_values(written: str, read: str) -> None:
    assert cli.spread(written.split()) == read.split()


def test_study_hands_everything_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from headtohead.study import runner

    calls: list[dict[str, object]] = []
    monkeypatch.setattr(runner, "study", lambda **settings: calls.append(settings))
    assert cli.run(["study", "studies/x.toml"]) == 0
    assert calls.pop() == {
        "file": Path("studies/x.toml"), "text": [], "pairs": None, "field": "text", "out": None,
        "workers": None, "dry_run": False, "overrides": [], "on": None, "slurm": [], "shard": None,
    }  # fmt: skip
    words = "study x.toml --text a b --pairs p --field body --out o --workers 3 --dry-run --set m=1 n=2"
    words += " --on slurm --slurm time=9 --slurm qos=low --shard 1/2"
    assert cli.run(words.split()) == 0
    assert calls.pop() == {
        "file": Path("x.toml"), "text": [Path("a"), Path("b")], "pairs": Path("p"), "field": "body",
        "out": Path("o"), "workers": 3, "dry_run": True, "overrides": ["m=1", "n=2"], "on": "slurm",
        "slurm": ["time=9", "qos=low"], "shard": "1/2",
    }  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_offered(shell: str) -> None:
    environment = {**os.environ, "_HEADTOHEAD_COMPLETE": f"source_{shell}"}
    answer = launch(env=environment)
    assert "_HEADTOHEAD_COMPLETE" in answer.stdout


@pytest.mark.parametrize(
    ("name", "words"), [("study", ["any.toml"]), ("objectives", []), ("claims run", ["C1"])]
)
def test_what_one_process_does_is_refused_under_torchrun(
    name: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert cli.run([*name.split(), *words]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"error: headtohead {name} is done by one process: start it without torchrun")
    assert told.err.count("\n") == 1 and not told.out
    monkeypatch.setenv("RANK", "1")
    assert cli.run([*name.split(), *words]) == 2
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    cli.run([*name.split(), *words, "--help"])
    assert "torchrun" not in capsys.readouterr().err
