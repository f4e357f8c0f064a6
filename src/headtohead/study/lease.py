"""The thread between a study and a run on another machine: a small file in the run's folder, which both can see.

The study grants a lease (a token for this attempt) and renews it every few seconds; the run looks at it once a
second. A lease that is taken back, granted to another attempt, or not renewed for a minute ends the run, which
writes a checkpoint first: so a killed study leaves nothing running, jobs that wait in a queue after its death
end as they start, and two attempts never write side by side. Beats are counted, not dated: clocks of two
machines differ.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import threading
import time
from pathlib import Path
from typing import Any

LEASE = "HEADTOHEAD_LEASE"
"""Environment variable: the token of the attempt that a run is."""
FILE = "lease.json"
BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0
"""Without a beat for so long, the study is taken for dead."""
WATCH_SECONDS = 1.0
GRACE_SECONDS = 30.0
"""How long a run may take to write a checkpoint once its lease has ended."""
LOCK_SECONDS = STALE_SECONDS + GRACE_SECONDS + 10.0
"""How long a run waits for a folder that an earlier attempt, cut off from the study, may still hold."""


class Lease:
    """The study's side: one for each run."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.token = ""
        self._beats = 0
        self._beaten = 0.0
        self._end = False

    def grant(self) -> str:
        """A new attempt's token; the former attempt ends.

        Raises:
            OSError: the file can't be written.
        """
        self.token, self._beats, self._end = secrets.token_hex(8), 0, False
        self._write()
        return self.token

    def beat(self) -> None:
        """Say that the study lives: to be called often, written seldom."""
        if self.token and time.monotonic() - self._beaten > BEAT_SECONDS:
            with contextlib.suppress(
                OSError
            ):  # a full disk is told by the run; the next beat may get through
                self._write()

    def ask_to_end(self) -> None:
        """Have the run write a checkpoint and end."""
        self._end = True
        self._beaten = 0.0
        self.beat()

    def withdraw(self) -> None:
        """The attempt is over, whatever is left of it."""
        self.token = ""
        self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        self._beats += 1
        self._beaten = time.monotonic()
        beside = self.path.with_suffix(".tmp")
        content = {"token": self.token, "beat": self._beats, "end": self._end}
        beside.write_text(json.dumps(content), encoding="utf-8")
        beside.replace(self.path)


def read(folder: Path) -> dict[str, Any] | None:
    """The lease as it stands; None when there is none.

    Raises:
        OSError, ValueError: it can't be read just now.
    """
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if not isinstance(found, dict):
        raise ValueError("a lease is an object")
    return found


def obey(folder: Path, stale: float = STALE_SECONDS, grace: float = GRACE_SECONDS) -> None:
    """Called first thing in a run: where it was started under a lease, it ends with it.

    SIGUSR2, by which SLURM tells that time is nearly up, is a request to end as well.
    """
    token = os.environ.get(LEASE)
    if token is None:
        return
    signal.signal(signal.SIGUSR2, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    threading.Thread(target=_watch, args=(folder, token, stale, grace), daemon=True).start()


def _watch(folder: Path, token: str, stale: float, grace: float) -> None:
    beat, heard = -1, time.monotonic()
    while time.monotonic() - heard < stale:
        try:
            lease = read(folder)
        except (OSError, ValueError):
            lease = {"token": token, "beat": beat}  # the file system hiccups: as if nothing had been heard
        if lease is None or lease.get("token") != token or lease.get("end"):
            break
        if lease.get("beat") != beat:
            beat, heard = lease.get("beat"), time.monotonic()
        time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    os._exit(1)  # too long in something that hears no signal: the last checkpoint is there
