"""`headtohead bench train`: what it says, and that what it times is the training step of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from headtohead import cli
from headtohead.interop.bench.peers import twin
from headtohead.interop.bench.training import OURS, Setting, bench_train, example_batch, step_of
from headtohead.model.budget import parameters
from headtohead.model.presets import architecture

SMALL = Setting(rows=2, length=16, threads=1, rounds=1)


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    threads = torch.get_num_threads()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["decllm-nano", "redllm-nano"])
def test_every_place_of_a_step_holds_a_token(name: str) -> None:
    a = architecture(name)
    batch = example_batch(a, SMALL)
    for tokens in batch.streams.values():
        assert (tokens.document == 0).all()
    assert sum(tokens.ids.numel() for tokens in batch.streams.values()) == 2 * 16


@pytest.mark.parametrize(("name", "kind"), [("decllm-mini", "Llama"), ("redllm-mini", "T5")])
def test_the_peer_has_the_shape(name: str, kind: str) -> None:
    """As many weights, but for T5's biases of distance: the same layers, widths and tied tables."""
    a = architecture(name)
    with torch.device("meta"):
        theirs = twin(a, 64)
    assert type(theirs).__name__.startswith(kind)
    count = sum(p.numel() for p in theirs.parameters())
    bias = 2 * 32 * a.heads if kind == "T5" else 0
    assert count == parameters(a)["total"] + bias


def test_a_step_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headtohead.train.runtime.missing_for_compile", lambda: "eager here, to be quick")
    for candidate in (OURS, "transformers-eager"):
        step = step_of(architecture("decllm-nano"), candidate, SMALL)
        step()
        step()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing-nano"], "nothing-nano"),
        (["decllm-nano", "--against", "llama"], "there is no peer 'llama' to train against: transformers"),
        (["bert-nano"], "there is no network of transformers of its form"),
        (["decllm-nano", "--rows", "0"], "'0' is not a whole number from 1 up"),
    ],
)
def test_what_it_refuses(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "train", *words]) == 2
    told = capsys.readouterr().err
    assert says in told and told.startswith("error: ") and told.count("\n") == 1


@pytest.mark.slow
def test_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    found = bench_train(["decllm-nano"], ["transformers"], SMALL, lambda line: None)
    entry = json.loads(json.dumps(found))["models"]["decllm-nano"]
    assert set(entry) == {
        "tokens_per_second",
        "share_of_peak",
        "peak_memory_bytes",
        "compile_seconds",
        "peers",
    }
    assert set(entry["peers"]) == {"transformers-eager", "transformers-compiled"}
    assert all(peer["ratio"] > 0 for peer in entry["peers"].values())
    assert 0 < entry["share_of_peak"] < 1
    assert (
        cli.run(["bench", "train", "decllm-nano", "--rounds", "1", "--length", "16", "--against", "none"])
        == 0
    )
    assert "share of peak" in capsys.readouterr().out
