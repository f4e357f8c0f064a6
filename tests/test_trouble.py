"""When things go wrong around a study: a folder in use, a disk that is full or read-only, damaged checkpoints, no
compiler, a loss that is not finite.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.kitchen import (
    AGAIN,
    DONE,
    HALF,
    NEW,
    RUN,
    TUNED,
    Spoil,
    alter,
    answer,
    cut,
    in_this_process,
    judge,
    launch,
    main,
    put,
    remove,
    snapshot,
    swap,
    tuned,
)

from headtohead.files import FolderLock
from headtohead.study.processes import NOTE, Worker
from headtohead.train import checkpoint, runtime, staging

Told = pytest.CaptureFixture[str]

# ------------------------------------------------------------------------------------------- in use by another


@pytest.mark.parametrize("words", [AGAIN, "study short.toml --text text --out done", f"run {DONE}"])
def test_a_folder_in_use(words: str, place: Path, capfd: Told) -> None:
    held = Path(words.split()[-1])
    before = snapshot(place)
    with FolderLock(held):
        found = answer(words, capfd)
    judge(before, place, found, f"{held} is in use by process {os.getpid()}", "wait for it or end it first")


def test_a_folder_in_use_by_a_process(place: Path) -> None:
    before = snapshot(place)
    with FolderLock(Path("done")):
        judge(before, place, launch(AGAIN), f"done is in use by process {os.getpid()}", "end it first")


# ------------------------------------------------------------------------------------- disks, full or read-only


@contextmanager
def disk(folder: Path, options: str = "size=64m") -> Iterator[bool]:
    """A disk of its own under `folder`, with all that is in it; False where a test may not mount one."""
    beside = folder.with_name(f"{folder.name}-beside")
    folder.mkdir(exist_ok=True)
    asked = ["mount", "-t", "tmpfs", "-o", options, "headtohead-test", str(folder)]
    shutil.copytree(folder, beside, symlinks=True)
    try:
        mounted = subprocess.run(asked, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        if mounted:
            shutil.copytree(beside, folder, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(beside)
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def read_only(*_: object, **__: object) -> int:
    raise OSError(errno.EROFS, "Read-only file system")


REAL = pytest.mark.parametrize("real", [True, False], ids=["real", "pretended"])
"""On a disk of its own, which takes the right to mount one; and with the system's answer in its place, as the first
is done too where that right is missing.
"""


@contextmanager
def no_space(folder: Path, left: int, real: bool, what: Any = os, call: str = "fsync") -> Iterator[None]:
    """On `folder`'s disk `left` bytes are free; pretended: `what.call` fails as it does on a full disk."""
    with pytest.MonkeyPatch.context() as patch:
        if not real:
            patch.setattr(what, call, full)
            yield
            return
        with disk(folder) as mounted:
            if mounted:
                used = sum(-(-p.stat().st_size // 4096) + 1 for p in folder.rglob("*"))
                smaller = f"remount,size={(used + 1) * 4096 + left}"
                subprocess.run(["mount", "-o", smaller, str(folder)], check=True)
                free = os.statvfs(folder)
                with open(folder / ".filler", "wb", buffering=0) as file:
                    file.write(b"x" * max(0, free.f_bavail * free.f_bsize - left))
            else:
                patch.setattr(what, call, full)
            yield


@REAL
def test_a_full_disk_under_a_new_study(real: bool, place: Path, capfd: Told) -> None:
    with no_space(place / "out", 65536, real):
        before = snapshot(place)
        judge(before, place, answer(NEW, capfd), "cannot write out/", "no space left on the disk")


@REAL
def test_a_full_disk_under_finished_results(real: bool, place: Path, capfd: Told) -> None:
    with no_space(place / "done", 0, real):
        before = snapshot(place)
        found = answer(f"{AGAIN} --set seeds=[1,2]", capfd)
        judge(before, place, found, "cannot write done/plan.json", "no space left on the disk")


@REAL
def test_a_full_disk_under_a_checkpoint(real: bool, place: Path, capfd: Told) -> None:
    shutil.rmtree("halfway/runs/full-prefix-seed2")
    with no_space(place / "halfway" / "runs", 65536, real, staging, "_write_synced"):
        before = snapshot(place)
        found = answer(RUN, capfd)
        for told_of_steps in (f"{HALF}/metrics.jsonl", f"{HALF}/progress.json"):
            Path(told_of_steps).unlink(missing_ok=True)
            before.pop(told_of_steps, None)
        says = f"cannot write the checkpoint {HALF}/checkpoints/step-00000009/", "no space left on the disk"
        judge(before, place, found, *says, "earlier checkpoints are untouched")


@REAL
def test_a_full_disk_under_a_drawing(real: bool, place: Path, capfd: Told) -> None:
    put("pictures/a.svg", "<svg/>")()
    with no_space(place / "pictures", 0, real):
        before = snapshot(place)
        found = answer("draw redllm-nano --out pictures/a.svg", capfd)
        judge(before, place, found, "cannot write pictures/a.svg: no space left on the disk")


@REAL
@pytest.mark.parametrize(
    "words",
    [NEW.replace("--out out", "--out disk/out"), AGAIN.replace("--out done", "--out disk")],
    ids=["new", "again"],
)
def test_a_disk_that_is_read_only(words: str, real: bool, place: Path, capfd: Told) -> None:
    if words.endswith("--out disk"):
        Path("done").rename("disk")
        Path("disk/.lock").unlink()
    with disk(place / "disk") as mounted, pytest.MonkeyPatch.context() as patch:
        if mounted and real:
            subprocess.run(["mount", "-o", "remount,ro", str(place / "disk")], check=True)
        before = snapshot(place)
        if not (mounted and real):
            patch.setattr(os, "open", read_only)
            patch.setattr(Path, "mkdir", read_only)
        found = answer(words, capfd)
        patch.undo()
        judge(before, place, found, " disk", "the file system is read-only")


# ------------------------------------------------------------------------------------------ damaged checkpoints

NEWEST = f"{HALF}/checkpoints/step-00000006"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (cut(f"{NEWEST}/weights.safetensors", 7), "weights.safetensors is cut short"),
        (alter(f"{NEWEST}/optimizer.safetensors"), "optimizer.safetensors was altered"),
        (cut(f"{NEWEST}/state.json", 7), "state.json is cut short or altered"),
        (remove(f"{NEWEST}/state.json"), "state.json is missing"),
    ],
    ids=["cut", "altered", "state-cut", "state-missing"],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    spoil: Spoil, told: str, place: Path, capfd: Told
) -> None:
    spoil()
    found = answer(RUN, capfd)
    assert (found.code, found.out) == (0, "")
    assert re.fullmatch(r"note: the checkpoint [^\n]+\n", found.err), found.err
    for fragment in (f"{NEWEST} is damaged", told, "going on from step-00000003"):
        assert fragment in found.err
    assert weights(HALF) == weights(DONE)


def test_without_a_usable_checkpoint_a_run_starts_from_its_beginning(place: Path, capfd: Told) -> None:
    for step in (3, 6):
        cut(f"{HALF}/checkpoints/step-{step:08}/weights.safetensors", 7)()
    found = answer(RUN, capfd)
    assert found.code == 0
    assert re.findall(r"(step-\d+) is damaged", found.err) == ["step-00000006", "step-00000003"]
    for line in found.err.splitlines():
        assert line.startswith("note: the checkpoint ")
        assert line.endswith("no usable checkpoint: starting from step 0")
    assert weights(HALF) == weights(DONE)


def weights(folder: str) -> bytes:
    return Path(folder, "model.safetensors").read_bytes()


# ------------------------------------------------------------------------------------------- what is done without


def test_without_a_compiler_a_run_is_eager(place: Path) -> None:
    with in_this_process(only_settled=True):
        assert main("study one.toml --text text --out out --set recipe.compile=true") == 0
    folder = Path("out/runs/rehearsal-prefix-seed1")
    Path("nothing").mkdir()
    found = launch(f"run {folder}", PATH=str(Path("nothing").resolve()), CXX=None)
    assert (found.code, found.out) == (0, ""), found.err
    assert found.err == "note: there is no C++ compiler (g++ or clang++): the run is eager, not compiled\n"
    assert json.loads((folder / "result.json").read_text("utf-8"))["identity"]["compiled"] is False


def test_a_study_tells_once_what_its_runs_note(tmp_path: Path) -> None:
    worker = Worker(tmp_path, 1)
    log = tmp_path / "log.txt"
    assert worker.notes() == []
    log.write_text(f"{runtime.NOTE}there is no compiler\na warning of a library\n{NOTE}the checkpoi", "utf-8")
    assert worker.notes() == ["there is no compiler"]
    assert worker.notes() == []
    log.write_text(log.read_text("utf-8") + "nt is damaged\nerror: the disk is full\n", "utf-8")
    assert worker.notes() == ["the checkpoint is damaged"]


# -------------------------------------------------------------------------------------- a loss that is not finite


def huge_rate() -> None:
    """One arm's learning rate is far too high, the other's is not; a checkpoint after each step."""
    tuned(**{"two-full": {**TUNED["two-full"], "optimum": 1e30}})()
    swap("seeds = [1, 2]", "seeds = [1]")()
    swap("checkpoint_every = 7", "checkpoint_every = 1")()
    swap("steps = 60", "steps = 9")()


def judge_the_stopped() -> None:
    """Results, checkpoints and page of such a study."""
    results = [json.loads(line) for line in Path("out/results.jsonl").read_text("utf-8").split("\n") if line]
    assert sorted((line["arm"], line["rung"], line["status"]) for line in results) == [
        ("prefix", "full", "finished"),
        ("prefix", "rehearsal", "finished"),
        ("two-full", "full", "stopped"),
        ("two-full", "rehearsal", "stopped"),
    ]
    markdown = Path("out/report.md").read_text("utf-8").replace("\\", "")
    html = Path("out/report.html").read_text("utf-8")
    for line in results:
        if line["status"] == "stopped":
            folder = Path("out/runs") / f"{line['rung']}-two-full-seed1"
            last = folder / "checkpoints" / f"step-{line['step'] - 1:08}"
            reason = f"the loss is not finite at step {line['step']}, first in {line['layer']}"
            assert line["step"] == 2
            assert re.fullmatch(r"[a-z_.0-9]+", line["layer"])
            told = re.fullmatch(
                rf"{re.escape(reason)}; its batch is of ([^;]+); the last good checkpoint is {re.escape(str(last))}",
                line["reason"],
            )
            assert told
            assert all(re.fullmatch(r"\d+\.txt", name) for name in told[1].split(", "))
            assert checkpoint.load(last).step == 1
            assert not (folder / "model.safetensors").exists()
            assert reason in markdown
            assert reason in html


def test_a_loss_that_is_not_finite(place: Path) -> None:
    huge_rate()
    with in_this_process():
        assert main(NEW) == 0
        results = Path("out/results.jsonl").read_bytes()
        assert main(NEW) == 0  # it would come out the same: it is not tried again
        assert Path("out/results.jsonl").read_bytes() == results
    assert main("report out") == 0
    judge_the_stopped()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_loss_that_is_not_finite_in_processes(place: Path) -> None:
    """And a study on a machine without a compiler, which says so once for all its runs."""
    huge_rate()
    swap("compile = false", "compile = true")()
    Path("nothing").mkdir()
    found = launch(NEW, PATH=str(Path("nothing").resolve()), CXX=None)
    assert found.code == 0, found
    assert found.out.count("there is no C++ compiler (g++ or clang++): the run is eager, not compiled") == 1
    assert "2 runs finished, 2 stopped" in found.out
    judge_the_stopped()
