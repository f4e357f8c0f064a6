"""Commands under torchrun: `headtohead train` and `headtohead run` by two processes, told and written by one."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.study.short_study import write_study
from tests.study.test_solo import SMALL
from tests.train.ranks import finish, launched

from headtohead.cli import run
from headtohead.files import read_json
from headtohead.train.metrics import read_metrics

pytestmark = pytest.mark.slow


def together(*words: object) -> Any:
    return launched(2, ["-m", "headtohead", *map(str, words)])


def result(folder: Path) -> dict[str, Any]:
    return read_json(folder / "result.json", "the result")


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", ["decllm-nano", "redllm-nano"])
def test_train_by_two_is_train_by_one(tmp_path: Path, name: str, parallel: str) -> None:
    text = write_study(tmp_path)[2]
    settings = [*SMALL, f"recipe.parallel={parallel}", "recipe.checkpoint_every=10", "recipe.log_every=1"]
    words = ["train", name, "--text", str(text), "--steps", "200", "--set", *settings]
    assert run([*words, "--out", str(tmp_path / "one")]) == 0
    written = tmp_path / "written"
    process = together(*words, "--out", tmp_path / "two")
    told, err = process.communicate(timeout=850)
    assert process.returncode == 0, err
    assert told.count("finished: held-out bits per byte") == 1
    one, two = result(tmp_path / "one"), result(tmp_path / "two")
    assert two["processes"] == {"parallel": parallel, "from_step": [[0, 2]]} and "processes" not in one
    assert two["ledger"] == one["ledger"]
    assert two["bits_per_byte"] == pytest.approx(one["bits_per_byte"], abs=1e-4)
    for a, b in zip(*(read_metrics(tmp_path / n / "metrics.jsonl") for n in ("one", "two")), strict=True):
        assert abs(a["nats"] - b["nats"]) < 1e-5

    # Stopped half-way, and gone on with as a run: the bits of the one that was never stopped.
    process = together(*words, "--out", written)
    deadline = time.monotonic() + 60
    while not (written / "metrics.jsonl").exists() or not read_metrics(written / "metrics.jsonl"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    stop = signal.SIGINT if parallel == "ddp" else signal.SIGTERM
    process.send_signal(stop)
    _, err = process.communicate(timeout=850)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "after step" in lines[0] and "checkpoint written" in lines[0], err
    assert lines[0].endswith(f"torchrun --nproc-per-node 2 -m headtohead train --resume {written}")
    finish(together("run", written))
    again = result(written)
    for key in ("weights_sha256", "curve", "bits_per_byte", "ledger"):
        assert again[key] == two[key], key


def test_what_is_wrong_is_told_once(tmp_path: Path) -> None:
    err = finish(together("run", tmp_path / "nothing"), code=None)
    assert err.count("error: ") == 1 and "run.json" in err, err
    text = write_study(tmp_path)[2]
    words = ["train", "decllm-nano", "--text", str(text), "--steps", "30", "--set", *SMALL]
    err = finish(together(*words, "recipe.rows_per_step=1", "--out", tmp_path / "few"), code=None)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "rows_per_step = 1 gives not every one of 2 processes a row" in lines[0], err
