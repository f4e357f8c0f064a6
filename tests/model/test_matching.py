"""The solver for equal parameters."""

from __future__ import annotations

from fractions import Fraction

import pytest

from headtohead.errors import UserError
from headtohead.model.budget import parameters
from headtohead.model.matching import QUANTITIES, apart, match, match_parameters, quantities, supervised_share
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


@pytest.mark.parametrize("on", QUANTITIES)
@pytest.mark.parametrize("name", ["redllm-mini", "local-mini", "redllm-big-encoder-mini", "t5-v1.1-mini"])
def test_any_quantity_can_be_matched_and_the_others_stand_beside_it(name: str, on) -> None:
    target = quantities(architecture("causal-mini"), 200, 56)[on]
    template = architecture(name)
    # What a template is twice: reachable by its own layers and widths, whatever the causal stack has.
    target = max(
        target, quantities(template.resized(depths=tuple(2 * n for n in template.depths)), 200, 56)[on]
    )
    found = match(template, target, on, 200, 56, tolerance=0.03)
    beside = quantities(found.architecture, 200, 56)
    assert beside.keys() == QUANTITIES.keys()
    assert beside[on] == found.found
    assert abs(found.mismatch) <= 0.03
    assert found.changes


def test_half_of_a_cache_comes_by_heads_of_keys() -> None:
    a = architecture("causal-mini")
    found = match(a, quantities(a, 100, 100)["cache_bytes"] / 2, "cache_bytes", 100, 100)
    assert found.changes == ("layers 6 -> 3",) or found.changes == ("key heads 6 -> 3",)
    third = match(a, quantities(a, 100, 100)["cache_bytes"] / 6, "cache_bytes", 100, 100)
    assert third.mismatch == 0


def test_streams_that_share_weights_keep_equal_depths() -> None:
    a = architecture("redllm-tied-nano")
    found = match_parameters(a, parameters(a.resized(depths=(4, 4)))["total"])
    assert found.depths[0] == found.depths[1]


def test_an_unknown_quantity_is_refused() -> None:
    with pytest.raises(UserError, match=r"'speed'.*training_flops"):
        match(architecture("causal-nano"), 1, "speed")  # type: ignore[arg-type]


def test_supervised_tokens_are_matched_by_examples() -> None:
    red, dec = architecture("redllm-nano"), architecture("decllm-nano")
    assert supervised_share(red, "output", dec, "all", 1024, 1024) == 2
    assert supervised_share(dec, "all", red, "output", 300, 100) == Fraction(1, 4)
    double = architecture("block-double-decoder-nano")
    assert supervised_share(double, "all", dec, "all", 30, 10) == 1
