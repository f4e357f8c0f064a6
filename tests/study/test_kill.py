"""`kill -9` of the study, of one worker, of the whole group, at random moments: the study that was killed and
started again is, bit for bit, the one that was not. Quick here; ten moments each with ``pytest -m slow
tests/study/test_kill.py``.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.study.short_study import finish, start, write_study

from headtohead.files import sha256_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


class Watch(threading.Thread):
    """Looks, again and again, which processes have files of a run open, and remembers folders with two at a
    time.
    """

    def __init__(self, out: Path) -> None:
        super().__init__(daemon=True)
        self.out = out.resolve()
        self.doubled: set[str] = set()
        self.looks = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.05):
            writers: defaultdict[str, set[int]] = defaultdict(set)
            for pid in workers_of(self.out):
                for path in open_files(pid):
                    if path.name not in (".lock", "log.txt") and self.out / "runs" in path.parents:
                        writers[path.relative_to(self.out / "runs").parts[0]].add(pid)
            self.looks += 1
            self.doubled |= {folder for folder, pids in writers.items() if len(pids) > 1}

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


def open_files(pid: int) -> list[Path]:
    """What a process has open; nothing once it is gone."""
    try:
        return [Path(os.readlink(fd)) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []


def workers_of(out: Path) -> list[int]:
    """The living processes that do a run of the study in `out`."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().split(b"\0") if process.name.isdigit() else []
            state = (process / "stat").read_text().rpartition(")")[2].split()[0] if words else "Z"
        except OSError:
            continue
        folder = words[-2].decode() if len(words) > 2 and words[-3] == b"run" else ""
        if state != "Z" and folder.startswith(f"{out}{os.sep}"):
            found.append(int(process.name))
    return found


def finished(out: Path) -> dict[str, int]:
    """The finished runs, and when each got its result."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}


def weights(out: Path) -> dict[str, str]:
    """Each run's final weights."""
    return {path.parent.name: sha256_of(path) for path in out.glob("runs/*/model.safetensors")}


def gone(out: Path, seconds: float) -> bool:
    """Whether all workers are gone within some seconds."""
    end = time.monotonic() + seconds
    while workers_of(out):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@dataclass(frozen=True)
class Uninterrupted:
    """A study that nobody killed, and how long it took on this machine, as busy as it is."""

    file: Path
    text: Path
    out: Path
    seconds: float


def uninterrupted(file: Path, text: Path, out: Path) -> Uninterrupted:
    began = time.monotonic()
    finish(file, text, out)
    return Uninterrupted(file, text, out, time.monotonic() - began)


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """A search of learning rates: ten runs, no page."""
    folder = tmp_path_factory.mktemp("search")
    _, file, text = write_study(folder)
    return uninterrupted(file, text, folder / "out")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """A comparison, with its page."""
    folder = tmp_path_factory.mktemp("comparison")
    file, _, text = write_study(folder)
    return uninterrupted(file, text, folder / "out")


def killed(kind: str, kills: int, plain: Uninterrupted, out: Path, moments: random.Random) -> int:
    """Run a study to its end, killing parent, worker or group at random moments; how often it was."""
    done: dict[str, int] = {}
    count = 0
    while True:
        process = start(plain.file, plain.text, out)
        try:
            while process.poll() is None and count < kills:
                time.sleep(moments.uniform(0.2, 0.3 * plain.seconds))
                if process.poll() is not None:
                    break
                if kind == "worker":
                    if alive := workers_of(out):
                        os.kill(moments.choice(alive), signal.SIGKILL)
                        count += 1
                    continue
                count += 1
                (os.killpg if kind == "group" else os.kill)(process.pid, signal.SIGKILL)
                break
            printed, _ = process.communicate(timeout=3000)
            assert process.returncode in (0, -signal.SIGKILL), printed
            assert gone(out, 10), "a worker outlived the study"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        now = finished(out)
        assert done.items() <= now.items(), "a finished run was repeated"
        done = now
        if process.returncode == 0:
            return count


def same_as(plain: Uninterrupted, kind: str, kills: int, folder: Path, seed: int) -> None:
    """Kill the study `kills` times, in as many studies as it takes; each ends as `plain` did."""
    moments = random.Random(f"{kind} {seed}")
    count = attempt = 0
    while count < kills:
        attempt += 1
        assert attempt <= 2 * kills, "the study is too short to be killed"
        out = folder / f"killed-{attempt}"
        with Watch(out) as watch:
            count += killed(kind, kills - count, plain, out, moments)
        assert not watch.doubled
        assert watch.looks
        assert len(weights(out)) == len(finished(out)) == len(finished(plain.out))
        assert weights(out) == weights(plain.out)
        assert (out / "results.jsonl").read_bytes() == (plain.out / "results.jsonl").read_bytes()
        assert not list(out.glob("runs/*/checkpoints"))


@pytest.mark.timeout(1800)  # three minutes on a free machine; killing needs no free one
@pytest.mark.parametrize("kind", ["parent", "worker", "group"])
def test_killed_twice(kind: str, search: Uninterrupted, tmp_path: Path) -> None:
    same_as(search, kind, 2, tmp_path, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["parent", "worker", "group"])
def test_killed_ten_times(kind: str, comparison: Uninterrupted, tmp_path: Path) -> None:
    same_as(comparison, kind, 10, tmp_path, seed=int(os.environ.get("SEED", "1")))
