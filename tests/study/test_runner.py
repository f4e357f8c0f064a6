"""A study from its file to its results: what it leaves, what it refuses, and how it goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.study.short_study import finish, start, write_study

from headtohead.files import FolderLock

ONE_SEED = ("--set", "seeds=[1]")
SLOW = pytest.mark.timeout(1800)  # a minute on a free machine


@dataclass(frozen=True)
class Done:
    """A finished comparison of two arms under one seed, and what it printed."""

    file: Path
    text: Path
    out: Path
    printed: str

    def again(self, *more: str, code: int = 0) -> str:
        return finish(self.file, self.text, self.out, *ONE_SEED, *more, code=code)

    def files(self) -> dict[Path, bytes]:
        """Everything in its folder, but for the process id in the lock."""
        found = (path for path in self.out.rglob("*") if path.is_file() and path.name != ".lock")
        return {path: path.read_bytes() for path in found}

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / "results.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("study")
    file, _, text = write_study(folder)
    out = folder / "out"
    return Done(file, text, out, finish(file, text, out, *ONE_SEED))


@SLOW
def test_what_a_study_leaves(done: Done) -> None:
    results = done.results()
    assert [line["rung"] for line in results] == ["rehearsal"] * 2 + ["full"] * 2
    for line in results:
        assert line["status"] == "finished"
        assert set(line["bits_per_byte"]) == set(line["value_of_input"]) == {"continuation", "restoration"}
        assert line["curve"][-1]["step"] == line["recipe"]["steps"] == line["ledger"]["steps"]
        assert line["identity"]["threads"] == 1
        for region, bits in line["documents"]["bits"].items():
            per_byte = sum(bits) / sum(line["documents"]["bytes"][region])
            assert per_byte == pytest.approx(line["bits_per_byte"][region])
        folder = done.out / "runs" / f"{line['rung']}-{line['arm']}-seed{line['seed']}"
        left = {path.name for path in folder.iterdir()}
        assert {"run.json", "result.json", "timings.json", "model.safetensors", "architecture.json"} <= left
        assert "checkpoints" not in left
        assert "seconds" not in (folder / "result.json").read_text("utf-8")
    assert (done.out / "report.html").stat().st_size > 10_000
    plan = json.loads((done.out / "plan.json").read_text("utf-8"))
    assert "5-gram" in plan["data"]["baselines"]
    assert [run["rung"] for run in plan["runs"]] == [line["rung"] for line in results]


@SLOW
def test_arms_read_and_are_scored_on_the_same(done: Done) -> None:
    one, two = done.results()[2:]
    assert one["documents"]["bytes"] == two["documents"]["bytes"]
    for key in ("examples", "bytes_shown", "tokens_supervised", "documents_seen", "steps"):
        assert one["ledger"][key] == two["ledger"][key]


@SLOW
def test_started_again_nothing_is_repeated(done: Done) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.out.glob("runs/*/*")}
    results = (done.out / "results.jsonl").read_bytes()
    assert "4 of them finished before" in done.again()
    assert {path: path.stat().st_mtime_ns for path in done.out.glob("runs/*/*")} == before
    assert (done.out / "results.jsonl").read_bytes() == results


@SLOW
@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("margin=0.02", "margin was another"),
        ("recipe.clip=0.5", "recipe.clip: 1.0 -> 0.5"),
        ("rungs.full.steps=61", "recipe.steps: 60 -> 61"),
        ("data.window_bytes=60", "window_bytes: 64 there, 60 here"),
    ],
)
def test_another_plan_is_refused_and_touches_nothing(assignment: str, told: str, done: Done) -> None:
    kept = done.files()
    printed = done.again("--set", assignment, code=2)
    assert told in printed
    assert "--out" in printed
    assert len([line for line in printed.splitlines() if line.startswith("error:")]) == 1
    assert done.files() == kept


@SLOW
def test_another_text_is_refused(done: Done, tmp_path: Path) -> None:
    _, _, text = write_study(tmp_path)
    (text / "00.txt").write_text("another text\n" * 200, encoding="utf-8")
    assert "corpus_sha256" in finish(done.file, text, done.out, *ONE_SEED, code=2)


@SLOW
def test_a_study_in_use_is_refused(done: Done) -> None:
    with FolderLock(done.out):
        assert "is in use by process" in done.again(code=2)


@SLOW
def test_a_run_repeated_by_hand_is_the_same_run(done: Done) -> None:
    folder = done.out / "runs" / "full-two-full-seed1"
    first = (folder / "result.json").read_bytes()
    (folder / "result.json").unlink()
    subprocess.run([sys.executable, "-m", "headtohead", "run", str(folder)], check=True)
    assert (folder / "result.json").read_bytes() == first


@SLOW
def test_altered_data_is_refused_by_name(done: Done, tmp_path: Path) -> None:
    path = done.out / "data" / "train.tokens"
    kept = path.read_bytes()
    try:
        path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        printed = done.again(code=2)
    finally:
        path.write_bytes(kept)
    assert "train.tokens" in printed
    assert "altered" in printed


@SLOW
def test_a_loss_that_is_not_finite_stops_its_run_alone(tmp_path: Path) -> None:
    file, _, text = write_study(tmp_path)
    out = tmp_path / "out"
    printed = finish(file, text, out, *ONE_SEED, "recipe.learning_rate=1e38")
    assert "0 runs finished, 4 stopped" in printed
    results = [json.loads(line) for line in (out / "results.jsonl").read_text("utf-8").splitlines()]
    for line in results:
        assert line["status"] == "stopped"
        assert line["step"] == 2
        assert line["layer"] in line["reason"]
    assert (out / "report.html").exists()
    again = finish(file, text, out, *ONE_SEED, "recipe.learning_rate=1e38")
    assert "0 of them finished and 4 stopped before" in again
    assert "0 runs finished, 4 stopped" in again


@SLOW
def test_ctrl_c_ends_the_workers_and_says_how_to_go_on(done: Done, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(done.file, done.text, out, *ONE_SEED)
    while not list(out.glob("runs/*/progress.json")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 130
    assert f"headtohead study {done.file}" in printed.splitlines()[-1]
    finish(done.file, done.text, out, *ONE_SEED)
    assert (out / "results.jsonl").read_bytes() == (done.out / "results.jsonl").read_bytes()
