"""Runs: their order, their identity, and what an earlier study's results are checked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headtohead.errors import UserError
from headtohead.study.results import STOPPED, check_earlier, folder_of, write_results
from headtohead.study.schedule import Run, RungName, curve_steps, differences, in_order


def run(arm: str, seed: int, rung: RungName = "full", cost: float = 1.0, **description: Any) -> Run:
    return Run(arm, seed, rung, 1e-3, {"arm": arm, "seed": seed, "commit": "abc", **description}, cost)


def finish(out: Path, done: Run) -> None:
    folder = folder_of(out, done)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(done.description), encoding="utf-8")
    about = {"arm": done.arm, "seed": done.seed, "rung": done.rung, "learning_rate": done.learning_rate}
    (folder / "result.json").write_text(json.dumps({**about, "status": "finished"}), encoding="utf-8")
    (folder / "timings.json").write_text('{"train": 1.0}', encoding="utf-8")


def test_rehearsal_first_then_seed_by_seed_the_longest_first() -> None:
    runs = [run(a, s, "full", c) for s in (2, 1) for a, c in (("a", 1.0), ("b", 3.0), ("c", 2.0))]
    runs += [run(a, 1, "rehearsal") for a in ("c", "a", "b")]
    names = [planned.name for planned in in_order(runs)]
    assert names[:3] == ["rehearsal-a-seed1", "rehearsal-b-seed1", "rehearsal-c-seed1"]
    assert names[3:6] == ["full-b-seed1", "full-c-seed1", "full-a-seed1"]
    assert names[6:] == ["full-b-seed2", "full-c-seed2", "full-a-seed2"]


def test_the_commit_is_not_part_of_what_a_run_is() -> None:
    one = run("a", 1, recipe={"clip": 1.0})
    assert one.identity == replace(one, description={**one.description, "commit": "other"}).identity
    assert one.identity != run("a", 1, recipe={"clip": 2.0}).identity


def test_differences_are_named_by_their_path() -> None:
    old, new = {"recipe": {"clip": 1.0, "steps": 3}, "x": 1}, {"recipe": {"clip": 2.0, "steps": 3}}
    assert differences(old, new) == ["recipe.clip: 1.0 -> 2.0", "x: 1 -> null"]


def test_curves_end_with_the_run() -> None:
    assert curve_steps(100, 4) == [25, 50, 75, 100]
    assert curve_steps(3, 12) == [1, 2, 3]
    assert curve_steps(1, 1) == [1]


def test_results_are_in_the_order_of_the_plan_and_hold_what_stopped(tmp_path: Path) -> None:
    runs = [run("a", 1), run("b", 1), run("c", 1), run("d", 1)]
    finish(tmp_path, runs[2])
    finish(tmp_path, runs[0])
    folder_of(tmp_path, runs[1]).mkdir(parents=True)
    (folder_of(tmp_path, runs[1]) / STOPPED).write_text('{"reason": "no space"}', encoding="utf-8")
    results = write_results(tmp_path, runs)
    assert [(line["arm"], line["status"]) for line in results] == [
        ("a", "finished"),
        ("b", "stopped"),
        ("c", "finished"),
    ]
    lines = (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == results
    assert len((tmp_path / "timings.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_a_finished_run_of_another_plan_is_refused_by_what_differs(tmp_path: Path) -> None:
    before = run("a", 1, recipe={"clip": 1.0})
    finish(tmp_path, before)
    check_earlier(tmp_path, [before])
    check_earlier(tmp_path, [replace(before, description={**before.description, "commit": "other"})])
    with pytest.raises(UserError, match=r"recipe\.clip: 1\.0 -> 2\.0.*--out"):
        check_earlier(tmp_path, [run("a", 1, recipe={"clip": 2.0})])
