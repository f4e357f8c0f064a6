"""A run on another machine: started there as the same command, watched through the folder that both machines see.

What a scheduler is asked is only to start `attempt` somewhere and to say when it is over. All else (what the run
prints, how far it is, the request to end) goes through files in the run's folder, so a file system that all
machines share is needed; `attempt` looks for it before anything else.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from abc import abstractmethod
from pathlib import Path
from typing import Any

from headtohead.errors import UserError
from headtohead.files import explain_os_error
from headtohead.study.lease import LEASE, Lease, read
from headtohead.study.processes import PARENT, Ending, RunProcess, ending_of, environment

WHERE = "where.json"
SEE_SECONDS = 30.0
"""How long a network file system may take to show a file that another machine has written."""


def attempt(folder: str, token: str, threads: int) -> dict[str, Any]:
    """What runs on the other machine: one attempt of the run in `folder`, to its end.

    Returns its exit `code`, or why the run was `refused`. An attempt whose lease is no longer its own when it
    starts (it waited in a queue, and the study has ended) does nothing.
    """
    path, host = Path(folder), socket.gethostname()
    end = time.monotonic() + SEE_SECONDS
    while True:
        try:
            lease = read(path)
        except (OSError, ValueError):
            lease = None
        if lease is not None and lease.get("token") == token:
            break
        if time.monotonic() > end:
            if path.is_dir():
                return {"code": 130, "host": host}
            return {"refused": f"the machine {host} does not see {folder}: --out should be on a file system "
                    "that all machines share, under the same path"}  # fmt: skip
        time.sleep(0.2)
    # The run ends with this process, as at home with the study.
    there = {**os.environ, **environment(threads), PARENT: str(os.getpid()), LEASE: token}
    with open(path / "log.txt", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "headtohead", "run", folder],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=there,
        )
    (path / WHERE).write_text(json.dumps({"token": token, "host": host, "pid": process.pid}), "utf-8")
    return {"code": process.wait(), "host": host}


class FarWorker(RunProcess):
    """A run under a lease. What the scheduler does is the subclass's."""

    def __init__(self, folder: Path, threads: int) -> None:
        super().__init__(folder.resolve(), threads)
        self.lease = Lease(self.folder)
        self._running = False

    @abstractmethod
    def submit(self, token: str) -> None:
        """Hand `attempt` to the scheduler.

        Raises:
            UserError: it can't be reached, or refuses.
        """

    @abstractmethod
    def outcome(self) -> dict[str, Any] | None:
        """What `attempt` returned, or `lost` with the reason; None as long as it waits or runs."""

    @abstractmethod
    def cancel(self) -> None:
        """Take it out of the queue, or kill it."""

    def start(self) -> None:
        self._running = False
        self.look_from_here()
        (self.folder / WHERE).unlink(missing_ok=True)
        try:
            token = self.lease.grant()
        except OSError as error:
            raise UserError(f"cannot write {self.lease.path}: {explain_os_error(error)}") from error
        self.submit(token)

    def ended(self) -> Ending | None:
        found = self.outcome()
        if found is None:
            self.lease.beat()
            self._look_whether_it_runs()
            return None
        self.lease.withdraw()
        (self.folder / WHERE).unlink(missing_ok=True)
        if "refused" in found:
            return Ending(refused=found["refused"])
        if "lost" in found:
            return Ending(how="lost", detail=found["lost"])
        return ending_of(int(found["code"]))

    def ask_to_end(self) -> None:
        self.lease.ask_to_end()
        if not self._running:
            self.cancel()

    def stop(self) -> None:
        self.lease.withdraw()
        if self.outcome() is None:
            self.cancel()

    def seconds(self) -> float:
        return time.monotonic() - self.started if self._running else 0.0

    def progress(self) -> dict[str, Any] | None:
        found = super().progress()
        return found if self._running or found is None else {**found, "stage": "queued", "seconds_left": None}

    def waits(self) -> bool:
        return not self._running

    def _look_whether_it_runs(self) -> None:
        if not self._running and (self.folder / WHERE).exists():
            self._running, self.started = True, time.monotonic()
