"""A study on a local Ray, and through submitit's executor for this machine: the same results to the byte, whoever is
killed. Minutes: ``pytest -m slow tests/study/test_fleet.py``.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.study.short_study import finish, start, write_study
from tests.study.test_kill import Uninterrupted, gone, uninterrupted, workers_of

pytest.importorskip("ray")
pytest.importorskip("submitit")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc"),
]
PLACES = ("ray", "slurm:local")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """The search of ten runs, on this machine."""
    folder = tmp_path_factory.mktemp("plain")
    _, file, text = write_study(folder)
    return uninterrupted(file, text, folder / "out")


def same(out: Path, plain: Uninterrupted) -> None:
    assert (out / "results.jsonl").read_bytes() == (plain.out / "results.jsonl").read_bytes()
    assert not list(out.glob("runs/*/checkpoints")) and not list(out.glob("runs/*/lease.json"))


def run_of(pid: int) -> str:
    """The name of the run that a process does; nothing once it is gone."""
    try:
        return Path(Path(f"/proc/{pid}/cmdline").read_text().split("\0")[-2]).name
    except (OSError, IndexError):
        return ""


@pytest.mark.parametrize("on", PLACES)
def test_a_worker_killed(on: str, plain: Uninterrupted, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(plain.file, plain.text, out, "--on", on)
    kills = 0
    try:
        while process.poll() is None:
            halfway = [path.parents[1].name for path in out.glob("runs/*/checkpoints/step-*")]
            alive = [pid for pid in workers_of(out) if run_of(pid) in halfway]
            if alive and kills < 2:
                os.kill(random.choice(alive), signal.SIGKILL)
                kills += 1
                time.sleep(3)
            time.sleep(0.05)
    finally:
        process.kill()
    printed = process.communicate()[0]
    assert kills == 2 and "(signal 9); going on from its checkpoint" in printed, printed
    assert process.returncode == 0, printed
    same(out, plain)


@pytest.mark.parametrize("on", PLACES)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_study_ended_and_started_again(
    on: str, how: signal.Signals, plain: Uninterrupted, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start(plain.file, plain.text, out, "--on", on)
    try:
        while not any(out.glob("runs/*/checkpoints/step-*")):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        process.send_signal(how)
        printed = process.communicate(timeout=300)[0]
    finally:
        process.kill()
    if how == signal.SIGINT:
        assert process.returncode == 130 and "go on where it was with" in printed
        assert gone(out, 5), "a run outlived the study"
    # Killed: what is left of the runs ends with the lease, or as soon as the study is started again.
    finish(plain.file, plain.text, out, "--on", on)
    same(out, plain)


def test_a_study_killed_leaves_nothing_running(plain: Uninterrupted, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(plain.file, plain.text, out, "--on", "slurm:local", "--set", "steps=100000")
    try:
        while not any(out.glob("runs/*/checkpoints/step-*")):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert workers_of(out), "the runs are jobs: they don't die with the study"
    assert gone(out, 120), "a run outlived its lease"


def raylets(driver_of: int) -> list[int]:
    """The raylets of the local Ray that a study started."""
    found = subprocess.run(["pgrep", "-s", str(driver_of), "-x", "raylet"], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def test_the_cluster_killed(plain: Uninterrupted, tmp_path: Path) -> None:
    """Its driver goes with it; the study starts another, and the runs go on from their checkpoints."""
    out = tmp_path / "out"
    process = start(plain.file, plain.text, out, "--on", "ray")
    try:
        while not any(out.glob("runs/*/checkpoints/step-*")):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        found = raylets(process.pid)
        assert found
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        printed = process.communicate(timeout=900)[0]
    finally:
        process.kill()
    assert process.returncode == 0, printed
    assert "its process was lost" in printed
    same(out, plain)


def test_through_rays_client(plain: Uninterrupted, tmp_path: Path) -> None:
    """``ray://``: a cluster with a head of its own, on other ports."""
    ray = Path(sys.executable).with_name("ray")
    head = [
        "start", "--head", "--port=26379", "--ray-client-server-port=21001", "--num-cpus=2", "--block",
        "--include-dashboard=false", "--object-store-memory=100000000", "--disable-usage-stats",
    ]  # fmt: skip
    cluster = subprocess.Popen([ray, *head], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    out = tmp_path / "out"
    try:
        time.sleep(15)
        finish(plain.file, plain.text, out, "--on", "ray://127.0.0.1:21001")
    finally:
        cluster.terminate()
        cluster.wait(60)
    same(out, plain)
