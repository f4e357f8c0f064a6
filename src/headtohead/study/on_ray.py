"""Runs as tasks of a Ray cluster (https://docs.ray.io).

Ray's driver lives in a process of its own, beside the study: when a cluster goes away it takes its driver with it,
and that must not be the study. The two talk in lines of JSON over pipes. Each task is one attempt of one run,
asks for as many CPUs as the run has threads, and starts it as a process of its own; Ray itself retries nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from headtohead.errors import UserError
from headtohead.study.far import FarWorker, attempt
from headtohead.study.places import Place
from headtohead.study.processes import PARENT, end_with_parent

CONNECT_SECONDS = 120.0
REACH_SECONDS = 10.0
POLL_SECONDS = 0.2
OBJECT_STORE = 100 * 2**20
"""Of a local Ray: results travel by files, so it holds next to nothing."""
DRIVER = "import sys; from headtohead.study.on_ray import drive; drive(sys.argv[1])"


class RayPlace(Place):
    """A Ray cluster: `address` is ``local`` (one started for the study), ``auto`` or ``ray://HOST:PORT``."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.cpus = 1
        self._driver: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._outcomes: dict[str, dict[str, Any]] = {}
        self._live: set[str] = set()
        self._log = Path("ray.log")
        self._reason = ""

    def open(self, out: Path) -> None:
        self._log = out / "ray.log"
        self._connect()

    def slots(self) -> int:
        return self.cpus

    def process(self, folder: Path, threads: int) -> RayWorker:
        return RayWorker(folder, threads, self)

    def close(self) -> None:
        if self._driver is None:
            return
        assert self._driver.stdin is not None
        with contextlib.suppress(OSError):
            self._driver.stdin.close()  # its sign to leave the cluster
        try:
            self._driver.wait(10)
        except subprocess.TimeoutExpired:
            self._driver.kill()
            self._driver.wait()
        self._driver = None

    # What workers ask ------------------------------------------------------------------------------------

    def submit(self, token: str, folder: Path, threads: int) -> None:
        """Start a task; connects again when the cluster went away.

        Raises:
            UserError: it is still away.
        """
        self._hear()
        if self._driver is None:
            self._connect()
        self._live.add(token)
        self._tell({"start": [str(folder), token, threads]})

    def outcome(self, token: str) -> dict[str, Any] | None:
        """What became of a task, None while it waits or runs."""
        self._hear()
        return self._outcomes.get(token)

    def cancel(self, token: str) -> None:
        """Kill a task, or take it out of the queue."""
        self._tell({"cancel": token})

    def _tell(self, message: Mapping[str, Any]) -> None:
        if self._driver is not None and self._driver.stdin is not None:
            with contextlib.suppress(OSError):  # it is gone: `_hear` will find out
                self._driver.stdin.write(json.dumps(message) + "\n")
                self._driver.stdin.flush()

    def _connect(self) -> None:
        where = {"local": "a local Ray", "auto": "the Ray cluster of this machine"}
        told = where.get(self.address, f"the Ray cluster at {self.address}")
        if self.address.startswith("ray://"):
            host, _, port = self.address.removeprefix("ray://").partition(":")
            try:
                socket.create_connection((host, int(port)), REACH_SECONDS).close()
            except (OSError, OverflowError) as error:
                raise UserError(
                    f"cannot reach {told} ({error}): is it up, and is this its client port?"
                ) from error
        with open(self._log, "ab") as log:
            self._driver = subprocess.Popen(
                [sys.executable, "-c", DRIVER, self.address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **_with_token(), PARENT: str(os.getpid()), "RAY_USAGE_STATS_ENABLED": "0"},
            )
        assert self._driver.stdout is not None
        self._lines = queue.Queue()
        threading.Thread(target=_read, args=(self._driver.stdout, self._lines), daemon=True).start()
        try:
            first = self._lines.get(timeout=CONNECT_SECONDS)
        except queue.Empty:
            first = {"error": f"no answer in {CONNECT_SECONDS:.0f} s"}
        if first is None or "cpus" not in first:
            reason = (first or {}).get("error", f"its driver ended, see {self._log}")
            self._driver.kill()
            self._driver.wait()
            self._driver = None
            raise UserError(
                f"cannot use {told}: {reason}; the runs keep their checkpoints, and the same command goes on"
            )
        self.cpus = max(1, int(first["cpus"]))

    def _hear(self) -> None:
        while self._driver is not None:
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                return
            if line is None:  # the driver is gone, and every task with it
                self._driver.kill()
                self._driver.wait()
                self._driver = None
                reason = self._reason or "the connection to Ray was lost"
                self._outcomes.update({token: {"lost": reason} for token in self._live})
                self._live.clear()
                self._reason = ""
            elif "error" in line:
                self._reason = line["error"]
            elif "token" in line:
                self._outcomes[line["token"]] = line["outcome"]
                self._live.discard(line["token"])


def _with_token() -> dict[str, str]:
    """Ray's own programs show the token of this user where there is one and nothing else is said; its client must be
    told to, and waits in vain at a cluster that asks for it.
    """
    named = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    there = named or (Path.home() / ".ray" / "auth_token").is_file()
    return {"RAY_AUTH_MODE": "token"} if there and "RAY_AUTH_MODE" not in os.environ else {}


class RayWorker(FarWorker):
    """One run as a task of Ray."""

    def __init__(self, folder: Path, threads: int, ray: RayPlace) -> None:
        super().__init__(folder, threads)
        self.ray, self.token = ray, ""

    def submit(self, token: str) -> None:
        self.token = token
        self.ray.submit(token, self.folder, self.threads)

    def outcome(self) -> dict[str, Any] | None:
        return self.ray.outcome(self.token)

    def cancel(self) -> None:
        self.ray.cancel(self.token)


def _read(stream: IO[str], lines: queue.Queue[dict[str, Any] | None]) -> None:
    for line in stream:
        lines.put(json.loads(line))
    lines.put(None)


# --------------------------------------------------------------------------------------------- the driver's side


def drive(address: str) -> None:
    """The driver: connects, starts and watches tasks as it is told on stdin, until that is closed."""
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever Ray prints goes to the log

    def answer(**message: Any) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        import ray

        local = {"num_cpus": os.cpu_count(), "object_store_memory": OBJECT_STORE, "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, **(local if address == "local" else {}))
        task = ray.remote(max_retries=0)(attempt)
        answer(cpus=ray.cluster_resources().get("CPU", 1))
        orders: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=_read, args=(sys.stdin, orders), daemon=True).start()
        _serve(ray, task, orders, answer)
        ray.shutdown()
    except Exception as error:  # Ray's errors are of many classes; each ends the connection
        answer(error=_told(error))
        os._exit(1)  # Ray's own ending may hang when its cluster is gone


def _serve(ray: Any, task: Any, orders: queue.Queue[dict[str, Any] | None], answer: Any) -> None:
    refs: dict[Any, str] = {}
    while True:
        with contextlib.suppress(queue.Empty):
            while (order := orders.get_nowait()) is not None:
                if "start" in order:
                    folder, token, threads = order["start"]
                    refs[task.options(num_cpus=threads).remote(folder, token, threads)] = token
                for ref in [ref for ref, token in refs.items() if token == order.get("cancel")]:
                    ray.cancel(ref, force=True)
            return
        if not refs:
            time.sleep(POLL_SECONDS)
            if not ray.is_initialized():
                raise ConnectionError("the connection to Ray was lost")
            continue
        for ref in ray.wait(list(refs), timeout=POLL_SECONDS)[0]:
            token = refs.pop(ref)
            try:
                outcome = ray.get(ref)
            except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
                # Not the run's own end: the task itself could not do its work there.
                outcome = {"refused": f"Ray's task failed: {_told(error)}"}
            except ray.exceptions.LocalRayletDiedError:
                raise  # every further task would end so at once, and count as its run's fault: connect anew
            except ray.exceptions.RayError as error:  # its worker or its machine is gone, or it was cancelled
                outcome = {"lost": _told(error)}
            answer(token=token, outcome=outcome)


def _told(error: Exception) -> str:
    """An error in one line: of a traceback, its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    line = lines[-1] if "Traceback" in str(error) or "(pid=" in lines[0] else lines[0]
    return line[:300]
