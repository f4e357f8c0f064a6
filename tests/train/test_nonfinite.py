"""A loss that is not finite stops the run at once and names where it began."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.train import small
from torch import nn

from headtohead.model.transformer import Transformer
from headtohead.train.checkpoint import checkpoints
from headtohead.train.loop import backward
from headtohead.train.nonfinite import NonFinite, first_nonfinite_layer, nonfinite_gradient
from headtohead.train.runtime import Runtime

PLAIN = Runtime(threads=1, precision="fp32", compiled=False, torch=torch.__version__)


def poisoned_from(model: Transformer, name: str, step: int) -> object:
    """An ``on_progress`` that spoils a weight matrix after a step."""

    def poison(done: int, *_: object) -> None:
        if done == step:
            with torch.no_grad():
                dict(model.named_parameters())[name][0, 0] = torch.inf

    return poison


@pytest.mark.parametrize("two", [False, True])
def test_names_step_layer_and_last_checkpoint(tmp_path: Path, two: bool) -> None:
    for number, module in enumerate(
        [
            name
            for name, module in Transformer(small.tiny(two)).named_modules()
            if isinstance(module, nn.Linear)
        ]
    ):
        model = Transformer(small.tiny(two))
        folder = tmp_path / str(number)
        with pytest.raises(NonFinite) as caught:
            small.run(folder, model=model, on_progress=poisoned_from(model, f"{module}.weight", 7))
        found = caught.value
        assert (found.step, found.layer) == (8, module)
        assert found.last_checkpoint == folder / "checkpoints" / "step-00000005"
        assert str(found) == (
            f"the loss is not finite at step 8, first in {module}; "
            f"the last good checkpoint is {found.last_checkpoint}"
        )
        assert [path.name for path in checkpoints(folder / "checkpoints")] == ["step-00000005"]


def test_before_any_checkpoint(tmp_path: Path) -> None:
    model = Transformer(small.tiny())
    with torch.no_grad():
        model.final_norms["text"].weight.fill_(torch.nan)  # pyright: ignore
    with pytest.raises(NonFinite, match=r"at step 1, first in final_norms\.text; no checkpoint yet"):
        small.run(tmp_path, model=model)
    assert not (tmp_path / "checkpoints").exists()


def test_the_loss_itself(tmp_path: Path) -> None:
    """All modules finite, the logits too large for fp32."""
    model = Transformer(small.tiny())
    with torch.no_grad():
        model.embedding.mul_(1e3)
        model.final_norms["text"].weight.mul_(3e37)  # pyright: ignore
    with pytest.raises(NonFinite) as caught:
        small.run(tmp_path, model=model)
    assert caught.value.layer == "loss"


def test_a_gradient_alone() -> None:
    """Finite forward pass, spoiled gradient: the last such parameter, since gradients flow backwards."""
    model = Transformer(small.tiny())
    backward(model, [small.rows(model.architecture, 0, 2)], 0.0, PLAIN)
    names = [name for name, _ in model.named_parameters()]
    for name in names[:3]:
        gradient = dict(model.named_parameters())[name].grad
        assert gradient is not None
        gradient.view(-1)[0] = torch.nan
    assert nonfinite_gradient(model) == names[2]
    model.zero_grad()
    backward(model, [small.rows(model.architecture, 0, 2)], 0.0, PLAIN)
    overflowing = dict(model.named_parameters())[names[1]].grad
    assert overflowing is not None
    overflowing.view(-1)[0] = 1e30
    assert nonfinite_gradient(model) == names[1]


def test_a_finite_pass_names_nothing_and_leaves_no_hook() -> None:
    model = Transformer(small.tiny())
    batch = small.rows(model.architecture, 0, 2)
    assert first_nonfinite_layer(model, lambda: model.loss(batch)) is None
    assert not any(module._forward_hooks for module in model.modules())
