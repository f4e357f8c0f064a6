"""A run as a process of its own: started by the study, gone with it.

A worker takes its folder's lock (freed by the kernel when it ends, however it ends) and never outlives its
parent: on Linux the kernel kills it (PR_SET_PDEATHSIG), elsewhere a thread looks for the parent's death.
Worker and parent share a process group, so one `kill -- -GROUP` reaches all; Ctrl-C is the parent's to
handle, workers ignore it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

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


@dataclass
class Worker:
    """One run's process. `deaths`: how often in a row a signal ended it without its getting further."""

    folder: Path
    threads: int
    process: subprocess.Popen[bytes] | None = None
    deaths: int = 0
    furthest: int = -1
    started: float = field(default=0.0)
    read: int = 0
    """How much of its log has been looked at, in bytes."""

    def start(self) -> None:
        """Start `headtohead run FOLDER`; what it prints goes to FOLDER/log.txt."""
        threads = str(self.threads)
        environment = {
            **os.environ,
            PARENT: str(os.getpid()),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            # Inductor's compile pool would be processes of their own, which outlive a killed worker.
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
        }
        with open(self.folder / "log.txt", "ab") as log:
            self.read = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headtohead", "run", str(self.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        self.started = time.monotonic()

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

    def ended(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self.process.poll() if self.process is not None else None

    def stop(self) -> None:
        """End it now. Its last checkpoint stays, so nothing but the steps since then is lost."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def last_line(self) -> str:
        """The last line it printed: the reason, when it ended by itself with an error."""
        try:
            lines = (
                (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            )
        except OSError:
            return ""
        return lines[-1].strip().removeprefix("error: ") if lines else ""


def wait_for(condition: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    """Whether `condition` came true within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True
