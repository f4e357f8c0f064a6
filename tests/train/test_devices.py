"""The device of a run, batches made ahead of their step, blocks that are computed twice."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from tests.train import small

from headtohead.errors import UserError
from headtohead.model.batch import Batch
from headtohead.model.blocks import initialise
from headtohead.model.transformer import Transformer
from headtohead.train import devices
from headtohead.train.devices import ahead
from headtohead.train.memory import example, saved_bytes
from headtohead.train.runtime import configure

CPU = torch.device("cpu")


def test_the_next_step_is_made_while_this_one_is_computed() -> None:
    made: list[int] = []
    second = threading.Event()

    def batch_at(step: int) -> list[Batch]:
        made.append(step)
        if step == 4:
            second.set()
        return [small.rows(small.tiny(), step, 2)]

    with ahead(batch_at, CPU, steps=6) as batches:
        first = batches.at(3)
        assert second.wait(100), "step 4 is made before anyone asks for it"
        for step in (4, 5):
            assert torch.equal(batches.at(step)[0].targets, small.rows(small.tiny(), step, 2).targets)
    assert torch.equal(first[0].targets, small.rows(small.tiny(), 3, 2).targets)
    assert made == [3, 4, 5], "each once, and none past the last"


def test_an_error_is_that_of_its_step() -> None:
    def batch_at(step: int) -> list[Batch]:
        if step == 1:
            raise UserError("the disk is gone")
        return [small.rows(small.tiny(), step, 2)]

    with ahead(batch_at, CPU, steps=9) as batches:
        batches.at(0)
        with pytest.raises(UserError, match="the disk is gone"):
            batches.at(1)


@pytest.mark.parametrize("two", [False, True])
def test_blocks_computed_twice_have_the_same_gradients_and_keep_less(two: bool) -> None:
    kept, gradients = [], []
    for again in (False, True):
        model = Transformer(small.tiny(two))
        if again:
            model.recompute_blocks()
        model.loss(small.rows(model.architecture, 0, 4)).total.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        kept.append(sum(saved_bytes(model, example(model.architecture, 4, 8, 8), "fp32").values()))
    for a, b in zip(*gradients, strict=True):
        assert a is not None and b is not None and torch.equal(a, b)
    assert kept[1] < 0.6 * kept[0], kept


def test_a_run_with_blocks_computed_twice_has_the_same_bits(tmp_path: Path) -> None:
    plain, _ = small.run(tmp_path / "plain", changes={"steps": 4})
    again, _ = small.run(tmp_path / "again", changes={"steps": 4, "activation_checkpointing": True})
    for a, b in zip(plain.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("two", [False, True])
def test_a_network_on_meta_has_no_weights_until_it_is_filled(two: bool) -> None:
    with torch.device("meta"):
        model = Transformer(small.tiny(two), 3)
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device=CPU)
    initialise(model, model.architecture, 3)
    for a, b in zip(model.parameters(), Transformer(small.tiny(two), 3).parameters(), strict=True):
        assert torch.equal(a, b)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.chosen("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.chosen("auto") == CPU and configure(small.recipe()).device == "cpu"
    with pytest.raises(UserError, match='device = "cuda", but there is no CUDA device here'):
        configure(small.recipe(device="cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(
        UserError, match="3 processes or more on this machine, and 2 CUDA devices: start torchrun with"
    ):
        devices.chosen("auto")


def test_random_states_go_there_and_back() -> None:
    torch.manual_seed(5)
    states = devices.random_states(CPU)
    drawn = torch.rand(3)
    devices.set_random_states(states, CPU)
    assert torch.equal(torch.rand(3), drawn)
