"""A run as a process of its own: started by the study, gone with it. `RunProcess` is what the study knows of one,
wherever it lives; `Worker` is one on this machine.

A worker takes its folder's lock (freed by the kernel when it ends, however it ends) and never outlives its
parent: on Linux the kernel kills it (PR_SET_PDEATHSIG), elsewhere a thread looks for the parent's death.
Worker and parent share a process group, so one `kill -- -GROUP` reaches all; Ctrl-C is the parent's to
handle, workers ignore it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARENT = "HEADTOHEAD_PARENT"
"""Environment variable: the process id of the study that started a worker."""
PR_SET_PDEATHSIG = 1
WATCH_SECONDS = 0.5
NOTE = "note: "
"""How a run's notices begin (`train.runtime.to_stderr`; importing it here would import torch)."""


def end_with_parent() -> None:
    """Called first thing in a worker. A run started by hand has no study behind it and goes on by itself."""
    started_by = os.environ.get(PARENT)
    if started_by is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = int(started_by)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it died before the line above took hold
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


@dataclass(frozen=True)
class Ending:
    """How a run's process ended. `how` it was ended from outside ("killed"), with a `detail`: it goes on from its
    checkpoint. `refused`: the place can't do it, and why. Neither: by itself, with `code`.
    """

    code: int = 0
    how: str | None = None
    detail: str = ""
    refused: str | None = None


def ending_of(code: int) -> Ending:
    """Of an exit code, which is negative, or over 128, for a signal; 130 is a run that was asked to end."""
    if code == 130:
        return Ending(code, "stopped", "asked to end")
    if code < 0 or code > 128:
        return Ending(code, "killed", f"signal {-code if code < 0 else code - 128}")
    return Ending(code)


def environment(threads: int) -> dict[str, str]:
    """What the environment of a run's process says, on whatever machine."""
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        # Inductor's compile pool would be processes of their own, which outlive a killed worker.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }


class RunProcess(ABC):
    """The process of the run in `folder`, wherever it lives; what it prints is in FOLDER/log.txt.

    `deaths`: how often in a row it was ended from outside without its getting further than `furthest`.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder, self.threads = folder, threads
        self.deaths, self.furthest = 0, -1
        self.started = 0.0
        self.read = 0  # how much of its log has been looked at, in bytes

    @abstractmethod
    def start(self) -> None:
        """Start ``headtohead run FOLDER``, or start it again.

        Raises:
            UserError: the place can't be reached.
        """

    @abstractmethod
    def ended(self) -> Ending | None:
        """How it ended; None as long as it runs, or waits to. To be asked often: that keeps it alive."""

    @abstractmethod
    def ask_to_end(self) -> None:
        """Have it write a checkpoint and end."""

    @abstractmethod
    def stop(self) -> None:
        """End it now. Its last checkpoint stays, so nothing but the steps since then is lost."""

    def waits(self) -> bool:
        """Whether it is queued still."""
        return False

    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.started

    def progress(self) -> dict[str, Any] | None:
        """What it last said of itself, None when it said nothing yet."""
        try:
            return json.loads((self.folder / "progress.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def look_from_here(self) -> None:
        """What stands in its log is of an earlier start."""
        try:
            self.read = (self.folder / "log.txt").stat().st_size
        except OSError:
            self.read = 0

    def notes(self) -> list[str]:
        """What it told since it was last asked: what the machine lacks, a checkpoint that is damaged."""
        try:
            with open(self.folder / "log.txt", "rb") as log:
                log.seek(self.read)
                lines = log.read().splitlines(keepends=True)
        except OSError:
            return []
        whole = [line for line in lines if line.endswith(b"\n")]
        self.read += sum(map(len, whole))
        texts = [line.decode("utf-8", "replace").strip() for line in whole]
        return [text.removeprefix(NOTE) for text in texts if text.startswith(NOTE)]

    def last_line(self) -> str:
        """The last line it printed: the reason, when it ended by itself with an error."""
        try:
            lines = (
                (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            )
        except OSError:
            return ""
        return lines[-1].strip().removeprefix("error: ") if lines else ""


class Worker(RunProcess):
    """A run on this machine."""

    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.look_from_here()
        with open(self.folder / "log.txt", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headtohead", "run", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment(self.threads), PARENT: str(os.getpid())},
            )
        self.started = time.monotonic()

    def ended(self) -> Ending | None:
        code = self.process.poll() if self.process is not None else None
        return None if code is None else ending_of(code)

    def ask_to_end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def wait_for(condition: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    """Whether `condition` came true within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True
