"""What a study has found so far: results.jsonl and timings.jsonl, always rebuilt whole from the runs' own
files.

A run's result holds no times and no places, so an interrupted study's results.jsonl is that of an
uninterrupted one, byte for byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headtohead.data.objectives import Objective, objective, of_region
from headtohead.data.stream import Sharded
from headtohead.errors import UserError
from headtohead.files import read_json, write_atomic
from headtohead.study.schedule import Run, differences, identity_of

STOPPED = "stopped.json"
"""Why a run could not go on (its process died, a disk was full): tried again when the study is started
again.
"""


def folder_of(out: Path, run: Run) -> Path:
    """A run's folder in a study's."""
    return out / "runs" / run.name


def is_done(folder: Path) -> bool:
    """Whether a run has its result (a loss that was not finite is one too: it would come out the same
    again).
    """
    return (folder / "result.json").is_file()


def read_run(folder: Path) -> dict[str, Any]:
    """FOLDER/run.json, as the study wrote it.

    Raises:
        UserError: there is none, or it is damaged or altered.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise UserError(
            f"{folder} holds no run.json: give the folder of a run, "
            "such as runs/first-look/runs/full-prefix-seed1"
        )
    again = "start its study again, which writes it anew"
    found = _read(path, "the run", again)
    if found.get("identity") != identity_of(found):
        raise UserError(f"the run {path} is not what its study wrote: {again}")
    return found


def learnt_by(folder: Path, description: Mapping[str, Any]) -> list[Objective]:
    """The objectives that a run trains by: its own, that by which its shards were cut, or those of its regions, in
    turn.
    """
    if "objective" in description:
        return [objective(description["objective"])]
    wanted = description["data"]
    if wanted.get("shards"):
        sharded = Sharded.open((folder / wanted["folder"]).resolve())
        return [objective(sharded.cut_by[wanted["train"]])]
    return [of_region(region) for region in wanted["regions"]]


def read_plan(out: Path, right: str) -> dict[str, Any]:
    """OUT/plan.json; `right` ends the error of a damaged one.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = out / "plan.json"
    if not path.is_file():
        raise UserError(f"{out} holds no plan.json: give the folder of a study, such as runs/first-look")
    found = _read(path, "the plan", right)
    missing = [
        key for key in ("study", "data", "arms", "runs") if not isinstance(found.get(key), dict | list)
    ]
    if missing:
        raise UserError(f"the plan {path} is damaged, it has no {missing[0]}: {right}")
    return found


def clear_checkpoints(folder: Path) -> None:
    """Of a run that is done. One that had to stop keeps them: its last good weights are there."""
    if is_done(folder) and _read(folder / "result.json", "the result", AGAIN).get("status") != "stopped":
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def check_earlier(out: Path, runs: Sequence[Run]) -> None:
    """Refuse to mix results: every run that is done must be the one that is planned.

    Raises:
        UserError: naming the first finished run that was another, and what differs; or a damaged result.
    """
    for run in runs:
        folder = folder_of(out, run)
        if not is_done(folder):
            continue
        there = _read(folder / "run.json", "the run", f"delete {folder}, and the study does this run again")
        if identity_of(there) != run.identity:
            found = differences(there, json.loads(json.dumps(run.description)))
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise UserError(
                f"{folder} is the result of another study ({'; '.join(found[:3])}{more}): "
                f"set this back, or start afresh with another --out, such as --out {out}-2"
            )
        result_of(out, run)


def result_of(out: Path, run: Run) -> dict[str, Any] | None:
    """The line of results.jsonl for a run, None while it has none."""
    folder = folder_of(out, run)
    about = {"arm": run.arm, "seed": run.seed, "rung": run.rung, "learning_rate": run.learning_rate}
    if is_done(folder):
        found = _read(folder / "result.json", "the result", AGAIN)
        if any(found.get(key) != value for key, value in about.items()) or "status" not in found:
            raise UserError(f"the result {folder / 'result.json'} is not that of its run: {AGAIN}")
        return found
    if (folder / STOPPED).is_file():
        return {**about, "status": "stopped", **_read(folder / STOPPED, "the reason", "delete it")}
    return None


AGAIN = "delete it, and the run is done again"


def _read(path: Path, what: str, right: str) -> dict[str, Any]:
    """A JSON object; the error says what would be right."""
    try:
        found = read_json(path, what)
    except UserError as error:
        raise UserError(f"{error}; {right}") from error
    if not isinstance(found, dict):
        raise UserError(f"{what} {path} is damaged: it holds no JSON object; {right}")
    return found


def write_results(out: Path, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Rebuild OUT/results.jsonl and OUT/timings.jsonl, in the order of the plan; returns the results. Those of a
    study's own search are in files of their own, tuning.jsonl and tuning-timings.jsonl.
    """
    results = [result for run in runs if (result := result_of(out, run)) is not None]
    searched = all(run.rung == "tuning" for run in runs)
    write_atomic(out / ("tuning.jsonl" if searched else "results.jsonl"), _lines(results))
    timings = []
    for run in runs:
        path = folder_of(out, run) / "timings.json"
        if is_done(folder_of(out, run)) and path.is_file():
            where = {"folder": f"runs/{run.name}", "arm": run.arm, "seed": run.seed, "rung": run.rung}
            timings.append({**where, "seconds": _read(path, "the timings", "delete it")})
    write_atomic(out / ("tuning-timings.jsonl" if searched else "timings.jsonl"), _lines(timings))
    return results


def _lines(values: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
