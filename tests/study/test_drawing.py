"""Drawings come from descriptions: every mark is a visible pair, also in networks that nobody drew yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture, Layer, Read, Stream
from headtohead.model.presets import architecture, preset_names
from headtohead.study.drawing import draw, drawing, panels, sentence, stacks, who_sees_whom


def read(keys: str, visibility: str, merged: bool = False) -> Read:
    return Read.model_validate(
        {"keys": keys, "visibility": f"{visibility} & same_document", "merged": merged}
    )


def network(*streams: Stream, name: str = "mine") -> Architecture:
    return Architecture(name=name, d_model=64, heads=4, d_head=16, vocabulary=100, streams=streams)


def seen(a: Architecture, panel: int = 0) -> np.ndarray:
    """Shares of heads as a matrix, back from a drawn panel."""
    p = panels(a)[panel]
    xs = [x for x, _, _ in p.columns]
    found = np.zeros((len(xs), len(xs)))
    for cell in p.cells:
        row = int(np.argmin([abs(y - cell.y - 8.5) for y in xs]))
        column = int(np.argmin([abs(x - cell.x - 8.5) for x in xs]))
        found[row, column] = cell.share
    return found


def test_one_stack_is_its_visibility() -> None:
    causal = np.tril(np.ones((8, 8)))
    assert np.array_equal(seen(architecture("causal-nano")), causal)
    prefix = causal.copy()
    prefix[:, :4] = 1
    assert np.array_equal(seen(architecture("prefix-nano")), prefix)


def test_two_stacks_are_three_blocks() -> None:
    found = seen(architecture("redllm-nano"))
    assert found[:4, :4].all() and not found[:4, 4:].any()  # the encoder never sees the output
    assert found[4:, :4].all()
    assert np.array_equal(found[4:, 4:], np.tril(np.ones((4, 4))))
    across = {
        cell.across for cell in panels(architecture("redllm-nano"))[0].cells if cell.share and cell.y > 70
    }
    assert across == {True, False}


def test_heads_that_differ_are_drawn_by_their_share() -> None:
    layer = Layer(reads=(read("text", "by_head(causal, anticausal)"),), d_ff=64)
    found = seen(network(Stream(name="text", holds="both", layers=(layer,))))
    assert np.array_equal(found, np.where(np.eye(8), 1.0, 0.5))


def test_layers_that_differ_have_a_panel_each() -> None:
    layers = (
        Layer(reads=(read("text", "window(2)"),), d_ff=64, repeat=2),
        Layer(reads=(read("text", "causal"),), d_ff=64),
    )
    a = network(Stream(name="text", holds="both", layers=layers))
    assert [p.caption for p in panels(a)] == ["layers 1–2", "layer 3"]
    assert len(stacks(a).columns[0].blocks) == 2


def test_merged_attention_is_one_sublayer_and_stays_in_its_frame() -> None:
    encoder = Stream(name="input", holds="input", layers=(Layer(reads=(read("input", "full"),), d_ff=64),))
    merged = Layer(reads=(read("output", "causal"), read("input", "full", merged=True)), d_ff=64)
    a = network(encoder, Stream(name="output", holds="output", layers=(merged,)))
    assert not any(cell.across for cell in panels(a)[0].cells)
    assert [line.kind for line in stacks(a).columns[1].blocks[0].sublayers] == ["self", "feed-forward"]
    assert len(stacks(a).paths) == 1


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_well_formed(tmp_path: Path, name: str) -> None:
    draw(name, tmp_path / "out.svg")
    root = ElementTree.fromstring((tmp_path / "out.svg").read_text(encoding="utf-8"))
    assert root.tag.endswith("svg")
    assert sum(
        layer.times for column in stacks(architecture(name)).columns for layer in column.blocks
    ) == sum(architecture(name).depths)
    assert "sees" in who_sees_whom(architecture(name), "#123456")


def test_foreign_names_are_escaped() -> None:
    a = network(*architecture("prefix-nano").streams, name="</svg><script>alert(1)</script>")
    assert "<script" not in drawing(a)
    ElementTree.fromstring(drawing(a))


def test_in_words() -> None:
    assert sentence(architecture("prefix-nano")) == "stream text, 3 layers, reads text (prefix)"


def test_unknown_name_and_unwritable_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prefix-nano"):
        draw("prefix-nanoo", tmp_path / "out.svg")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="file"):
        draw("prefix-nano", tmp_path / "file" / "out.svg")


def test_draws_without_torch_or_altair() -> None:
    code = "import sys, headtohead.study.drawing; print({'torch', 'altair', 'scipy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
