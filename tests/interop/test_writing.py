"""`headtohead generate` and `chat` on real folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import headtohead
from headtohead import cli
from headtohead.data.tokenizers import ByteTokenizer
from headtohead.interop.folders import Held, write_folder
from headtohead.interop.frame import Frame, own_frame
from headtohead.model.architecture import Architecture, one_stack, two_stacks
from headtohead.model.transformer import Transformer
from headtohead.train.checkpoint import named_tensors

SIZES = {"d_model": 16, "heads": 2, "d_head": 8, "vocabulary": 264}
CAUSAL = one_stack("causal", "causal", depth=2, d_ff=32, **SIZES)
TWO = two_stacks("two", "causal", depths=(2, 2), d_ff=32, **SIZES)
FILLER = one_stack("filler", "full", depth=2, d_ff=32, **SIZES)
ENDLESS = Frame(
    before=(6,), start=(1,), never=tuple(i for i in range(264) if not 7 + 97 <= i < 7 + 123), pad=0, mask=263
)


def folder(a: Architecture, at: Path, frame: Frame | None = None) -> Path:
    model = Transformer(a, seed=3)
    with torch.no_grad():  # wide apart, so that what is written is not one token over and over
        for tensor in named_tensors(model).values():
            tensor.mul_(3)
    held = Held(
        a, named_tensors(model), frame or ENDLESS, ByteTokenizer(("<mask>",)).content, {"from": "a test"}
    )
    write_folder(at / a.name, held)
    return at / a.name


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.run(words) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.parametrize("a", [CAUSAL, TWO], ids=lambda a: a.name)
def test_greedy_text_is_that_of_python(a: Architecture, tmp_path: Path, capsys) -> None:
    run = folder(a, tmp_path)
    expected = headtohead.load(run).generate("of the people", max_tokens=12)
    words = ("generate", str(run), "--prompt", "of the people", "--max-tokens", "12", "--precision", "fp32")
    assert said(capsys, *words) == expected + "\n"
    assert said(capsys, *words, "--no-stream") == expected + "\n"
    stop = expected[4:6]
    at = expected.find(stop)
    assert said(capsys, *words, "--stop", stop) == expected[:at] + "\n"


def test_many_prompts_as_json(tmp_path: Path, capsys) -> None:
    run, file = folder(TWO, tmp_path), tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "by the people"}\n\n{"prompt": "shall", "input": "for"}\n')
    words = ["generate", str(run), "--prompts", str(file), "--json", "--max-tokens", "5", "--logprobs", "2"]
    words += ["--temperature", "1.0", "--seed", "3", "--n", "2", "--precision", "fp32"]
    found = json.loads(said(capsys, *words))
    first, second = found["results"]
    assert (first["prompt"], second["prompt"], second["begun"]) == ("by the people", "for", "shall")
    for result in found["results"]:
        one, other = result["choices"]
        assert one["tokens"] != other["tokens"]
        for choice in (one, other):
            assert (choice["finished"], len(choice["tokens"]), len(choice["logprobs"])) == ("length", 5, 5)
            assert [len(each) for each in choice["top"]] == [2] * 5
            assert ByteTokenizer().decode(choice["tokens"]) == choice["text"]
    alone = said(capsys, *words[:2], "--prompt", "by the people", *words[4:])
    assert json.loads(alone)["results"][0]["choices"] == first["choices"]
    searched = said(
        capsys, *words[:2], "--prompt", "by", "--beams", "3", "--n", "2", "--json", "--max-tokens", "4"
    )
    scores = [choice["score"] for choice in json.loads(searched)["results"][0]["choices"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 2


def test_a_network_that_fills_holes_fills_them(tmp_path: Path, capsys) -> None:
    run = folder(FILLER, tmp_path, ENDLESS.model_copy(update={"start": ()}))
    found = said(capsys, "generate", str(run), "--prompt", "of <mask> the p<mask>[MASK]ple").rstrip("\n")
    assert len(found) == len("of x the pxxple")
    assert (found[:3], found[4:10], found[12:]) == ("of ", " the p", "ple")
    assert all("a" <= letter <= "z" for letter in (found[3], found[10], found[11]))
    # The surest hole is filled first: so the answer is the same, whatever the order on the page.
    again = said(capsys, "generate", str(run), "--prompt", found.replace(found[3], "<mask>", 1))
    assert len(again) == len(found) + 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing to write on from: give --prompt"),
        (["--prompt", "a", "--temperature", "-1"], "temperature"),
        (["--prompt", "a", "--n", "2"], "without a temperature"),
        (["--prompt", "a", "--precision", "fp8"], "--precision fp8: it should be bf16 or fp32"),
        (["--prompt", "a", "--quantize", "int2"], "--quantize int2: it should be int8"),
        (["--prompt", "a", "--prompt", "b", "--stream"], "--stream shows one text as it comes"),
        (["--prompts", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_what_can_not_be_done_is_one_line(words: list[str], says: str, tmp_path: Path, capsys) -> None:
    assert cli.run(["generate", str(folder(CAUSAL, tmp_path)), *words]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and error.startswith("error: ")


def test_a_filler_without_a_hole_says_how_one_is_written(tmp_path: Path, capsys) -> None:
    run = folder(FILLER, tmp_path)
    assert cli.run(["generate", str(run), "--prompt", "of the"]) == 2
    assert "write <mask> where one is" in capsys.readouterr().err
    none = folder(FILLER.model_copy(update={"name": "holeless"}), tmp_path, own_frame())
    assert cli.run(["generate", str(none), "--prompt", "of <mask>"]) == 2
    assert "has no token for a hole" in capsys.readouterr().err


def test_a_conversation_is_answered_and_forgotten(tmp_path: Path) -> None:
    run = folder(CAUSAL, tmp_path)
    words = [sys.executable, "-m", "headtohead", "chat", str(run), "--max-tokens", "5", "--context", "60"]
    words += ["--temperature", "0", "--repetition-penalty", "1", "--precision", "fp32"]
    script = (
        "of the people\nby the people\n/reset\nof the people\n"
        + "x" * 70
        + "\nfor the people, at last\n/quit\n"
    )
    done = subprocess.run(words, input=script, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    expected = headtohead.load(run).generate("of the people", max_tokens=5)
    assert lines[0] == lines[2] == expected
    assert len(lines) == 4 and all(len(line) == 5 for line in lines)
    assert "there is room for 55: say it shorter" in done.stderr
