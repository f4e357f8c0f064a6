"""A study that looks for its arms' learning rates itself, with arms that write and arms that fill holes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.study.short_study import STUDY, finish, start, write_study

from headtohead.errors import UserError
from headtohead.study.loading import load
from headtohead.study.plan import Study, Tuning
from headtohead.study.tuning import chosen, searched, unsteady

TUNING = Tuning(grid=(1e-3, 2e-3, 4e-3), seeds=(7, 8), steps=10, settings={"weight_decay": (0.0, 0.1)})


def trial(rate: float, seed: int, decay: float, bits: float | None, **more: Any) -> dict[str, Any]:
    status = "stopped" if bits is None else "finished"
    curve = [] if bits is None else [{"bits_per_byte": {"continuation": bits}}]
    return {
        "arm": "a", "learning_rate": rate, "seed": seed, "status": status, "parameters": 5, "spikes": [],
        "recipe": {"weight_decay": decay}, "bits_per_byte": {"continuation": bits}, "curve": curve, **more,
    }  # fmt: skip


def trials(scores: dict[tuple[float, float], float]) -> list[dict[str, Any]]:
    """The same score under both seeds, 0.1 apart."""
    return [
        trial(rate, seed, decay, bits + (0.1 if seed == 8 else 0.0))
        for (rate, decay), bits in scores.items()
        for seed in TUNING.seeds
    ]


SCORES = {(r, d): 2.0 + abs(n - 1) + d for n, r in enumerate(TUNING.grid) for d in (0.0, 0.1)}


def test_an_arm_gets_the_settings_under_which_its_best_rate_is_lowest() -> None:
    found = searched(TUNING, {"a": ["continuation"]}, trials(SCORES))
    arm = found["arms"]["a"]
    assert (arm["best"], arm["optimum"], arm["edge"]) == (2e-3, 2e-3, False)
    assert arm["bits_per_byte"] == pytest.approx([3.05, 2.05, 3.05])
    assert arm["tried"] == [
        {"settings": {"weight_decay": 0.0}, "lowest": pytest.approx(2.05)},
        {"settings": {"weight_decay": 0.1}, "lowest": pytest.approx(2.15)},
    ]
    assert chosen(found)["a"].settings == {"weight_decay": 0.0}
    assert found["shared"] == 2e-3
    assert len(arm["trials"]) == 12


def test_a_rate_that_failed_under_one_seed_is_not_taken() -> None:
    lines = trials(SCORES)
    for line in lines:
        if line["learning_rate"] == 2e-3 and line["seed"] == 8:
            line.update(status="stopped", bits_per_byte=None)
    arm = searched(TUNING, {"a": ["continuation"]}, lines)["arms"]["a"]
    assert arm["bits_per_byte"][1] is None
    assert arm["best"] == 1e-3 and arm["edge"]
    assert sum(t["unsteady"] == "not finite" for t in arm["trials"]) == 2


def test_an_arm_that_no_rate_trains_is_told() -> None:
    with pytest.raises(UserError, match="arm 'a' has no learning rate"):
        searched(TUNING, {"a": ["continuation"]}, [dict(line, status="stopped") for line in trials(SCORES)])


def test_the_shared_rate_is_best_for_all_arms_together() -> None:
    other = [dict(line, arm="b") for line in trials({k: 2 + abs(k[0] - 4e-3) * 100 for k in SCORES})]
    found = searched(TUNING, {"a": ["continuation"], "b": ["continuation"]}, trials(SCORES) + other)
    assert (found["arms"]["a"]["best"], found["arms"]["b"]["best"], found["shared"]) == (2e-3, 4e-3, 2e-3)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (trial(1e-3, 7, 0.0, 2.0), ""),
        (trial(1e-3, 7, 0.0, None), "not finite"),
        (trial(1e-3, 7, 0.0, 2.0, spikes=[5]), "spike"),
        (trial(1e-3, 7, 0.0, 2.0, curve=[{"bits_per_byte": {"x": b}} for b in (3.0, 2.0, 2.05)]), "rise"),
        (trial(1e-3, 7, 0.0, 2.0, curve=[{"bits_per_byte": {"x": b}} for b in (3.0, 2.0, 2.03)]), ""),
    ],
)
def test_what_counts_as_unsteady(line: dict[str, Any], why: str) -> None:
    assert unsteady(line) == why


SEARCHING = (
    STUDY.replace("learning_rate = 1e-2\n", "")
    .replace(
        "[rungs.rehearsal]\nsteps = 8\ncurve_points = 2\n",
        "[tuning]\ngrid = [5e-3, 1e-2, 2e-2]\nsteps = 12\n",
    )
    .replace('name = "short"', 'name = "searching"')
)


def load_text(tmp_path: Path, text: str) -> Study:
    file = tmp_path / "searching.toml"
    file.write_text(text, encoding="utf-8")
    return load(file)[0]


def test_a_study_may_search_and_have_no_rehearsal(tmp_path: Path) -> None:
    study = load_text(tmp_path, SEARCHING)
    assert study.tuning is not None and study.rungs.rehearsal is None


MASKED = """
[[arms]]
key = "masked"
label = "masked LM"
supervise = "holes"
objective = "masked"
regions = ["holes"]
architecture = { preset = "full-nano", depths = [2] }
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "rows_per_step = 2",
            "rows_per_step = 2\nlearning_rate = 1e-2",
            "the grid of \\[tuning\\] looks for it",
        ),
        ("grid = [5e-3, 1e-2, 2e-2]", "grid = [1e-2, 5e-3, 2e-2]", "ascending"),
        ("steps = 12", "steps = 12\nsettings = { weight_decay = [0.1] }", "two values or more"),
        ("steps = 12", "steps = 12\nsettings = { weight_dekay = [0.1, 0.2] }", "weight_dekay"),
        ("seeds = [1, 2]", 'seeds = [1, 2]\nrates = "x.json"', "keep one"),
        ('key = "prefix"\n', 'key = "prefix"\nregions = ["holes"]\n', "not among data.regions"),
    ],
)
def test_a_search_that_cannot_be_is_told(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert SEARCHING.count(old) >= 1
    with pytest.raises(UserError, match=said):
        load_text(tmp_path, SEARCHING.replace(old, new, 1))


def test_a_network_is_scored_where_it_can_be(tmp_path: Path) -> None:
    both = SEARCHING.replace("window_bytes = 64", 'window_bytes = 64\nregions = ["continuation", "holes"]')
    with pytest.raises(UserError, match="writes its output and can't be scored in 'holes'"):
        load_text(tmp_path, both + MASKED)
    with pytest.raises(UserError, match="fills holes and can't be scored in 'continuation'"):
        load_text(tmp_path, SEARCHING + MASKED.replace('regions = ["holes"]\n', ""))
    with pytest.raises(UserError, match="give it an objective of its own"):
        some = both.replace('label = "one stack"', 'label = "one stack"\nregions = ["continuation"]')
        load_text(tmp_path, some + MASKED)


@pytest.mark.slow
def test_searched_and_compared(tmp_path: Path) -> None:
    """A minute of real runs: every arm has its trials, the full runs have what was found, holes are scored apart."""
    file, _, text = write_study(tmp_path)
    own = 'objective = "prefix"\nregions = ["continuation"]\n'
    study = SEARCHING.replace("window_bytes = 64", 'window_bytes = 64\nregions = ["continuation", "holes"]')
    for label in ('label = "one stack"\n', 'label = "two stacks"\n'):
        study = study.replace(label, label + own)
    file.write_text(study + MASKED, encoding="utf-8")
    out = tmp_path / "out"
    printed = finish(file, text, out, "--set", "rungs.full.steps=20")
    plan = json.loads((out / "plan.json").read_text())
    assert set(plan["rates"]["arms"]) == {"prefix", "two-full", "masked"}
    assert all(len(arm["trials"]) == 3 for arm in plan["rates"]["arms"].values())
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert {(line["arm"], line["rung"]) for line in lines} == {
        (arm, "full") for arm in ("prefix", "two-full", "masked")
    }
    for line in lines:
        wanted = ["holes"] if line["arm"] == "masked" else ["continuation"]
        assert list(line["bits_per_byte"]) == list(line["value_of_input"]) == wanted
        optimum = plan["rates"]["arms"][line["arm"]]["optimum"]
        assert line["learning_rate"] == optimum
    assert len((out / "tuning.jsonl").read_text().splitlines()) == 9
    page = (out / "report.md").read_text()
    assert "unsteady" in page and "masked LM" in page
    before = (out / "results.jsonl").read_bytes()
    again = finish(file, text, out, "--set", "rungs.full.steps=20")
    assert (out / "results.jsonl").read_bytes() == before
    assert "9 of them finished before" in again
    assert "tuning" in printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_in_its_search_and_again_after_it(tmp_path: Path) -> None:
    """`kill -9` of everything, once while rates are searched and once in the full runs: the same results.jsonl."""
    file, _, text = write_study(tmp_path)
    file.write_text(SEARCHING, encoding="utf-8")
    short = ("--set", "rungs.full.steps=30")
    finish(file, text, tmp_path / "whole", *short)
    out = tmp_path / "out"
    for rung in ("tuning", "full"):
        process = start(file, text, out, *short)
        while not list(out.glob(f"runs/{rung}-*/result.json")):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(file, text, out, *short)
    for name in ("results.jsonl", "tuning.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
