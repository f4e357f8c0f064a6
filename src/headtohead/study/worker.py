"""One run, from its description to its result: what `headtohead run DIR` does.

The folder holds everything: run.json says what to do, checkpoints/ where a killed run goes on from,
result.json (written last, whole or absent) that it is done. Nothing in result.json depends on how often the
run was stopped or how long it took; times are in timings.json.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from headtohead.errors import Interrupted, UserError
from headtohead.files import FolderLock, write_atomic
from headtohead.study import lease
from headtohead.study.processes import PARENT, end_with_parent, wait_for
from headtohead.study.results import clear_checkpoints, read_run

if TYPE_CHECKING:
    from headtohead.train.parallel import Team

LOCK_SECONDS = 20.0
"""How long a study and its workers wait for a folder whose last owner was killed a moment ago."""
PROGRESS_SECONDS = 0.5
LAST_WORDS_SECONDS = 2.0
"""How long the others of a team let its first process tell what is wrong: torchrun ends all when one has ended."""


class Watcher(Protocol):
    """Who looks on while a run is done: a display, a tracker."""

    def progress(self, stage: str, step: int, seconds_left: float, nats: float | None) -> None:
        """After each step; see `training.Report`."""

    def line(self, kind: str, values: Mapping[str, Any]) -> None:
        """A line of the metrics, or a point of the curve; see `train.loop.train`."""


@contextmanager
def processes() -> Iterator[Team | None]:
    """The processes that torchrun started for one run, this one among them; None where it is the only one.

    What is wrong for all is told by the first of them; the others end with its exit code.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield None
        return
    from headtohead.train.parallel import Lost, assembled, leave

    with assembled() as team:
        try:
            yield team
        except UserError as error:
            if team.leads or isinstance(error, Lost):
                raise
            time.sleep(LAST_WORDS_SECONDS)
            leave(error.exit_code)


def under_torchrun(command: str) -> str:
    """How torchrun is told to do a command with as many processes as there are here."""
    return f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', '1')} -m {command}"


def run(
    folder: Path, watchers: Sequence[Watcher] = (), go_on: str | None = None, team: Team | None = None
) -> int:
    """Do, or go on with, the run that FOLDER/run.json describes. 0 when FOLDER/result.json is there in the
    end.

    Args:
        go_on: the command that goes on with it, told when it is interrupted; left out, `headtohead run FOLDER`.
        team: the processes that do it together, each of which calls this; left out, those of torchrun if it
            started this one.

    Raises:
        UserError: no description, a folder in use, data that is not what the description names, a full disk.
        Interrupted: by Ctrl-C or SIGTERM, after a checkpoint.
    """
    if team is not None:
        return _run_together(folder, watchers, go_on, team)
    with processes() as found:
        if found is not None:
            return _run_together(folder, watchers, go_on, found)
    end_with_parent()
    description = read_run(folder)
    lease.obey(folder)
    far = lease.LEASE in os.environ
    lock = claimed(folder, lease.LOCK_SECONDS if far else LOCK_SECONDS if PARENT in os.environ else 0.0)
    try:
        if not (folder / "result.json").exists():
            _run(folder, description, watchers, go_on or f"headtohead run {folder}")
        clear_checkpoints(folder)
    finally:
        lock.release()
    return 0


def _run_together(folder: Path, watchers: Sequence[Watcher], go_on: str | None, team: Team) -> int:
    """`run`, by several processes: the first one claims the folder, tells, and writes all but its checkpoints."""

    def begun() -> tuple[dict[str, Any], FolderLock | None]:
        return read_run(folder), claimed(folder, LOCK_SECONDS) if team.leads else None

    description, lock = team.together(begun)
    try:
        if not team.told((folder / "result.json").exists):
            go_on = go_on or under_torchrun(f"headtohead run {folder}")
            _run(folder, description, watchers, go_on, team)
        if team.leads:
            clear_checkpoints(folder)
    finally:
        if lock is not None:
            lock.release()
    return 0


def claimed(folder: Path, seconds: float) -> FolderLock:
    """The folder's lock, waited for; the process that was killed with it may need a moment to be gone.

    Raises:
        UserError: naming the process that holds it still.
    """
    lock = FolderLock(folder)
    refused: list[UserError] = []

    def taken() -> bool:
        try:
            lock.acquire()
        except UserError as error:
            refused[:] = [error]
            return False
        return True

    if not wait_for(taken, seconds, pause=0.2):
        raise refused[0]
    return lock


def _run(
    folder: Path,
    description: dict[str, Any],
    watchers: Sequence[Watcher],
    go_on: str,
    team: Team | None = None,
) -> None:
    from headtohead.study.training import trained  # torch: only here, so that all refusals above are quick
    from headtohead.train.loop import Stopped
    from headtohead.train.parallel import ALONE

    team = team or ALONE
    began = time.monotonic()
    noted = _Progress(folder, description)

    def report(stage: str, step: int, seconds_left: float, nats: float | None) -> None:
        if not team.leads:
            return
        noted(stage, step, seconds_left, nats)
        for watcher in watchers:
            watcher.progress(stage, step, seconds_left, nats)

    def on_line(kind: str, values: Mapping[str, Any]) -> None:
        for watcher in watchers:
            watcher.line(kind, values)

    try:
        result, weights, seconds = trained(folder, description, report, on_line, team)
    except Stopped as stop:
        raise Interrupted(f"{stop}; go on with: {go_on}") from None
    if not team.leads:
        return
    if weights is not None:
        write_atomic(folder / "model.safetensors", weights)
        write_atomic(folder / "architecture.json", _json(description["architecture"]))
    seconds["this_start"] = time.monotonic() - began
    write_atomic(folder / "timings.json", _json({key: round(value, 2) for key, value in seconds.items()}))
    write_atomic(folder / "result.json", _json(result))
    if result["status"] == "stopped":
        print(result["reason"], file=sys.stderr)


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


class _Progress:
    """FOLDER/progress.json, for the study's display: seldom, and not worth a sync to the disk."""

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.path = folder / "progress.json"
        self.steps = int(description["recipe"]["steps"])
        self.written = 0.0

    def __call__(self, stage: str, step: int, seconds_left: float, nats: float | None) -> None:
        now = time.monotonic()
        if now - self.written < PROGRESS_SECONDS and step < self.steps:
            return
        self.written = now
        line = {"stage": stage, "step": step, "steps": self.steps, "seconds_left": seconds_left, "nats": nats}
        beside = self.path.with_suffix(".tmp")
        try:
            beside.write_text(json.dumps(line), encoding="utf-8")
            beside.replace(self.path)
        except OSError:  # the display is no reason to end a run; a full disk shows at the next checkpoint
            pass
