"""What the loop hands out: curve, metrics, progress; and that looking doesn't touch the training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.train import small

from headtohead.train.metrics import read_metrics
from headtohead.train.recipe import Recipe


@pytest.mark.parametrize("two", [False, True])
def test_it_learns(tmp_path: Path, two: bool) -> None:
    """The same rows again and again: the loss goes far below ln V = 3.69."""
    model = small.Transformer(small.tiny(two))
    batch = small.rows(model.architecture, 0, 4)
    nats: list[float] = []
    small.train(
        model,
        lambda step: small.micro_batches(batch, 2),
        small.recipe(steps=150),
        tmp_path,
        ledger=small.PlainLedger(),
        flops_of=lambda batch: 1.0,
        on_progress=lambda step, steps, left, loss: nats.append(loss),
    )
    assert nats[0] == pytest.approx(3.69, rel=0.1) and nats[-1] < 0.6


def test_curve_metrics_and_ledger_agree(tmp_path: Path) -> None:
    seen: list[tuple[int, int, float, float]] = []
    _, trained = small.run(tmp_path, on_progress=lambda *told: seen.append(told))
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(2, 21, 2))
    assert [step for step, *_ in seen] == list(range(1, 21))
    assert seen[-1][1:3] == (20, 0.0)
    assert all(left > 0 for _, _, left, _ in seen[:-1])
    assert lines[-1]["learning_rate"] == pytest.approx(0.001)
    for line in lines:
        assert line["tokens"] == line["step"] * 4 * small.ROW
        assert line["flops"] == line["step"] * 200.0
        steps = seen[line["step"] - 2 : line["step"]]
        weights = [float(small.rows(small.tiny(), step - 1, 4).weights.sum()) for step, *_ in steps]
        mean = sum(w * nats for w, (*_, nats) in zip(weights, steps, strict=True)) / sum(weights)
        assert line["nats"] == pytest.approx(mean, rel=1e-6)
    assert [(point["step"], point["tokens"]) for point in trained.curve] == [
        (step, step * 4 * small.ROW) for step in (0, 7, 10, 20)
    ]
    assert trained.curve[0]["train_nats"] is None and trained.curve[3]["train_nats"] > 0
    assert set(trained.seconds) == {"compile", "train", "evaluate", "checkpoint"}


def test_evaluating_does_not_touch_the_training(tmp_path: Path) -> None:
    def nosy(model: torch.nn.Module, step: int) -> dict[str, float]:
        assert not torch.is_grad_enabled()
        return {"noise": float(torch.rand(100).sum())}

    a, _ = small.run(tmp_path / "a", evaluate=nosy, evaluate_at=range(20))
    b, _ = small.run(tmp_path / "b", evaluate=None)
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 0.02},
        {"warmup_steps": 4},
        {"final_fraction": 0.5},
        {"betas": (0.8, 0.95)},
        {"eps": 1e-3},
        {"weight_decay": 0.5},
        {"clip": 0.1},
        {"z_loss": 0.1},
        {"rows_per_step": 8},
        {"micro_batches": 1},
        {"steps": 19},
        {"seed": 1},
    ],
)
def test_every_option_changes_something(tmp_path: Path, changes: dict[str, object]) -> None:
    a, _ = small.run(tmp_path / "a")
    b, _ = small.run(tmp_path / "b", changes=changes)
    different = not all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    files = small.outcome(tmp_path / "a")["files"] != small.outcome(tmp_path / "b")["files"]
    assert files and (
        different or changes == {"seed": 1}
    )  # dropout is 0: a seed reaches the random state alone


def test_steps_have_to_be_settled(tmp_path: Path) -> None:
    endless = Recipe(learning_rate=1e-3, rows_per_step=4)
    with pytest.raises(ValueError, match="the number of steps is not settled"):
        small.train(
            small.Transformer(small.tiny()),
            lambda step: [],
            endless,
            tmp_path,
            ledger=small.PlainLedger(),
            flops_of=lambda batch: 0.0,
        )
