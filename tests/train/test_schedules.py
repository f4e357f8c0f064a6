"""Every schedule against its formula: the peak, the end, and the way between."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.train.small import recipe

from headtohead.train.recipe import SCHEDULE_KEYS, Recipe, ScheduleName
from headtohead.train.schedules import learning_rate

SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Any schedule of any length."""
    schedule = draw(st.sampled_from(SCHEDULES))
    steps = draw(st.integers(1, 300))
    settings = {"schedule": schedule, "steps": steps, "learning_rate": draw(st.floats(1e-6, 10))}
    longest = steps
    if schedule == "wsd":
        settings["decay_fraction"] = draw(st.floats(0.01, 1))
        longest = steps - max(1, round(settings["decay_fraction"] * steps))
    if "final_fraction" in SCHEDULE_KEYS[schedule]:
        settings["final_fraction"] = draw(st.floats(0, 1))
    return recipe(**settings, warmup_steps=draw(st.integers(0, longest)))


@given(recipes())
def test_up_to_the_peak_and_never_up_again(settings: Recipe) -> None:
    steps, warmup, peak = settings.steps or 0, settings.warmup_steps, settings.learning_rate
    rates = [learning_rate(settings, step) for step in range(1, steps + 1)]
    rising, rest = rates[:warmup], rates[warmup:]
    assert rising == pytest.approx([peak * step / warmup for step in range(1, warmup + 1)])
    assert not rising or rising[-1] == pytest.approx(peak, rel=1e-15)
    assert all(0 <= rate <= peak * (1 + 1e-12) for rate in rates)
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in itertools.pairwise(rest))
    if not rest:
        return
    end = {"constant": 1.0, "inverse-sqrt": math.sqrt(max(1, warmup) / steps)}
    assert rates[-1] == pytest.approx(peak * end.get(settings.schedule, settings.final_fraction), abs=1e-15)


@pytest.mark.parametrize(
    ("schedule", "more", "expected"),
    [
        ("linear", {"final_fraction": 0.1}, {4: 0.4, 6: 0.31, 8: 0.22, 12: 0.04}),
        ("constant", {}, {4: 0.4, 5: 0.4, 12: 0.4}),
        ("inverse-sqrt", {}, {4: 0.4, 9: 0.4 * 2 / 3, 12: 0.4 / math.sqrt(3)}),
        # The last third are 4 of 12 steps: at the peak with step 8, half way down after a quarter of them.
        (
            "wsd",
            {"decay_fraction": 1 / 3, "final_fraction": 0.1},
            {4: 0.4, 8: 0.4, 9: 0.22, 12: 0.04},
        ),
    ],
)
def test_values_by_hand(schedule: str, more: dict[str, float], expected: dict[int, float]) -> None:
    settings = recipe(learning_rate=0.4, warmup_steps=4, steps=12, schedule=schedule, **more)
    found = {step: learning_rate(settings, step) for step in expected}
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_cosine_is_what_it_was_to_the_bit() -> None:
    settings = recipe(learning_rate=3e-3, warmup_steps=7, steps=61, final_fraction=0.1)
    for step in range(8, 62):
        progress = (step - 7) / 54
        cosine = 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        assert learning_rate(settings, step) == 3e-3 * (0.1 + (1 - 0.1) * cosine)


def test_knowing_the_rate_needs_no_torch() -> None:
    code = "import sys, headtohead.train.schedules; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
