"""Runs as jobs of SLURM, through submitit (https://github.com/facebookincubator/submitit).

One job is one attempt of one run. A job that is preempted or out of time is told so in time to write a checkpoint
(`SIGNAL_SECONDS` before) and handed in again; submitit's own executor for this machine (``slurm:local``) takes the
same way without a queue.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headtohead.errors import UserError
from headtohead.study.far import FarWorker, attempt
from headtohead.study.places import Place

MINUTES = 24 * 60
JOBS = 16
"""Jobs that are queued or running at a time, unless --workers says."""
SIGNAL_SECONDS = 90
OURS = (
    "cpus-per-task",
    "ntasks",
    "nodes",
    "job-name",
    "output",
    "error",
    "signal",
    "array",
    "wrap",
    "open-mode",
)
"""Options of sbatch that a run settles itself."""


def options(words: Sequence[str]) -> dict[str, str]:
    """``partition=cpu`` and the like, as sbatch names them.

    Raises:
        UserError: a word without ``=``, or an option that the study settles itself.
    """
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        key = key.strip().removeprefix("--").replace("_", "-")
        if not equals or not re.fullmatch(r"[a-z][a-z-]*", key) or not value.strip():
            raise UserError(f"--slurm {word}: give an option of sbatch with its value, such as partition=cpu")
        if key in OURS:
            raise UserError(f"--slurm {word}: {key} is settled by the study")
        found[key] = value.strip()
    if "time" in found:
        minutes(found["time"])
    return found


def minutes(time: str) -> int:
    """A time limit as sbatch reads it (minutes, [days-]hours:minutes:seconds, days-hours), in whole minutes.

    Raises:
        UserError: it is none.
    """
    shape = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if shape is None:
        raise UserError(
            f"--slurm time={time}: give minutes, hours:minutes:seconds or days-hours:minutes:seconds"
        )
    days, first, second, third = (None if part is None else int(part) for part in shape.groups())
    if days is not None:  # days-hours[:minutes[:seconds]]
        seconds = ((days * 24 + (first or 0)) * 60 + (second or 0)) * 60 + (third or 0)
    elif third is not None:
        seconds = ((first or 0) * 60 + (second or 0)) * 60 + third
    else:  # minutes[:seconds]
        seconds = (first or 0) * 60 + (second or 0)
    if seconds < 60:
        raise UserError(f"--slurm time={time}: a run needs a minute at least")
    return -(-seconds // 60)


class SlurmPlace(Place):
    """SLURM, or with `cluster` "local" submitit's executor for this machine."""

    def __init__(self, cluster: str, options: Mapping[str, str]) -> None:
        self.cluster, self.options = cluster, dict(options)
        self._folder = Path()
        self._jobs: list[SlurmWorker] = []

    def open(self, out: Path) -> None:
        self._folder = out.resolve() / "jobs"
        self._executor(1)

    def slots(self) -> int:
        return JOBS

    def process(self, folder: Path, threads: int) -> SlurmWorker:
        return SlurmWorker(folder, threads, self)

    def submit(self, folder: Path, token: str, threads: int) -> Any:
        """Hand in one attempt; returns submitit's job.

        Raises:
            UserError: SLURM refuses.
        """
        executor = self._executor(threads)
        # A terminal's Ctrl-C reaches the local executor's processes too, which inherit this: it is the study's alone.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return executor.submit(attempt, str(folder), token, threads)
        except Exception as error:  # whatever sbatch says, wrapped in several classes
            raise UserError(
                f"SLURM took no job for {folder.name}: {error}; the same command goes on where it was"
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def _executor(self, threads: int) -> Any:
        import submitit

        try:
            found = submitit.AutoExecutor(
                folder=self._folder, cluster=self.cluster, slurm_python=sys.executable
            )
        except RuntimeError as error:
            raise UserError(
                "this machine has no SLURM (no srun and sbatch): start the study where jobs are handed in, "
                "or try it with --on slurm:local"
            ) from error
        more = {key: value for key, value in self.options.items() if key != "time"}
        found.update_parameters(
            name="headtohead",
            timeout_min=minutes(self.options["time"]) if "time" in self.options else MINUTES,
            cpus_per_task=threads,
            slurm_signal_delay_s=SIGNAL_SECONDS,
            slurm_additional_parameters=more,
        )
        return found


class SlurmWorker(FarWorker):
    """One run as a job."""

    def __init__(self, folder: Path, threads: int, slurm: SlurmPlace) -> None:
        super().__init__(folder, threads)
        self.slurm = slurm
        self.job: Any = None

    def submit(self, token: str) -> None:
        self.job = self.slurm.submit(self.folder, token, self.threads)

    def outcome(self) -> dict[str, Any] | None:
        if self.job is None:
            return {"lost": "it was never handed in"}
        try:
            if not self.job.done():
                return None
            return self.job.result()
        except (
            Exception
        ) as error:  # preempted, out of time, its node gone: submitit has a class for few of these
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return {"lost": f"job {self.job.job_id}: {lines[0][:200] if lines else type(error).__name__}"}

    def cancel(self) -> None:
        if self.job is not None:
            self.job.cancel(check=False)
