"""int8 weights by torchao: what they hold, and that the native runner computes with just these."""

from __future__ import annotations

import pytest
import torch
from tests.generate.networks import ids, network, ragged
from tests.generate.test_engine import eager

from headtohead.errors import UserError
from headtohead.generate.native.building import missing
from headtohead.generate.native.runner import NativeRunner
from headtohead.generate.quantizing import quantize


def test_without_torchao_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    with pytest.raises(UserError, match="--quantize int8 needs torchao: pip install"):
        quantize(network("decllm"))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["decllm", "redllm", "t5-v1.1"])
def test_the_native_runner_computes_with_the_rounded_weights(family: str) -> None:
    """The rounded network by PyTorch in fp32 against the kernel, whose cache is in bf16."""
    pytest.importorskip("torchao")
    if (reason := missing()) is not None:
        pytest.skip(reason)
    model = network(family)
    rounded, values = quantize(model)
    weights = dict(model.named_parameters())
    for name, (kept, scale) in values.items():
        error = (kept.float() * scale[:, None] - weights[name]).abs()
        assert (error <= 0.51 * scale[:, None]).all(), name
    room = {s.name: 64 for s in model.architecture.streams}
    found, expected, exact = (
        NativeRunner(rounded, 1, room, "bf16", values, 1),
        eager(rounded, 1, 64),
        eager(model, 1, 64),
    )
    prompt = ragged(model.architecture, 2)[2][1]
    steps = [[runner.prefill(0, prompt) for runner in (found, expected, exact)]]
    steps += [[runner.step([0], [token]) for runner in (found, expected, exact)] for token in ids(4, 0)]
    ours, theirs, unrounded = (torch.stack([x.flatten() for x in one]) for one in zip(*steps, strict=True))
    assert torch.isfinite(ours).all()
    # Over all steps: how far a single one is moved by rounding is chance.
    near, far = (ours - theirs).square().mean().sqrt(), (theirs - unrounded).square().mean().sqrt()
    assert near < far / 2, (float(near), float(far))
    assert (ours - theirs).abs().max() < (theirs - unrounded).abs().max() / 2
