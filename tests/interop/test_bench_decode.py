"""`headtohead bench decode`: what it says, beside whom, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

from headtohead import cli
from headtohead.interop.bench.decoding import Setting, bench_decode, print_figures
from headtohead.interop.bench.writers import LlamaCpp
from headtohead.model.architecture import one_stack
from headtohead.model.parts import Norms
from headtohead.model.presets import architecture

SMALL = Setting(prompt=6, new=5, batches=(1, 3), threads=1, rounds=1)


@pytest.fixture(autouse=True)
def restored():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_figures_beside_all_peers(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("xllamacpp")
    said: list[str] = []
    names = ["decllm-nano", "redllm-nano"]
    found = json.loads(
        json.dumps(bench_decode(names, ["transformers", "llama.cpp"], SMALL, False, said.append))
    )
    assert found["bandwidth_bytes_per_second"] > 1e8
    for name, peers in (("decllm-nano", {"transformers", "llama.cpp"}), ("redllm-nano", {"transformers"})):
        assert set(found["models"][name]["batches"]) == {"1", "3"}
        for figures in found["models"][name]["batches"].values():
            assert set(figures["peers"]) == peers
            assert figures["tokens_per_second"] > 0 and figures["share_of_limit"] > 0
            assert all(
                peer["ratio"] > 0 and peer["tokens_per_second"] > 0 for peer in figures["peers"].values()
            )
    assert "redllm-nano: llama.cpp has no network of its form" in said
    print_figures(found)
    printed = capsys.readouterr().out
    assert "llama.cpp" in printed and "transformers" in printed and "decllm-nano" in printed


@pytest.mark.slow
def test_llama_cpp_writes_after_each_of_several_texts() -> None:
    """As many tokens as asked for, from a network of the shape, with the norms it has no word for left out."""
    pytest.importorskip("xllamacpp")
    with LlamaCpp.of(architecture("decllm-nano"), 16, 1) or pytest.fail("it has a form") as model:
        assert model.writes(4, [[9, 10, 11]]) > 0
        assert model.writes(9, [[9, 10, 11], [12, 13, 14, 15, 16], [17]]) > 0
        with pytest.raises(RuntimeError, match=r"llama\.cpp wrote \d+ tokens after . texts?, not"):
            model.writes(1000, [[9, 10, 11]])


def test_a_form_that_llama_cpp_lacks_has_no_peer_there() -> None:
    sizes = {"d_model": 32, "heads": 4, "d_head": 8, "vocabulary": 320, "depth": 1, "d_ff": 48}
    for a in (
        architecture("redllm-nano"),
        one_stack("outer", "causal", norms=Norms(output=True), **sizes),
        one_stack("prefix", "prefix", **sizes),
    ):
        assert LlamaCpp.of(a, 16, 1) is None


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing-nano"], "nothing-nano"),
        (
            ["decllm-nano", "--against", "llama"],
            "there is no peer 'llama' to decode against: transformers, llama.cpp",
        ),
        (["bert-nano"], "there is no network of transformers of its form"),
        (["decllm-nano", "--batches", "0"], "'0' is not a whole number from 1 up"),
        (["decllm-nano", "--quantize", "int4"], "--quantize int4: it should be int8"),
    ],
)
def test_what_it_refuses(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "decode", *words]) == 2
    told = capsys.readouterr().err
    assert says in told and told.startswith("error: ") and told.count("\n") == 1
