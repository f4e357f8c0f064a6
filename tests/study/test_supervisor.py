"""What a study finds when it is started again, and how it ends."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from headtohead.errors import UserError
from headtohead.files import write_atomic
from headtohead.study.results import folder_of
from headtohead.study.schedule import Run
from headtohead.study.supervisor import Supervisor


def test_a_run_killed_between_its_result_and_its_cleaning_up_is_cleaned_up(tmp_path: Path) -> None:
    run = Run("prefix", 1, "full", 1e-3, {}, 1.0)
    folder = folder_of(tmp_path, run)
    (folder / "checkpoints" / "step-00000500").mkdir(parents=True)
    about = {"arm": "prefix", "seed": 1, "rung": "full", "learning_rate": 1e-3, "status": "finished"}
    write_atomic(folder / "result.json", json.dumps(about))
    Supervisor(tmp_path, "A study", [run], 1, None).work()
    assert not (folder / "checkpoints").exists()
    assert (tmp_path / "results.jsonl").read_text(encoding="utf-8") == json.dumps(about) + "\n"


def test_a_run_killed_there_under_a_living_study_is_cleaned_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing starts it again: it is done."""
    run = Run("prefix", 1, "full", 1e-3, {"recipe": {"threads": 1, "steps": 5}}, 1.0)
    about = {"arm": "prefix", "seed": 1, "rung": "full", "learning_rate": 1e-3, "status": "finished"}
    write_atomic(tmp_path / "about.json", json.dumps(about))
    worker = tmp_path / "worker"
    write_atomic(
        worker,
        f"""#!/bin/sh
for folder; do :; done
mkdir -p "$folder/checkpoints/step-00000005"
cp {tmp_path / "about.json"} "$folder/result.json"
kill -9 $$
""",
    )
    worker.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(worker))
    Supervisor(tmp_path / "out", "A study", [run], 1, None).work()
    folder = folder_of(tmp_path / "out", run)
    assert (folder / "result.json").is_file()
    assert not (folder / "checkpoints").exists()


def test_a_study_that_could_not_do_its_runs_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    run = Run("prefix", 1, "full", 1e-3, {"recipe": {"threads": 1, "steps": 5}}, 1.0)
    with pytest.raises(
        UserError, match=r"1 of 1 runs could not be done \(full-prefix-seed1: its process ended"
    ):
        Supervisor(tmp_path, "A study", [run], 1, None).work()
    assert "0 runs finished, 1 stopped" in capsys.readouterr().out
    stopped = json.loads((tmp_path / "results.jsonl").read_text(encoding="utf-8"))
    assert (stopped["status"], stopped["reason"]) == ("stopped", "its process ended with code 1")


def test_a_study_without_its_last_page_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    (tmp_path / "data").mkdir()
    with pytest.raises(UserError, match=r"writing the page failed \(exit code 1\): .* headtohead report"):
        Supervisor(tmp_path, "A study", [], 1, 8).work()
