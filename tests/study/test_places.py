"""Where a study's runs live: what is refused before anything starts, and the lease that ties a far run to its study."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headtohead.cli import run
from headtohead.errors import UserError
from headtohead.study import far
from headtohead.study.lease import LEASE, Lease
from headtohead.study.on_ray import RayPlace
from headtohead.study.on_slurm import SlurmPlace, minutes, options
from headtohead.study.places import Here, place
from headtohead.study.processes import ending_of


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--on", "rai"], "--on rai: it should be ray"),
        (["--on", "ray://head"], "--on ray://head: it should be ray"),
        (["--on", "slurm:locl"], "--on slurm:locl: it should be"),
        (["--slurm", "partition=cpu"], "--slurm is for --on slurm"),
        (["--on", "ray", "--slurm", "partition=cpu"], "--slurm is for --on slurm"),
        (["--on", "slurm:local", "--slurm", "partition"], "such as partition=cpu"),
        (["--on", "slurm:local", "--slurm", "ntasks=4"], "ntasks is settled by the study"),
        (["--on", "slurm:local", "--slurm", "time=soon"], "--slurm time=soon: give minutes"),
        (["--on", "slurm:local", "--slurm", "time=0:30"], "a minute at least"),
    ],
)
def test_bad_words_are_told_before_anything_is_written(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(["study", "studies/first-look.toml", "--out", str(out), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(("on", "extra"), [("ray", "ray"), ("slurm", "slurm")])
def test_a_missing_extra_is_named(on: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install 'headtohead\[{extra}\]'"):
        place(on)
    assert isinstance(place(None), Here)


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot reach the Ray cluster at ray://127.0.0.1:1 "):
        RayPlace("ray://127.0.0.1:1").open(tmp_path)


@pytest.mark.skipif(shutil.which("srun") is not None, reason="there is SLURM here")
def test_a_machine_without_slurm(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    with pytest.raises(UserError, match="this machine has no SLURM"):
        SlurmPlace("slurm", {}).open(tmp_path)


@given(st.integers(0, 9), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_time_limits_are_read_as_sbatch_reads_them(d: int, h: int, m: int, s: int) -> None:
    whole = (d * 24 + h) * 60 + m + 1
    if whole > 1:
        assert minutes(f"{d}-{h}:{m}:{s}") == whole
        assert minutes(f"{d * 24 + h}:{m}:{s}") == whole
    assert minutes(f"{m + 1}:{s}") == m + 2
    assert minutes(f"{m + 1}") == m + 1
    assert minutes(f"{d}-{h + 1}") == (d * 24 + h + 1) * 60


def test_options_are_named_as_sbatch_names_them() -> None:
    assert options(["--gpus_per_node=1", "qos=low"]) == {"gpus-per-node": "1", "qos": "low"}


def test_endings() -> None:
    assert (ending_of(-9).how, ending_of(-9).detail) == ("killed", "signal 9")
    assert (ending_of(137).how, ending_of(137).detail) == ("killed", "signal 9")
    assert ending_of(130).how == "stopped"
    assert ending_of(2).how is None and ending_of(2).code == 2


# ------------------------------------------------------------------------------------------------- the lease

TENANT = """
import signal, sys, time
from pathlib import Path
from headtohead.study import lease
lease.WATCH_SECONDS = 0.05
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7) if sys.argv[3] == "polite" else None)
lease.obey(Path(sys.argv[1]), stale=float(sys.argv[2]), grace=0.5)
print("up", flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    time.sleep(0.02)
"""


def tenant(folder: Path, token: str, stale: float, kind: str = "polite") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", TENANT, str(folder), str(stale), kind],
        env={**os.environ, LEASE: token},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("end", ["asked", "withdrawn", "granted anew", "forgotten"])
def test_a_run_ends_with_its_lease(tmp_path: Path, end: str) -> None:
    lease = Lease(tmp_path)
    process = tenant(tmp_path, lease.grant(), stale=1.5)
    try:
        for _ in range(20):  # longer than a forgotten lease lasts
            lease._beaten = 0.0
            lease.beat()
            time.sleep(0.1)
        assert process.poll() is None, "a lease that is renewed lasts"
        match end:
            case "asked":
                lease.ask_to_end()
            case "withdrawn":
                lease.withdraw()
            case "granted anew":
                lease.grant()
        assert process.wait(20) == 7
    finally:
        process.kill()


def test_a_run_that_hears_nothing_is_ended(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    process = tenant(tmp_path, lease.grant(), 60.0, "deaf")
    lease.withdraw()
    assert process.wait(20) == 1


def test_slurms_signal_before_the_end_is_a_request_to_end(tmp_path: Path) -> None:
    process = tenant(tmp_path, Lease(tmp_path).grant(), 60.0)
    process.send_signal(signal.SIGUSR2)
    assert process.wait(20) == 7


def test_a_machine_that_does_not_see_the_folder_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far, "SEE_SECONDS", 0.2)
    found = far.attempt(str(tmp_path / "elsewhere"), "token", 1)
    assert f"does not see {tmp_path / 'elsewhere'}: --out should be on a file system" in found["refused"]
    assert not (tmp_path / "elsewhere").exists()


def test_a_job_that_starts_after_its_study_has_gone_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far, "SEE_SECONDS", 0.2)
    Lease(tmp_path).grant()
    assert far.attempt(str(tmp_path), "another", 1)["code"] == 130
    assert not (tmp_path / "log.txt").exists()
