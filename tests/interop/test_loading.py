"""Folders of networks, and what a loaded one says, against the layout and the loop that training uses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import headtohead
from headtohead.data.layouts import Layout
from headtohead.data.shards import END, PAIR, Example
from headtohead.data.tokenizers import ByteTokenizer
from headtohead.errors import UserError
from headtohead.generate.decoding import greedy
from headtohead.interop.folders import RECORD, WEIGHTS, Held, read_folder, write_folder
from headtohead.interop.frame import own_frame
from headtohead.model import presets
from headtohead.model.architecture import Architecture, one_stack, two_stacks
from headtohead.model.transformer import Transformer
from headtohead.train.checkpoint import named_tensors

SIZES = {"d_model": 16, "heads": 2, "d_head": 8, "vocabulary": 263}
WRITERS = [
    one_stack("causal", "causal", depth=2, d_ff=32, **SIZES),
    one_stack("prefix", "prefix", depth=2, d_ff=32, **SIZES),
    two_stacks("two", "full", depths=(2, 2), d_ff=32, **SIZES),
]
FILLER = one_stack("filler", "full", depth=2, d_ff=32, **SIZES)
INPUTS = ["of the people", "", "by the people, for the people"]
OUTPUTS = [" shall not", "perish", ""]


def held(a: Architecture) -> Held:
    model = Transformer(a, seed=3)
    with torch.no_grad():  # wide apart, so that what is written is not one token over and over
        for tensor in named_tensors(model).values():
            tensor.mul_(3)
    return Held(a, named_tensors(model), own_frame(), ByteTokenizer().content, {"from": "a test"})


def example(input: str, output: str) -> Example:
    encode = ByteTokenizer().encode
    ids = [np.array(encode(text), np.int32) for text in (input, output)]
    return Example(ids[0], ids[1], PAIR, False, 0, "answer", len(output), len(input))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "model", held(WRITERS[1]))
    return tmp_path / "model"


@pytest.mark.parametrize("a", WRITERS, ids=lambda a: a.name)
def test_scores_are_those_of_training(a: Architecture, tmp_path: Path) -> None:
    write_folder(tmp_path / "model", held(a))
    model = headtohead.load(tmp_path / "model")
    layout = Layout(a, "output", row=80, side=40)
    rows = [[example(*pair)] for pair in zip(INPUTS, OUTPUTS, strict=True)]
    expected = model.network.score(layout.batch(rows)).sum(dim=1).tolist()
    assert expected[0] > 1
    assert model.score(INPUTS, OUTPUTS) == pytest.approx(expected, abs=1e-4)
    assert model.score(INPUTS[0], OUTPUTS[0]) == pytest.approx(expected[0], abs=1e-4)


@pytest.mark.parametrize("a", WRITERS, ids=lambda a: a.name)
def test_text_is_written_by_the_loop_of_a_study(a: Architecture, tmp_path: Path) -> None:
    write_folder(tmp_path / "model", held(a))
    model = headtohead.load(tmp_path / "model")
    written = greedy(model.network, Layout(a, "output", 80, 40), [example(text, "") for text in INPUTS], 9)
    assert any(len(set(row)) > 2 for row in written)
    decode = ByteTokenizer().decode
    assert model.generate(INPUTS, max_tokens=9) == [decode(row) for row in written]
    assert model.generate(INPUTS[0], max_tokens=9) == decode(written[0])


@pytest.mark.parametrize("a", WRITERS, ids=lambda a: a.name)
def test_ragged_logits_are_those_of_each_row_by_itself(a: Architecture, tmp_path: Path) -> None:
    write_folder(tmp_path / "model", held(a))
    model = headtohead.load(tmp_path / "model")
    given, answers = [[6, 20, 21], [6, 30]], [[1, 40], [1, 50, 51, 52]]
    together = model.logits(given, answers)
    for row in range(2):
        alone = model.logits([given[row]], torch.tensor([answers[row]]))[0]
        assert torch.allclose(together[row, : len(alone)], alone, atol=1e-5)
        assert not together[row, len(alone) :].any()
    assert model.hidden(given, answers).shape == (*together.shape[:2], 16)


def test_a_network_that_fills_holes_writes_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", held(FILLER))
    model = headtohead.load(tmp_path / "model")
    assert model.logits([[6, 9, 12]]).shape == (1, 3, 263)
    assert model.hidden([[6, 9, 12]]).shape == (1, 3, 16)
    with pytest.raises(UserError, match=r"filler fills holes, .* no mask token"):
        model.score("a", "b")
    with pytest.raises(UserError, match="filler fills holes"):
        model.generate("a")


def test_a_folder_is_read_as_it_was_written(folder: Path, tmp_path: Path) -> None:
    there, wanted = read_folder(folder), held(WRITERS[1])
    assert (there.architecture, there.frame, there.tokenizer, there.source) == (
        wanted.architecture, wanted.frame, wanted.tokenizer, wanted.source
    )  # fmt: skip
    assert all(torch.equal(there.weights[name], tensor) for name, tensor in wanted.weights.items())
    headtohead.load(folder).save(tmp_path / "again")
    for name in (RECORD, WEIGHTS, "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    with pytest.raises(UserError, match="is there already"):
        headtohead.load(folder).save(folder)


def test_what_is_damaged_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    def refused(path: Path, match: str) -> None:
        with pytest.raises(UserError, match=match):
            headtohead.load(path)

    refused(tmp_path / "nothing", "nothing is not there")
    refused(folder / RECORD, "is a file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "neither model.json nor run.json")
    (tmp_path / "empty" / "pytorch_model.bin").write_bytes(b"x")
    refused(tmp_path / "empty", "is a pickle, and reading one runs whatever code")
    refused(tmp_path / "empty" / "pytorch_model.bin", "is a pickle")
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    refused(folder, "weights.safetensors has been altered")
    (folder / WEIGHTS).unlink()
    refused(folder, "weights.safetensors is missing")
    (folder / WEIGHTS).write_bytes(weights)
    record = json.loads((folder / RECORD).read_text())
    record["architecture"]["d_model"] = 32
    (folder / RECORD).write_text(json.dumps(record))
    refused(folder, r"has the shape \[.*: the network's is")
    record["frame"]["ends"] = [999]
    (folder / RECORD).write_text(json.dumps(record))
    refused(folder, "names the id 999")
    for key in ("architecture", "frame", "source"):
        (folder / RECORD).write_text(json.dumps({**record, key: []}))
        refused(folder, f"is damaged, its {key} is no table")


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    broken = held(WRITERS[0])
    weights = {name: torch.full_like(tensor, float("nan")) for name, tensor in broken.weights.items()}
    with pytest.raises(UserError, match="not finite"):
        write_folder(tmp_path / "model", Held(broken.architecture, weights, broken.frame))
    with pytest.raises(UserError, match="is missing"):
        write_folder(tmp_path / "model", Held(broken.architecture, {}, broken.frame))
    assert list(tmp_path.iterdir()) == []


def test_bad_ids_and_unpaired_texts_are_told(folder: Path) -> None:
    model = headtohead.load(folder)
    with pytest.raises(UserError, match="the id 263 is outside the vocabulary: ids go from 0 to 262"):
        model.logits([[263]])
    with pytest.raises(UserError, match="2 inputs and 1 outputs"):
        model.score(["a", "b"], ["c"])
    with pytest.raises(UserError, match="2 rows of input_ids and 1"):
        model.logits([[9], [9]], [[9]])
    with pytest.raises(UserError, match="ids are whole numbers"):
        model.logits(torch.tensor([[9.5]]))
    for ids in ([[9.5]], [["9"]], "abc"):
        with pytest.raises(UserError, match="ids are rows of whole numbers"):
            model.logits(ids)  # type: ignore[arg-type]


def test_a_description_tells_its_costs_and_builds() -> None:
    found = headtohead.architecture("redllm-nano")
    assert found == presets.architecture("redllm-nano")
    built = found.build(seed=1)
    assert found.parameters == sum(p.numel() for p in built.parameters())
    assert found.flops(input=8, output=4)["training"] > 0
    with pytest.raises(UserError, match="no architecture is called 'redllm'"):
        headtohead.architecture("redllm")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import headtohead, sys; print({'torch', 'transformers', 'pydantic'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_the_end_is_never_part_of_a_score(folder: Path) -> None:
    model = headtohead.load(folder)
    assert model.score("a", "") == 0.0
    assert END in model.frame.ends
