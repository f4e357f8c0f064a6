"""A study in shards: every run is in one of them, and together they are the study that was never split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.study.short_study import STUDY, finish, write_study
from tests.study.test_searched import SEARCHING

from headtohead.cli import run
from headtohead.errors import UserError
from headtohead.study.parting import Shard, joined

FIRST = Path(__file__).parents[2] / "results" / "first-look"


@given(st.dictionaries(st.text("abc", min_size=1), st.floats(0, 1e6), max_size=12), st.integers(1, 5))
def test_every_arm_is_in_one_shard_and_none_has_much_more_to_do(costs: dict[str, float], count: int) -> None:
    shards = [Shard(number, count).of_arms(costs) for number in range(1, count + 1)]
    assert sorted(arm for shard in shards for arm in shard) == sorted(costs)
    loads = [sum(costs[arm] for arm in shard) for shard in shards]
    assert max(loads) - min(loads) <= max(costs.values(), default=0.0) + 1e-6


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2"])
def test_a_shard_that_is_none_is_told(text: str) -> None:
    with pytest.raises(UserError, match="such as --shard 1/3"):
        Shard.parse(text)


def parted(tmp_path: Path) -> list[Path]:
    """The first look's results, every other line in each of two folders, one line in both."""
    lines = (FIRST / "results.jsonl").read_text().splitlines(keepends=True)
    folders = [tmp_path / "one", tmp_path / "two"]
    for n, folder in enumerate(folders):
        shutil.copytree(FIRST, folder)
        own = [line for k, line in enumerate(lines) if k % 2 == n or k == 8]
        (folder / "results.jsonl").write_text("".join(own))
    return folders


def edited(folder: Path, **changes: Any) -> None:
    path = folder / "plan.json"
    plan = json.loads(path.read_text())
    plan["study"].update(changes)
    path.write_text(json.dumps(plan))


def test_put_together_they_are_the_whole(tmp_path: Path) -> None:
    out = joined(parted(tmp_path), tmp_path / "out")
    for name in ("results.jsonl", "timings.jsonl"):
        assert (out / name).read_bytes() == (FIRST / name).read_bytes()
    again, whole = (json.loads((place / "plan.json").read_text()) for place in (out, FIRST))
    assert again["runs"] == whole["runs"] and again["arms"] == whole["arms"]


def test_the_page_of_two_folders(tmp_path: Path) -> None:
    one, two = parted(tmp_path)
    assert run(["report", str(one), str(two), "--out", str(tmp_path / "out")]) == 0
    assert "18 of 18 full runs finished" in (tmp_path / "out" / "report.md").read_text()


def test_several_folders_need_a_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = parted(tmp_path)
    assert run(["report", str(one), str(two)]) == 2
    assert "--out" in capsys.readouterr().err


def test_more_seeds_of_a_study_are_added(tmp_path: Path) -> None:
    one, two = parted(tmp_path)
    for folder, seeds in ((one, [1, 2]), (two, [3])):
        edited(folder, seeds=seeds)
        lines = [json.loads(line) for line in (FIRST / "results.jsonl").read_text().splitlines()]
        own = [line for line in lines if line["seed"] in seeds]
        (folder / "results.jsonl").write_text("".join(json.dumps(x, ensure_ascii=False) + "\n" for x in own))
    out = joined([one, two], tmp_path / "out")
    assert json.loads((out / "plan.json").read_text())["study"]["seeds"] == [1, 2, 3]
    assert len((out / "results.jsonl").read_text().splitlines()) == 24


def test_what_does_not_belong_together_is_told(tmp_path: Path) -> None:
    one, two = parted(tmp_path)
    edited(two, margin=0.02)
    with pytest.raises(UserError, match=r"differ in margin \(0.01 and 0.02\)"):
        joined([one, two], tmp_path / "out")
    edited(two, margin=0.01)
    path = two / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["weights_sha256"] = "another"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    with pytest.raises(UserError, match="ended differently"):
        joined([one, two], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("first", [0, 1])
def test_a_run_given_up_in_one_folder_is_taken_from_the_other(tmp_path: Path, first: int) -> None:
    """A worker that died three times says nothing of the run that ended elsewhere."""
    folders = parted(tmp_path)
    path = folders[1] / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    whole = (FIRST / "results.jsonl").read_text().splitlines()
    twice = next(line for line in lines if json.dumps(line, ensure_ascii=False) == whole[8])
    lines[lines.index(twice)] = {
        **{key: twice[key] for key in ("arm", "seed", "rung", "parameters", "learning_rate")},
        "status": "stopped",
        "reason": "its process ended three times",
    }
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    out = joined([folders[first], folders[1 - first]], tmp_path / "out")
    assert (out / "results.jsonl").read_bytes() == (FIRST / "results.jsonl").read_bytes()


def test_a_shard_without_runs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, _, folder = write_study(tmp_path)
    file.write_text(SEARCHING, encoding="utf-8")
    words = ["study", str(file), "--text", str(folder), "--out", str(tmp_path / "out")]
    assert run([*words, "--shard", "3/3"]) == 2
    assert "make 2 shards at most" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_shard_has_a_folder_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, _, folder = write_study(tmp_path)
    (tmp_path / "out").mkdir()
    for there, held in (({"shard": "1/2"}, "shard 1/2"), ({}, "the whole study")):
        plan = {**json.loads((FIRST / "plan.json").read_text()), **there}
        (tmp_path / "out" / "plan.json").write_text(json.dumps(plan))
        words = ["study", str(file), "--text", str(folder), "--out", str(tmp_path / "out")]
        assert run([*words, "--shard", "2/2"]) == 2
        assert f"holds {held}: give shard 2/2 a folder of its own" in capsys.readouterr().err


def test_arms_of_one_name_that_differ_are_told(tmp_path: Path) -> None:
    one, two = parted(tmp_path)
    plan = json.loads((two / "plan.json").read_text())
    plan["arms"][0]["label"] = "another"
    (two / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match="an arm 'decllm', and it is not the same"):
        joined([one, two], tmp_path / "out")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("text", [STUDY, SEARCHING], ids=["runs", "arms with their search"])
def test_two_shards_are_the_study_that_was_not_split(tmp_path: Path, text: str) -> None:
    file, _, folder = write_study(tmp_path)
    file.write_text(text, encoding="utf-8")
    finish(file, folder, tmp_path / "whole")
    parts = [tmp_path / "one", tmp_path / "two"]
    for n, out in enumerate(parts, 1):
        finish(file, folder, out, "--shard", f"{n}/2")
    done = [{path.parent.name for path in out.glob("runs/*/result.json")} for out in parts]
    assert done[0] and done[1] and not done[0] & done[1]
    out = joined(parts, tmp_path / "out")
    assert (out / "results.jsonl").read_bytes() == (tmp_path / "whole" / "results.jsonl").read_bytes()
    whole, again = (json.loads((place / "plan.json").read_text()) for place in (tmp_path / "whole", out))
    assert again["runs"] == whole["runs"] and again["arms"] == whole["arms"]
    assert again["rates"] == whole["rates"]
