"""Descriptions: what they refuse, how they are written down, and that a resized one is really of that
size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture, one_stack, two_stacks
from headtohead.model.budget import parameters
from headtohead.model.matching import match_parameters
from headtohead.model.parts import Rope
from headtohead.model.presets import architecture, preset_names
from headtohead.model.transformer import Transformer

SIZES: dict[str, Any] = {"d_model": 16, "heads": 2, "d_head": 8, "vocabulary": 32}


def changed(name: str, edit) -> dict[str, Any]:
    """A preset as it is written down, edited."""
    data = architecture(name).model_dump(mode="json")
    edit(data)
    return data


@pytest.mark.parametrize("name", preset_names())
def test_a_description_is_written_down_and_read_back(name: str) -> None:
    a = architecture(name)
    again = Architecture.model_validate_json(a.model_dump_json())
    assert again == a
    assert hash(again) == hash(a)
    assert again.name == name


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("decllm-150M", "decllm-150m"),
        ("redlm-nano", "redllm-nano"),
        ("gpt2", "gpt-2-"),
        ("zzzz", "budget --list"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UserError, match=near) as error:
        architecture(name)
    assert name in str(error.value)


def test_a_resized_network_is_of_that_size_even_after_it_was_looked_at() -> None:
    for depths, name in (((2,), "prefix-nano"), ((2, 1), "redllm-nano")):
        a = architecture(name)
        assert a.depths and all(s.expanded for s in a.streams)
        b = a.resized(d_ff=48, depths=depths, d_model=16, heads=2, d_head=8, vocabulary=32)
        assert b.depths == depths
        assert {layer.d_ff for s in b.streams for layer in s.expanded} == {48}
        assert sum(p.numel() for p in Transformer(b).parameters()) == parameters(b)["total"]


def test_a_matched_network_is_built_as_it_is_described() -> None:
    match = match_parameters(two_stacks("two", "full", depths=(1, 1), d_ff=32, **SIZES), 7000, tolerance=0.1)
    assert sum(p.numel() for p in Transformer(match.architecture).parameters()) == match.parameters


@pytest.mark.parametrize("sizes", [{"d_ff": 0}, {"depths": (0,)}, {"heads": -1}, {"widht": 3}])
def test_a_size_out_of_range_is_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, ValueError)):
        architecture("decllm-nano").resized(**sizes)


def first_read(data: dict[str, Any]) -> dict[str, Any]:
    return data["streams"][0]["layers"][0]["reads"][0]


@pytest.mark.parametrize(
    ("name", "edit", "says"),
    [
        ("decllm-nano", lambda d: d.update(d_head=7), "even"),
        ("decllm-nano", lambda d: d.update(widht=7), "widht"),
        ("decllm-nano", lambda d: d.update(positions="rotary"), "rope"),
        ("decllm-nano", lambda d: first_read(d).update(visibility="casual"), "did you mean 'causal'"),
        ("decllm-nano", lambda d: first_read(d).update(merged=True), "merged"),
        ("decllm-nano", lambda d: first_read(d).update(keys="elsewhere"), "elsewhere"),
        ("decllm-nano", lambda d: d["streams"][0].update(holds="output"), "both"),
        ("decllm-nano", lambda d: d.update(streams=[]), "streams"),
        ("redllm-nano", lambda d: d["streams"][1].update(holds="input"), "predicts"),
        ("redllm-nano", lambda d: d["streams"][1].update(name="input"), "input"),
        ("redllm-nano", lambda d: d["streams"][1]["layers"][0]["reads"].pop(), "never reads"),
        ("redllm-nano", lambda d: first_read(d).update(keys="output"), "earlier"),
        (
            "decllm-nano",
            lambda d: first_read(d).update(visibility="by_head(causal, full, prefix, causal, full)"),
            "4 heads among 5 rules",
        ),
    ],
)
def test_a_description_that_fits_no_network_is_refused_and_says_why(name: str, edit, says: str) -> None:
    with pytest.raises(ValidationError) as error:
        Architecture.model_validate(changed(name, edit))
    assert says in str(error.value)


def test_a_pattern_of_layers_is_gone_through_again_until_there_are_enough() -> None:
    a = one_stack("pattern", "causal", depth=1, d_ff=32, **SIZES)
    forward = a.streams[0].model_dump(mode="json")
    layers = [
        {"reads": [{"keys": "text", "visibility": rule}], "d_ff": 32} for rule in ("causal", "anticausal")
    ]
    a = Architecture.model_validate(
        {**a.model_dump(mode="json"), "streams": [{**forward, "layers": layers, "cycle_to": 3}]}
    )
    assert [str(layer.reads[0].visibility) for layer in a.streams[0].expanded] == [
        "causal",
        "anticausal",
        "causal",
    ]
    assert a.resized(depths=(5,)).depths == (5,)


def test_a_result_of_the_first_version_is_still_read() -> None:
    """The arms of the first look as commit 9176974 wrote them down."""
    arms = json.loads((Path(__file__).parent / "first_version.json").read_text(encoding="utf-8"))
    assert len(arms) == 6
    for arm in arms:
        assert "rope_base" in arm
        assert Architecture.model_validate(arm).positions == Rope(base=10_000)


def test_a_description_can_t_be_changed() -> None:
    with pytest.raises(ValidationError):
        architecture("decllm-nano").heads = 8
