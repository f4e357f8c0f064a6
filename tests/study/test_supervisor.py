"""What a study finds when it is started again."""

from __future__ import annotations

import json
from pathlib import Path

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
