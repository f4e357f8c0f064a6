"""What a study has found so far: results.jsonl and timings.jsonl, always rebuilt whole from the runs' own
files.

A run's result holds no times and no places, so an interrupted study's results.jsonl is that of an
uninterrupted one, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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


def check_earlier(out: Path, runs: Sequence[Run]) -> None:
    """Refuse to mix results: every run that is done must be the one that is planned.

    Raises:
        UserError: naming the first finished run that was another, and what differs.
    """
    for run in runs:
        folder = folder_of(out, run)
        if not is_done(folder):
            continue
        there = read_json(folder / "run.json", "the run")
        if identity_of(there) != run.identity:
            found = differences(there, json.loads(json.dumps(run.description)))
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise UserError(
                f"{folder} is the result of another study ({'; '.join(found[:3])}{more}): "
                f"set this back, or start afresh with another --out, such as --out {out}-2"
            )


def result_of(out: Path, run: Run) -> dict[str, Any] | None:
    """The line of results.jsonl for a run, None while it has none."""
    folder = folder_of(out, run)
    if is_done(folder):
        return read_json(folder / "result.json", "the result")
    if (folder / STOPPED).is_file():
        about = {"arm": run.arm, "seed": run.seed, "rung": run.rung, "learning_rate": run.learning_rate}
        return {**about, "status": "stopped", **read_json(folder / STOPPED, "the reason")}
    return None


def write_results(out: Path, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Rebuild OUT/results.jsonl and OUT/timings.jsonl, in the order of the plan; returns the results."""
    results = [result for run in runs if (result := result_of(out, run)) is not None]
    write_atomic(out / "results.jsonl", _lines(results))
    timings = []
    for run in runs:
        path = folder_of(out, run) / "timings.json"
        if is_done(folder_of(out, run)) and path.is_file():
            where = {"folder": f"runs/{run.name}", "arm": run.arm, "seed": run.seed, "rung": run.rung}
            timings.append({**where, "seconds": read_json(path, "the timings")})
    write_atomic(out / "timings.jsonl", _lines(timings))
    return results


def _lines(values: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
