"""Training memory, predicted without data, is what autograd really saves."""

from __future__ import annotations

import json

import pytest
import torch
from tests.laws.cells import ARCHITECTURES

from headtohead.cli import run
from headtohead.model.presets import architecture
from headtohead.model.transformer import Transformer
from headtohead.train.memory import Precision, example, saved_bytes, training_memory

PARTS = ("attention", "feed-forward", "rest")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_predicted_bytes_are_the_saved_bytes(name: str, precision: Precision) -> None:
    """Of every architecture, to the byte."""
    a = ARCHITECTURES[name]
    found = training_memory(a, 3, 12, 9, precision)
    saved = saved_bytes(Transformer(a), example(a, 3, 12, 9), precision)
    assert {part: found[part] for part in PARTS} == saved
    assert found["total"] == sum(size for part, size in found.items() if part != "total")


def test_what_is_kept_for_each_parameter() -> None:
    a = architecture("redllm-8b")
    found = training_memory(a, 1, 64, 64, "bf16")
    count = sum(p.numel() for p in _on_no_device(a).parameters())
    assert found["weights"] == found["gradients"] == 4 * count and found["optimizer"] == 8 * count


def _on_no_device(a) -> Transformer:
    with torch.device("meta"):
        return Transformer(a)


def test_activations_grow_with_the_batch() -> None:
    a = architecture("decllm-nano")
    one, two = (training_memory(a, rows, 32, 32) for rows in (2, 4))
    for part in ("attention", "feed-forward"):
        assert two[part] == pytest.approx(2 * one[part], rel=0.01)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["memory", "decllm-nano", "redllm-nano", "--batch", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"]["decllm-nano"] == training_memory(architecture("decllm-nano"), 2, 128, 128, "bf16")
    assert run(["memory", "decllm-nano"]) == 0
    assert "AdamW. Attention, feed-forward" in " ".join(capsys.readouterr().out.split())


def test_the_command_for_other_optimizers(capsys: pytest.CaptureFixture[str]) -> None:
    kept = {}
    for optimizer in ("adamw", "muon", "adafactor", "adafactor-factored"):
        assert run(["memory", "redllm-nano", "--optimizer", optimizer, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["optimizer"] == optimizer
        kept[optimizer] = found["bytes"]["redllm-nano"]["optimizer"]
    assert kept["adamw"] > kept["muon"] > kept["adafactor"] > 20 * kept["adafactor-factored"]
    assert kept["adamw"] == 2 * kept["adafactor"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["decllm-nanoo"], "decllm-nano"),
        (["decllm-nano", "--precision", "fp8"], "--precision fp8"),
        (["decllm-nano", "--optimizer", "moun"], "--optimizer moun: did you mean 'muon'?"),
        (["bert-base", "--input", "400", "--output", "400"], "learned positions for 512 tokens"),
        (["decllm-nano", "--batch", "0"], "'0'"),
    ],
)
def test_bad_words_are_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["memory", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
