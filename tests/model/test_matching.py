"""The solver for equal parameters."""

from __future__ import annotations

import pytest

from headtohead.errors import UserError
from headtohead.model.budget import parameters
from headtohead.model.matching import apart, match_parameters
from headtohead.model.presets import architecture
from headtohead.model.presets.laboratory import TABLE


def test_the_published_150m_pair_is_an_eighth_apart() -> None:
    assert apart(architecture("decllm-150m"), architecture("redllm-150m")) == pytest.approx(0.125, abs=1e-4)
    assert apart(architecture("decllm-150m"), architecture("decllm-150m")) == 0


def test_what_already_fits_is_left_alone() -> None:
    a = architecture("redllm-nano")
    match = match_parameters(a, parameters(a)["total"] + 1000)
    assert match.architecture is a
    assert match.changes == ()
    assert match.mismatch == pytest.approx(-1000 / match.target)


@pytest.mark.parametrize("size", TABLE)
@pytest.mark.parametrize("family", ["redllm", "redllm-causal-encoder"])
def test_two_stacks_meet_one_at_every_size(family: str, size: str) -> None:
    template, target = architecture(f"{family}-{size}"), parameters(architecture(f"prefix-{size}"))["total"]
    match = match_parameters(template, target)
    assert abs(match.mismatch) <= 0.01
    assert match.parameters == parameters(match.architecture)["total"]
    assert match.mismatch == match.parameters / target - 1
    held = ("d_model", "heads", "d_head", "vocabulary", "norms")
    assert all(getattr(match.architecture, name) == getattr(template, name) for name in held)
    for stream in match.architecture.streams:
        assert all(layer.d_ff % 16 == 0 for layer in stream.layers)


def test_one_change_is_preferred_to_two() -> None:
    a = architecture("redllm-nano")
    match = match_parameters(a, parameters(architecture("prefix-nano"))["total"])
    assert match.changes == ("d_ff 512 -> 768",)
    assert match.depths == (1, 1)
    assert match.mismatch == 0


def test_layers_change_in_the_balance_of_the_template() -> None:
    a = architecture("redllm-mini")  # 2+3 layers
    twice = a.resized(depths=(4, 6))
    match = match_parameters(a, parameters(twice)["total"])
    assert match.architecture == twice
    assert match.changes == ("layers 2+3 -> 4+6",)


def test_where_both_must_change_the_fewest_layers_move() -> None:
    a = architecture("prefix-nano")  # 3 layers of 262,400 at d_ff 512, at most 459,008 at d_ff 1024
    target = parameters(a.resized(depths=(6,), d_ff=752))["total"]
    match = match_parameters(a, target)
    assert len(match.changes) == 2
    assert match.depths == (5,)  # four would need a d_ff above 1024
    assert abs(match.mismatch) <= 0.01


def test_each_match_says_what_it_is() -> None:
    text = str(match_parameters(architecture("redllm-nano"), 918_400))
    assert "918,400" in text and "+0.00%" in text and "1+1 layers" in text and "d_ff 512 -> 768" in text


@pytest.mark.parametrize("target", [1000, 200_000, 10**12])
def test_out_of_reach_is_one_line_with_the_nearest(target: int) -> None:
    with pytest.raises(UserError, match=r"redllm-nano.*nearest is .* layers") as error:
        match_parameters(architecture("redllm-nano"), target)
    assert "\n" not in str(error.value)


def test_a_tolerance_of_its_own() -> None:
    a = architecture("redllm-nano")
    assert match_parameters(a, 750_000, tolerance=0.05).changes == ()
    assert match_parameters(a, 750_000, tolerance=0.01).changes != ()
