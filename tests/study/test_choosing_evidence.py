"""`headtohead choose`: what it makes of the ladder's results, and how its page says it."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import asdict, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from tests.study import simulated

from headtohead.errors import UserError
from headtohead.study.choosing import candidates, choice_page, stages, winner
from headtohead.study.choosing.candidates import SHAPES, Lengths, Plan
from headtohead.study.choosing.recommending import Recommendation, recommend

LENGTHS = Lengths(input=60, output=60, row=256, side=144, per_row=2.0, rows=20_000)
DATA = {"vocabulary": 1024, "window_bytes": 384, "regions": ["continuation"], "row": 256, "side": 144}
ARMS = ("causal", "prefix", "two-full")
MACHINE = {"cores": 2, "processor": "a processor"}
REASON = "the loss is not finite at step 40, first in layer output.0"


def ladder(
    folder: Path,
    means: dict[str, float],
    milliseconds: dict[str, float],
    noise: float = 0.002,
    stopped: Collection[tuple[str, int]] = (),
    lengths: Lengths = LENGTHS,
) -> Recommendation:
    """What is recommended of simulated runs with these bits per byte, the same on both rungs; `stopped` (arm, seed)
    have no result on the upper one.
    """
    for rung in ("lower", "upper"):
        whole = simulated.plan()
        arms = [arm for arm in whole["arms"] if arm["key"] in ARMS]
        contrasts = [
            {
                "name": f"{a}-or-{b}",
                "from": a,
                "to": b,
                "factor": "architecture",
                "sentence": f"{b} for {a}.",
                "declares": [],
            }
            for a, b in combinations(ARMS, 2)
        ]
        study = {
            **whole["study"],
            "arms": [arm for arm in whole["study"]["arms"] if arm["key"] in ARMS],
            "contrasts": contrasts,
            "claims": [],
            "margin": 0.01,
            "declared_differences": candidates.DECLARED,
            "data": {**whole["study"]["data"], "regions": ["continuation"]},
        }
        data = {**whole["data"], "regions": ["continuation"]}
        runs = [run for run in whole["runs"] if run["arm"] in ARMS and run["rung"] == "full"]
        plan = {**whole, "study": study, "arms": arms, "data": data, "runs": runs, "machine": MACHINE}
        (folder / rung).mkdir(parents=True)
        (folder / rung / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        lines, times = [], []
        for number, entry in enumerate(runs):
            if rung == "upper" and (entry["arm"], entry["seed"]) in stopped:
                line = {**entry, "status": "stopped", "reason": REASON, "step": 40, "documents": []}
                lines.append(json.dumps(line) + "\n")
                times.append(json.dumps({**entry, "seconds": {"this_start": 20.0}}) + "\n")
                continue
            line = simulated.result(entry["arm"], entry["seed"])
            wanted = means[entry["arm"]] + noise * ((number * 7) % 5 - 2)
            factor = wanted / line["bits_per_byte"]["continuation"]
            bits = [factor * value for value in line["documents"]["bits"]["continuation"]]
            line["documents"] = {**line["documents"], "bits": {"continuation": bits}}
            line["documents"]["bytes"] = {"continuation": line["documents"]["bytes"]["continuation"]}
            line["bits_per_byte"] = {"continuation": wanted}
            lines.append(json.dumps(line) + "\n")
            seconds = {"train": 100.0, "this_start": 110.0}
            times.append(json.dumps({**entry, "folder": "x", "seconds": seconds}) + "\n")
        (folder / rung / "results.jsonl").write_text("".join(lines), encoding="utf-8")
        (folder / rung / "timings.jsonl").write_text("".join(times), encoding="utf-8")
    b = candidates.Budget(SHAPES[0], (0, 1, 2), 100, 100, 200)
    return recommend(folder, Plan("text", "x", b, lengths, DATA, (60, 60), ARMS), milliseconds)


SAME: dict[str, float] = dict.fromkeys(ARMS, 20.0)


def test_one_that_is_clearly_better_is_recommended(tmp_path: Path) -> None:
    found = ladder(tmp_path, {"causal": 2.5, "prefix": 2.2, "two-full": 2.6}, SAME)
    assert (found.arm.key, found.best.key, found.settled) == ("prefix", "prefix", True)
    assert {rival.arm.key: rival.standing for rival in found.rivals} == {
        "causal": "behind",
        "two-full": "behind",
    }
    causal = next(rival for rival in found.rivals if rival.arm.key == "causal")
    assert causal.difference == pytest.approx(0.3, abs=0.01)
    assert causal.low is not None and causal.high is not None and 0 < causal.low < 0.3 < causal.high
    assert "better than every other" in found.lead and "One stack, causal" in found.lead
    assert found.steps_in(100.0) == round(
        100 * 0.85 * 12.0 * 1.35
    )  # 1,200 steps took 100 s, and there are two cores


def test_of_two_that_are_level_the_sooner_answer_is_recommended(tmp_path: Path) -> None:
    means = {"causal": 2.2, "prefix": 2.2005, "two-full": 2.6}
    found = ladder(tmp_path, means, {**SAME, "prefix": 10.0}, noise=1e-5)
    assert (found.arm.key, found.best.key, found.settled) == ("prefix", "causal", True)
    assert {rival.arm.key: rival.standing for rival in found.rivals} == {
        "causal": "level",
        "two-full": "behind",
    }


def test_an_interval_that_is_too_wide_is_not_settled_and_says_what_would_settle_it(tmp_path: Path) -> None:
    found = ladder(tmp_path, {"causal": 2.30, "prefix": 2.29, "two-full": 2.6}, SAME, noise=0.05)
    assert found.arm.key == found.best.key and not found.settled
    assert found.lead.startswith("Not settled")
    rival = next(rival for rival in found.rivals if rival.standing == "not settled")
    assert "settle" in rival.remark


def standings(found: Recommendation) -> dict[str, str]:
    return {rival.arm.key: rival.standing for rival in found.rivals}


def test_a_difference_that_is_sure_but_not_wholly_beyond_the_margin_is_not_settled(tmp_path: Path) -> None:
    found = ladder(tmp_path, {"causal": 2.200, "prefix": 2.212, "two-full": 2.6}, SAME, noise=1e-5)
    assert standings(found) == {"prefix": "not settled", "two-full": "behind"}
    rival = next(rival for rival in found.rivals if rival.arm.key == "prefix")
    assert rival.low is not None and rival.high is not None and 0 < rival.low < 0.01 < rival.high
    assert "surely behind, but perhaps by less than the margin of 0.01" in rival.remark
    assert (
        not found.settled and found.lead.startswith("Not settled") and "better than every" not in found.lead
    )


def test_what_takes_the_place_of_the_best_is_held_against_all_others_itself(tmp_path: Path) -> None:
    means = {"causal": 2.2023, "prefix": 2.2000, "two-full": 2.2160}
    found = ladder(tmp_path / "same", means, SAME, noise=1e-5)
    assert (found.arm.key, found.settled) == ("prefix", True)
    assert standings(found) == {"causal": "level", "two-full": "behind"}
    found = ladder(tmp_path / "sooner", means, {**SAME, "causal": 10.0}, noise=1e-5)
    assert (found.arm.key, found.best.key, found.settled) == ("causal", "prefix", False)
    assert standings(found) == {"prefix": "level", "two-full": "not settled"}
    assert found.lead.startswith("Not settled: the One stack, causal is level with the One stack, full view")


@pytest.mark.parametrize("soon", [{"prefix": 19.5}, {"two-full": 5.0}])
def test_that_no_other_answers_sooner_is_said_only_where_it_is_so(
    soon: dict[str, float], tmp_path: Path
) -> None:
    means = {"causal": 2.2, "prefix": 2.2005, "two-full": 2.6}
    found = ladder(tmp_path, means, {**SAME, **soon}, noise=1e-5)
    assert (found.arm.key, found.settled) == ("causal", True)
    assert "of these no other answers sooner by more than 5%" in found.lead  # of the two that are level


def test_an_architecture_with_too_few_finished_runs_is_not_judged_and_that_is_said(tmp_path: Path) -> None:
    means = {"causal": 2.5, "prefix": 2.2, "two-full": 2.6}
    for gone in (2, 3):
        stopped = {("two-full", seed) for seed in simulated.SEEDS[:gone]}
        found = ladder(tmp_path / str(gone), means, SAME, stopped=stopped)
        assert (found.arm.key, found.settled) == ("prefix", False)
        assert standings(found) == {"causal": "behind", "two-full": "not judged"}
        assert f"{gone} of 3 runs of two-full stopped: {REASON}" in found.lead
        assert "better than every other" not in found.lead
        assert (found.costs["two-full"].training_seconds is None) == (gone == 3)
    # one lucky run makes nobody the best
    found = ladder(tmp_path / "lucky", means, SAME, stopped={("prefix", 0), ("prefix", 1)})
    assert (found.arm.key, standings(found)["prefix"]) == ("causal", "not judged")


def test_a_run_that_stopped_has_no_part_in_how_fast_training_is(tmp_path: Path) -> None:
    means = {"causal": 2.5, "prefix": 2.2, "two-full": 2.6}
    found = ladder(tmp_path, means, SAME, stopped={("prefix", 0)})
    assert found.arm.key == "prefix" and found.steps_a_second == pytest.approx(12.0)


@pytest.mark.parametrize("left", [0, 1])
def test_fewer_than_two_architectures_with_a_result_are_told_with_the_reason(
    left: int, tmp_path: Path
) -> None:
    stopped = {(arm, seed) for arm in ARMS[left:] for seed in simulated.SEEDS}
    with pytest.raises(
        UserError, match=f"upper: {left} of 3 architectures have a result.*the loss is not finite"
    ):
        ladder(tmp_path, dict.fromkeys(ARMS, 2.2), SAME, stopped=stopped)


def test_the_recommended_network_does_not_read_the_data_more_than_four_times_either(tmp_path: Path) -> None:
    few = replace(LENGTHS, rows=100)
    found = ladder(tmp_path, {"causal": 2.5, "prefix": 2.2, "two-full": 2.6}, SAME, lengths=few)
    assert found.steps_in(3600.0) == candidates.MOST_PASSES * 100 // candidates.ROWS_PER_STEP
    assert replace(found, most_steps=16).steps_in(0.0) == 16


# -- the page


def decided(**changes: Any) -> dict[str, Any]:
    """choose.json of a choice between the simulated arms."""
    b = {"shape": {"d_model": 64, "depth": 4}, "seeds": [0, 1, 2], "upper_steps": 200, "lower_steps": 100}
    return {
        "request": {"minutes": 5.0, "max_latency_ms": None, "sha256": "5f3c" * 16},
        "material": {"source": "a file", "pairs": None, "left_out": 0},
        "plan": {"kind": "text", "title": "x", "budget": b, "serve": [60, 60]},
        "latency": SAME,
        "left_out": {},
        "seconds": {"rates": 60.0},
        "winner": None,
        **changes,
    }


def page_of(out: Path, found: Recommendation, told: dict[str, Any]) -> tuple[str, str]:
    arms = {key: {"optimum": 2e-3, "edge": False, "grid": [1e-3, 2e-3, 4e-3]} for key in ARMS}
    (out / "rates.json").write_text(json.dumps({"arms": arms, "steps": 100}), encoding="utf-8")
    choice_page.write(out, found, told)
    return (out / "index.html").read_text(encoding="utf-8"), (out / "index.md").read_text(encoding="utf-8")


def test_the_page_names_who_could_not_be_judged_and_which_pairs_were_left_out(tmp_path: Path) -> None:
    means = {"causal": 2.5, "prefix": 2.2, "two-full": 2.6}
    stopped = {("two-full", seed) for seed in simulated.SEEDS}
    found = ladder(tmp_path, means, SAME, stopped=stopped)
    why = "7 have more than 1,024 tokens, input and output together"
    material = {"source": "a file", "pairs": "x", "left_out": 7, "why": why}
    for text in page_of(tmp_path, found, decided(material=material)):
        assert "no finished run" in text and "not judged" in text and REASON in text
        assert f"7 pairs are left out, since {why}" in text


def test_a_recommended_network_whose_loss_was_not_finite_is_told_with_what_to_do(tmp_path: Path) -> None:
    found = ladder(tmp_path, {"causal": 2.5, "prefix": 2.2, "two-full": 2.6}, SAME)
    told = decided(winner={"arm": "prefix", "steps": 200})
    assert "It is being trained" in page_of(tmp_path, found, told)[0]
    words = ((Path("speech.txt"),), None, "text")
    winner.check(tmp_path, "prefix decoder", *words)  # nothing is wrong yet
    (tmp_path / "winner").mkdir()
    stopped = {"status": "stopped", "reason": REASON, "parameters": 1000, "step": 40}
    (tmp_path / "winner" / "result.json").write_text(json.dumps(stopped), encoding="utf-8")
    run = {"recipe": {"learning_rate": 4e-3}}
    (tmp_path / "winner" / "run.json").write_text(json.dumps(run), encoding="utf-8")
    for text in page_of(tmp_path, found, told):
        assert REASON in text and "It is being trained" not in text
    again = winner.again(tmp_path, *words)
    assert again.endswith(f"--text speech.txt --set recipe.learning_rate=0.002 --out {tmp_path / 'winner-2'}")
    with pytest.raises(UserError, match=r"its training in .* stopped .* headtohead train"):
        winner.check(tmp_path, "prefix decoder", *words)


def test_killed_before_the_training_file_is_there_nothing_says_that_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ladder(tmp_path, {"causal": 2.5, "prefix": 2.2, "two-full": 2.6}, SAME)
    page_of(tmp_path, found, decided())  # with the learning rates
    b = candidates.Budget(SHAPES[0], (0, 1, 2), 100, 100, 200)
    plan = asdict(Plan("text", "x", b, LENGTHS, DATA, (60, 60), ARMS))
    choice = stages.Decided({}, {"pairs": None}, json.loads(json.dumps(plan)), SAME, {})
    put = os.replace

    def killed(one: str, two: Path) -> None:
        if two.name == "winner.toml":
            raise KeyboardInterrupt
        put(one, two)

    monkeypatch.setattr(os, "replace", killed)
    request = stages.Request((Path("speech.txt"),), out=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        stages._train_winner(request, choice, found, tmp_path, lambda folder: False)
    assert choice.winner is None and not (tmp_path / "choose.json").exists()
