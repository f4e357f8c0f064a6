"""Law 6: a run that is stopped and started again is, bit for bit, the run that never stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.laws.cells import Cell, cells
from tests.train.small import PlainLedger

from headtohead.model.batch import Batch
from headtohead.model.transformer import Transformer
from headtohead.train.loop import Trained, train
from headtohead.train.recipe import Recipe

STEPS = 6
RECIPE = Recipe(
    learning_rate=1e-2,
    warmup_steps=2,
    rows_per_step=2,
    micro_batches=2,
    steps=STEPS,
    precision="fp32",
    compile=False,
    checkpoint_every=2,
    log_every=1,
)


class Killed(Exception):
    """What stands for the end of the process: nothing of the run goes on after it."""


def run(cell: Cell, folder: Path, seed: int, killed_at: int | None = None) -> tuple[Transformer, Trained]:
    """One run; `seed` draws first weights, which a checkpoint must replace."""
    layout, examples = cell.layout(), cell.examples

    def batch_at(step: int) -> list[Batch]:
        if step == killed_at:
            raise Killed
        chosen = np.random.default_rng(step).permutation(len(examples))[:4]
        return [layout.batch([[examples[i] for i in chosen[part : part + 2]]]) for part in (0, 2)]

    def flops_of(batch: Batch) -> float:
        return float(
            torch.rand(())
        )  # drawn in every step, as dropout would: what is drawn later depends on how often

    def evaluate(network: Transformer, step: int) -> dict[str, float]:
        return {"noise": float(torch.rand(()))}  # draws from the random state, as sampling would

    model = Transformer(cell.architecture, seed)
    trained = train(
        model,
        batch_at,
        RECIPE,
        folder,
        ledger=PlainLedger(),
        flops_of=flops_of,
        evaluate=evaluate,
        evaluate_at=(0, 3, STEPS),
    )
    return model, trained


def outcome(model: Transformer, trained: Trained, folder: Path) -> dict[str, Any]:
    """All that must be equal: weights, what the last checkpoint holds, counters, the metrics' lines."""
    files = {
        str(path.relative_to(trained.checkpoint)): path.read_bytes()
        for path in sorted(trained.checkpoint.rglob("*.safetensors"))
    }
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": {name: p.detach().numpy().tobytes() for name, p in model.named_parameters()},
        "checkpoint": files,
        "ledger": trained.ledger.as_dict(),
        "curve": trained.curve,
        "metrics": [{k: v for k, v in line.items() if k != "seconds"} for line in lines],
        "random": torch.get_rng_state().numpy().tobytes(),
    }


@pytest.mark.parametrize("cell", cells(tasks=False))
def test_resume_equals_never_stopped(cell: Cell, tmp_path: Path, settings: None) -> None:
    """Stopped twice: before the first checkpoint after a start is due, and between two of them."""
    expected = outcome(*run(cell, tmp_path / "whole", seed=1), tmp_path / "whole")
    assert expected["checkpoint"], "there must be tensors to compare"
    with pytest.raises(Killed):
        run(cell, tmp_path / "parts", seed=1, killed_at=3)
    torch.rand(5)  # the random state of another process
    with pytest.raises(Killed):
        run(cell, tmp_path / "parts", seed=2, killed_at=5)
    found = outcome(*run(cell, tmp_path / "parts", seed=3), tmp_path / "parts")
    for what, value in expected.items():
        same = found[what] == value  # not in the assert: a diff of every weight takes minutes
        assert same, what
