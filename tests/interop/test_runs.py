"""A finished run of a study, loaded: it writes what the run itself wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.study.short_study import finish, write_study

import headtohead
from headtohead.errors import UserError


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_finished_run_writes_what_it_wrote_before(tmp_path: Path) -> None:
    file, _, text = write_study(tmp_path)
    finish(file, text, tmp_path / "out", "--set", "seeds=[1]")
    runs = sorted((tmp_path / "out" / "runs").glob("full-*"))
    assert len(runs) == 2
    for run in runs:
        model = headtohead.load(run)
        sample = json.loads((run / "result.json").read_text("utf-8"))["samples"][0]
        assert model.generate(sample["input"], max_tokens=6) == sample["output"]
        assert model.score(sample["input"], sample["reference"]) > 1
        model.save(tmp_path / run.name)
        again = headtohead.load(tmp_path / run.name)
        assert again.generate(sample["input"], max_tokens=6) == sample["output"]
    weights = runs[0] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(UserError, match=r"model\.safetensors is missing or has been altered"):
        headtohead.load(runs[0])
    (runs[1] / "result.json").unlink()
    with pytest.raises(UserError, match="is not finished: finish it with headtohead run"):
        headtohead.load(runs[1])
