"""Several processes are one run: the loss of one process, the same rows, checkpoints for any number of ranks."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from tests.train import ranks

STEPS = 50
WAYS = [
    pytest.param("ddp", "one"),
    pytest.param("fsdp", "two"),
    pytest.param("ddp", "two", marks=pytest.mark.slow),
    pytest.param("fsdp", "one", marks=pytest.mark.slow),
    pytest.param("fsdp", "shared", marks=pytest.mark.slow),
]


def settings(way: str, arm: str, steps: int = STEPS, **more: Any) -> dict[str, Any]:
    changes = {
        "steps": steps,
        "parallel": way,
        "precision": "fp32",
        "compile": False,
        "log_every": 1,
        "checkpoint_every": 20,
    }
    return {"arm": arm, "changes": changes, "documents": True, **more}


def losses(folder: Path) -> dict[int, float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["nats"] for line in map(json.loads, lines)}


def rows(folder: Path) -> dict[int, list[Any]]:
    """What each step had, over all ranks in their order; of a step made again, the last time."""
    found: dict[int, dict[int, Any]] = {}
    for path in sorted(folder.parent.glob(f"{folder.name}.rank*.jsonl")):
        for line in path.read_text().splitlines():
            step, seen = json.loads(line)
            found.setdefault(step, {})[int(path.stem.rpartition("rank")[2])] = seen
    return {step: list(chain(*(by_rank[r] for r in sorted(by_rank)))) for step, by_rank in found.items()}


@pytest.mark.parametrize(("way", "arm"), WAYS)
def test_two_ranks_follow_one_process(way: str, arm: str, tmp_path: Path) -> None:
    """Every loss of 50 steps within 1e-5, the same rows in the same order, the same ledger."""
    for name in ("alone", "team"):
        (tmp_path / name).mkdir()
    _, alone = ranks.work(tmp_path / "alone", settings(way, arm))
    ranks.finish(ranks.torchrun(2, tmp_path / "team", settings(way, arm)))
    one, two = losses(tmp_path / "alone"), losses(tmp_path / "team")
    assert one.keys() == two.keys() and len(one) == STEPS
    assert max(abs(one[step] - two[step]) for step in one) < 1e-5
    assert len(set(one.values())) > STEPS / 2
    first, other = rows(tmp_path / "alone"), rows(tmp_path / "team")
    assert all(first[step] == other[step] for step in range(STEPS))
    found = json.loads((tmp_path / "team" / "trained.json").read_text())
    assert found["ledger"]["tokens_shown"] == alone.ledger.tokens_shown


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
@pytest.mark.parametrize("size", [1, 4])
def test_a_checkpoint_of_two_ranks_goes_on_with_any_number(way: str, size: int, tmp_path: Path) -> None:
    """Killed after the checkpoint of step 20: the same rows and, within 1e-5, the losses of one process."""
    for name in ("alone", "team"):
        (tmp_path / name).mkdir()
    wanted = settings(way, "one", 40, evaluate_at=[25])
    ranks.work(tmp_path / "alone", wanted)
    killed = ranks.torchrun(2, tmp_path / "team", {**wanted, "die": [1, 25]})
    killed.communicate(timeout=150)
    assert killed.returncode != 0
    assert max(losses(tmp_path / "team"), default=0) >= 20
    ranks.finish(ranks.torchrun(size, tmp_path / "team", wanted))
    one, two = losses(tmp_path / "alone"), losses(tmp_path / "team")
    assert one.keys() == two.keys()
    assert max(abs(one[step] - two[step]) for step in one) < 1e-5
    first, other = rows(tmp_path / "alone"), rows(tmp_path / "team")
    assert all(first[step] == other[step] for step in range(20))
