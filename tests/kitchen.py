"""What the tests of bad inputs and of trouble start from: a folder with a study file, a text, a finished study in
``done``, and in ``halfway`` runs that were interrupted; how it is spoiled, and what must come of it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tests.study.short_study import STUDY, write_study

from headtohead import cli
from headtohead.study.prepare import check_data, read_data
from headtohead.study.results import folder_of, write_results
from headtohead.study.supervisor import Supervisor
from headtohead.study.worker import run as run_in_this_process

NEW = "study short.toml --text text --out out"
AGAIN = "study one.toml --text text --out done"
RUN = "run halfway/runs/full-prefix-seed1"
DONE, HALF = "done/runs/full-prefix-seed1", "halfway/runs/full-prefix-seed1"

# One arm, a few steps: what is finished or interrupted in the kitchen.
ONE = (
    STUDY.split('[[arms]]\nkey = "two-full"')[0]
    .replace('name = "short"', 'name = "one"')
    .replace("seeds = [1, 2]", "seeds = [1]")
    .replace("steps = 8", "steps = 3")
    .replace("steps = 60", "steps = 9")
    .replace("checkpoint_every = 7", "checkpoint_every = 3")
)
TUNED = {
    arm: {"best": 1e-2, "optimum": 1e-2, "edge": False, "grid": [1e-3, 1e-2], "bits_per_byte": [2.0, 1.0]}
    for arm in ("prefix", "two-full")
}


# ------------------------------------------------------------------------------------------------ the kitchen


class Interruption(Exception):
    """Ends a run between two steps, as a kill would."""


@contextmanager
def in_this_process(only_settled: bool = False) -> Iterator[None]:
    """Studies do their runs here, one after another, instead of in processes of their own."""

    def work(self: Supervisor) -> None:
        for run in self.waiting:
            self._settle(run)
        for run in [] if only_settled else self.waiting:
            run_in_this_process(folder_of(self.out, run))
        write_results(self.out, self.runs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supervisor, "work", work)
        yield


def interrupt(folder: Path, step: int) -> None:
    """Do the run in `folder` up to a step."""
    from headtohead.study import training

    def at(stage: str, now: int, *_: object) -> None:
        if stage == "training" and now == step:
            raise Interruption

    with pytest.raises(Interruption):
        training.trained(folder, json.loads((folder / "run.json").read_text("utf-8")), at)


@contextmanager
def torch_as_it_was() -> Iterator[None]:
    """A run settles threads and determinism for its process: put them back."""
    import torch  # here, and below: every test collects this file, few need torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="session")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all start from."""
    folder = tmp_path_factory.mktemp("kitchen")
    write_study(folder)
    (folder / "one.toml").write_text(ONE, "utf-8")
    with torch_as_it_was(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with in_this_process():
            assert main("study one.toml --text text --out done") == 0
        with in_this_process(only_settled=True):
            assert main("study one.toml --text text --out halfway --set seeds=[1,2]") == 0
        for seed in (1, 2):
            interrupt(folder / "halfway" / "runs" / f"full-prefix-seed{seed}", 8)
    return folder


@pytest.fixture
def place(kitchen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the kitchen, to be spoiled, and the current folder."""
    folder = tmp_path / "place"
    shutil.copytree(kitchen, folder)
    monkeypatch.chdir(folder)
    with torch_as_it_was():
        yield folder


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below, with what it holds. Locks are left out: they hold a process id, for a message."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.name == ".lock":
            continue
        content = sha256(path.read_bytes()).hexdigest() if path.is_file() else "a folder"
        found[os.fsencode(path.relative_to(folder)).decode("utf-8", "replace")] = content
    return found


# ------------------------------------------------------------------------------------------------- the spoiling

Spoil = Callable[[], object]


def nothing() -> None:
    """The words themselves are wrong."""


def put(file: str, content: str | bytes) -> Spoil:
    """A file with that content."""

    def spoil() -> None:
        path = Path(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def swap(old: str, new: str, file: str = "short.toml") -> Spoil:
    """Other words in a file."""

    def spoil() -> None:
        text = Path(file).read_text("utf-8")
        assert old in text
        Path(file).write_text(text.replace(old, new, 1), "utf-8")

    return spoil


def cut(file: str, by: int = 1) -> Spoil:
    """A file cut short."""
    return lambda: Path(file).write_bytes(Path(file).read_bytes()[:-by])


def alter(file: str) -> Spoil:
    """A file with one bit turned over, in its middle."""

    def spoil() -> None:
        data = bytearray(Path(file).read_bytes())
        data[len(data) // 2] ^= 1
        Path(file).write_bytes(bytes(data))

    return spoil


def remove(file: str) -> Spoil:
    return lambda: shutil.rmtree(file) if Path(file).is_dir() else Path(file).unlink()


def tuned(**changes: Any) -> Spoil:
    """The study takes its learning rates from a file, in which some arms' entries are others."""

    def spoil() -> None:
        swap("learning_rate = 1e-2\n", "")()
        swap("margin =", 'rates = "tuned.json"\nmargin =')()
        arms = {key: value for key, value in {**TUNED, **changes}.items() if value is not None}
        put("tuned.json", json.dumps({"study": "short", "steps": 40, "arms": arms}))()

    return spoil


# ------------------------------------------------------------------------------------------- what must come of it


@dataclass(frozen=True)
class Answer:
    """What came of a command."""

    code: int
    out: str
    err: str


def main(words: str) -> int:
    """`headtohead` in this process; its exit code."""
    return cli.run(words.split())


def answer(words: str, capfd: pytest.CaptureFixture[str]) -> Answer:
    """`headtohead` in this process."""
    capfd.readouterr()
    code = main(words)
    told = capfd.readouterr()
    return Answer(code, told.out, told.err)


def launch(words: str, **environment: str | None) -> Answer:
    """`headtohead` in a process of its own; an environment variable that is None is taken away."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    found = subprocess.run(
        [sys.executable, "-m", "headtohead", *words.split()],
        capture_output=True,
        text=True,
        env={name: value for name, value in variables.items() if value is not None},
    )
    return Answer(found.returncode, found.stdout, found.stderr)


FOREIGN = ("Traceback", "pydantic", "Value error", "NoneType", "object is not", "Errno", "Error(")
"""What is told to programmers."""


def judge(before: dict[str, str], place: Path, answer: Answer, *says: str) -> None:
    """The behaviour that is promised for everything a person can put right.

    A study that is refused after its text was prepared leaves that, whole.
    """
    assert answer.code == 2, answer
    assert re.fullmatch(r"error: [^\n]+\n", answer.err), answer.err
    for fragment in says:
        assert fragment in answer.err, answer.err
    for word in FOREIGN:
        assert word not in answer.err, answer.err
    assert len(answer.err) < 500, answer.err
    assert re.fullmatch(r"(preparing the text: [^\n]+\n)?", answer.out), answer.out
    after = snapshot(place)
    assert {path: after.get(path) for path in before} == before, "something was touched"
    new = {path for path in after.keys() - before.keys() if path != "out"}
    data = {path for path in new if path == "out/data" or path.startswith("out/data/")}
    assert new == data, "something is left"
    if data:
        check_data(place / "out" / "data", read_data(place / "out" / "data"))
