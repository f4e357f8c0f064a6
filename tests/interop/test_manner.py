"""A trained network is given text as its objective taught it to see text: loaded, its scores are the run's own."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import headtohead
from headtohead.cli import run
from headtohead.data.layouts import Layout
from headtohead.data.objectives import Codes, Objective, objective, of_region
from headtohead.data.shards import Example, ExampleStore
from headtohead.data.tokenizers import ByteTokenizer
from headtohead.errors import UserError
from headtohead.interop.folders import Held, read_folder, write_folder
from headtohead.interop.frame import own_frame
from headtohead.interop.hub import export_network
from headtohead.interop.loading import Model
from headtohead.interop.own import class_of
from headtohead.model.architecture import Architecture, one_stack, two_stacks
from headtohead.model.transformer import Transformer
from headtohead.study.prepare import held_out
from headtohead.train.checkpoint import named_tensors

from ..data.small import prose
from ..kitchen import torch_as_it_was
from ..study.test_solo import SMALL

ROW = 160
"""Tokens of a row: room for a window of 64 bytes twice over and its sentinels."""
SIZES = {"d_model": 16, "heads": 2, "d_head": 8, "vocabulary": 400}
ONE = one_stack("prefix", "prefix", depth=2, d_ff=32, **SIZES)
TWO = two_stacks("two", "full", depths=(2, 2), d_ff=32, **SIZES)
PLACES = one_stack("places", "prefix", depth=2, d_ff=32, positions="glm", **SIZES)
WRITING = [
    "causal",
    "prefix",
    "restoration",
    "span-corruption",
    "ul2",
    "t5gemma2",
    "glm",
    "bart",
    "gap-sentences",
]
PAIRS = [("of the people", ", by the people"), ("", "a"), ("one two", " three")]


def held(a: Architecture, by: Objective) -> tuple[Held, ByteTokenizer]:
    tokenizer = ByteTokenizer(by.specials(64))
    model = Transformer(a, seed=3)
    with torch.no_grad():
        for tensor in named_tensors(model).values():
            tensor.mul_(3)
    frame = own_frame(by.manner(Codes(tokenizer)), in_place=by.in_place)
    return Held(a, named_tensors(model), frame, tokenizer.content), tokenizer


@pytest.mark.parametrize("a", [ONE, TWO, PLACES], ids=lambda a: a.name)
@pytest.mark.parametrize("kind", WRITING)
def test_scores_are_those_of_what_the_objective_presents(kind: str, a: Architecture) -> None:
    by = objective(kind)
    kept, tokenizer = held(a, by)
    rows: list[list[Example]] = []
    for pair in PAIRS:
        ids = [np.array(tokenizer.encode(text), np.int32) for text in pair]
        example = Example(ids[0], ids[1], 6, False, 0, "answer", len(pair[1]), len(pair[0]))
        rows.append([by.present(example, Codes(tokenizer))])
    model = Model(kept, tokenizer)
    batch = Layout(a, "output", row=80, side=40).batch(rows)
    nats = model.network.score(batch)
    expected = (nats * batch.scored).sum(dim=1).tolist()
    assert expected[0] > 1
    assert model.score(*map(list, zip(*PAIRS, strict=True))) == pytest.approx(expected, abs=1e-4)


RUNS = [
    ("decllm-nano", "causal"),
    ("redllm-nano", "span-corruption"),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in [
            ("prefix-nano", "restoration"),
            ("prefix-nano", "ul2"),
            ("redllm-nano", "bart"),
            ("redllm-nano", "gap-sentences"),
            ("glm-nano", "glm"),
        ]
    ),
]


def trained(name: str, kind: str, folder: Path) -> Path:
    """A short run by an objective, of bytes."""
    text = folder / "text"
    text.mkdir()
    for i in range(8):
        (text / f"{i}.txt").write_text(prose(i, 1500), "utf-8")
    words = [
        "train",
        name,
        "--text",
        str(text),
        "--out",
        str(folder / "run"),
        "--steps",
        "4",
        "--set",
        *SMALL,
    ]
    with torch_as_it_was():
        assert run([*words, f"data.row={ROW}", f"objective={kind}"]) == 0
    return folder / "run"


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_a_loaded_run_scores_and_writes_as_it_was_evaluated(name: str, kind: str, tmp_path: Path) -> None:
    out = trained(name, kind, tmp_path)
    model, result = headtohead.load(out), json.loads((out / "result.json").read_text("utf-8"))
    description = json.loads((out / "run.json").read_text("utf-8"))
    region = description["data"]["regions"][0]
    store = ExampleStore.open((out / description["data"]["folder"]).resolve(), result["split"])
    pairs = {d: ([], []) for d in store.documents}
    decode = model.tokenizer.decode
    chosen = held_out(store, description["evaluation"]["windows"], [region])
    for example in (store[int(i)] for i in chosen):
        for texts, ids in zip(
            pairs[store.documents[example.document]], (example.input, example.output), strict=True
        ):
            texts.append(decode(ids.tolist()))
    documents = result["documents"]
    for document, bits in zip(documents["names"], documents["bits"][region], strict=True):
        assert sum(model.score(*pairs[document])) / math.log(2) == pytest.approx(bits, rel=1e-4)
    sample = result["samples"][0]
    assert model.generate(sample["input"], max_tokens=4) == sample["output"]


def test_what_learnt_to_fill_holes_writes_nothing_and_is_exported_as_such(tmp_path: Path) -> None:
    """UniLM's network sees no later output; what it learnt is to answer holes all the same."""
    write_folder(tmp_path / "model", held(ONE, objective("unilm"))[0])
    model = headtohead.load(tmp_path / "model")
    with pytest.raises(UserError, match="prefix fills holes: it learnt to answer them where they stand"):
        model.generate("a")
    with pytest.raises(UserError, match="prefix fills holes, so that its score is a pseudo-likelihood"):
        model.score("a", "b")  # `held` names no mask token
    kept = read_folder(tmp_path / "model")
    assert kept.frame.in_place and class_of(ONE, kept.frame) == "HeadtoheadForMaskedLM"


@pytest.mark.parametrize("region", ["continuation", "restoration", "text", "answer"])
def test_every_scored_region_has_the_objective_that_cuts_it(region: str) -> None:
    assert of_region(region).region == region


@pytest.mark.parametrize("kind", ["causal", "bart", "span-corruption"])
def test_the_exported_tokenizer_puts_text_where_the_objective_has_it(kind: str, tmp_path: Path) -> None:
    """And transformers' greedy text is ours."""
    transformers = pytest.importorskip("transformers")
    write_folder(tmp_path / "model", held(ONE, objective(kind))[0])
    model = headtohead.load(tmp_path / "model")
    export_network(tmp_path / "model", tmp_path / "theirs")
    text = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    there = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    shown, begun = model.frame.around(model.tokenizer.encode("of the people"))
    given = text("of the people", return_token_type_ids=True, return_tensors="pt")
    assert given["input_ids"][0].tolist() == [*shown, *begun]
    assert given["token_type_ids"][0].tolist() == [0] * len(shown) + [1] * len(begun)
    written = there.generate(**text("of the people", return_tensors="pt"), max_new_tokens=8, do_sample=False)
    ours = model.generate("of the people", max_tokens=8)
    new = written[0, len(shown) + len(begun) :].tolist()
    assert model.tokenizer.decode([i for i in new if i not in model.frame.ends]) == ours
