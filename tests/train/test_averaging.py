"""The mean of a run's last weights is the mean, and training doesn't know of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.train import small

from headtohead.model.transformer import Transformer
from headtohead.train import checkpoint

AVERAGING = {"average_last": 4, "average_every": 3, "checkpoint_every": 5}


def test_the_run_ends_with_the_mean(tmp_path: Path) -> None:
    """Of the weights after the steps 11, 14, 17 and 20; the checkpoint has the last ones, to train on from."""
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def look(model: Transformer, step: int) -> dict[str, float]:
        seen.setdefault(step, {name: p.detach().clone() for name, p in model.named_parameters()})
        return {"first": float(next(model.parameters()).detach().flatten()[0])}

    model, trained = small.run(tmp_path / "a", changes=AVERAGING, evaluate=look, evaluate_at=range(21))
    for name, parameter in model.named_parameters():
        exact = torch.stack([seen[step][name].double() for step in (11, 14, 17, 20)]).mean(dim=0)
        torch.testing.assert_close(parameter.detach().double(), exact, rtol=1e-6, atol=1e-7)
        assert not torch.equal(parameter, seen[20][name])
    first = float(next(model.parameters()).detach().flatten()[0])
    assert trained.averaged == {"steps": [11, 14, 17, 20], "first": first}
    assert trained.curve[-1]["first"] != first
    last = checkpoint.load(trained.checkpoint)
    assert all(torch.equal(last.weights[name], seen[20][name]) for name in seen[20])

    plain, without = small.run(tmp_path / "b", changes={"checkpoint_every": 5})
    assert without.averaged is None
    assert all(torch.equal(p, seen[20][name]) for name, p in plain.named_parameters())


@pytest.mark.parametrize(("end", "there"), [(9, False), (14, True)])
def test_there_is_no_mean_before_its_first_step(tmp_path: Path, end: int, there: bool) -> None:
    def unplug(step: int, *_: object) -> None:
        if step == end:
            raise RuntimeError("unplugged")

    with pytest.raises(RuntimeError, match="unplugged"):
        small.run(tmp_path, changes={**AVERAGING, "average_every": 4}, on_progress=unplug)
    newest = checkpoint.checkpoints(tmp_path / "checkpoints")[0]
    assert (newest / "average.safetensors").exists() is there


def test_a_finished_run_gives_its_mean_again(tmp_path: Path) -> None:
    first, _ = small.run(tmp_path, changes=AVERAGING)
    before = small.outcome(tmp_path)
    second, trained = small.run(tmp_path, changes=AVERAGING)
    assert small.outcome(tmp_path) == before and trained.averaged
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
