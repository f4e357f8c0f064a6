"""Where the processes of a study's runs live: on this machine, on a Ray cluster, or as SLURM jobs."""

from __future__ import annotations

import importlib.util
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from headtohead.errors import UserError
from headtohead.study.processes import RunProcess, Worker

FORMS = "ray, ray:auto, ray://HOST:PORT, slurm or slurm:local"


class Place(ABC):
    """Starts runs somewhere. The supervisor knows no more of it than this and `RunProcess`."""

    def open(self, out: Path) -> None:
        """Get ready, for a study in `out`.

        Raises:
            UserError: it can't be reached.
        """
        return

    @abstractmethod
    def slots(self) -> int:
        """How many runs go side by side unless the person says. Asked once it is open."""

    @abstractmethod
    def process(self, folder: Path, threads: int) -> RunProcess:
        """The process of the run in `folder`, not started yet."""

    def close(self) -> None:
        """Let go of it; no process of the study is left there."""
        return


class Here(Place):
    """Processes of this machine."""

    def slots(self) -> int:
        return os.cpu_count() or 1

    def process(self, folder: Path, threads: int) -> RunProcess:
        return Worker(folder, threads)


def place(on: str | None, slurm: Sequence[str] = ()) -> Place:
    """The place that ``--on`` names, with ``--slurm``'s options of a job.

    Raises:
        UserError: an unknown form, an extra that is not installed, an option without a value.
    """
    if slurm and not (on or "").startswith("slurm"):
        raise UserError("--slurm is for --on slurm: give both")
    if on is None:
        return Here()
    if on in ("ray", "ray:auto") or re.fullmatch(r"ray://[^/\s:]+:\d{1,5}", on):
        _need("ray", "ray", on)
        from headtohead.study.on_ray import RayPlace

        return RayPlace({"ray": "local", "ray:auto": "auto"}.get(on, on))
    if on in ("slurm", "slurm:local"):
        _need("submitit", "slurm", on)
        from headtohead.study.on_slurm import SlurmPlace, options

        return SlurmPlace("local" if on == "slurm:local" else "slurm", options(slurm))
    raise UserError(f"--on {on}: it should be {FORMS}")


def _need(module: str, extra: str, on: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UserError(f"--on {on} needs {module}: pip install 'headtohead[{extra}]'")
