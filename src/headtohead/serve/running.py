"""`headtohead serve`: loads the networks, listens, and stops in good order."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import torch
import uvicorn

from headtohead.errors import UserError
from headtohead.files import explain_os_error
from headtohead.generate.requests import Sampling
from headtohead.generate.runners import make_runner, settled
from headtohead.generate.running import Runner
from headtohead.interop.loading import Model
from headtohead.serve.app import application
from headtohead.serve.metrics import Metrics
from headtohead.serve.networks import MakeRunner, ServedModel, names_of, served
from headtohead.serve.protocol import protocol
from headtohead.serve.settings import Settings
from headtohead.serve.worker import Worker

Report = Callable[[str], None]


def serve(runs: Sequence[str], settings: Settings, make: MakeRunner, report: Report) -> None:
    """Serve networks until the process is asked to stop; then what is being written has `drain_seconds` to end.

    Raises:
        UserError: no network there, two of one name, limits that can't be, or a port that is taken.
    """
    settings.checked()
    named = names_of(runs)
    listening = listen(settings)
    try:
        models: list[ServedModel] = []
        for name, folder in named:
            began = time.monotonic()
            models.append(served(name, folder, settings, make, int(time.time())))
            _warm(models[-1])
            report(f"{name}: {folder} ({time.monotonic() - began:.1f} s)")
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        report(f"http://{shown}:{port}  the page; the API is at /v1")
        if settings.is_open:
            report("everybody who reaches this address may ask: --api-key KEY lets in only those who have it")
        settled()
        sys.setswitchinterval(0.001)  # the thread that computes hands over to the one that answers
        metrics = Metrics()
        worker = Worker(models, metrics, settings.queue)
        config = uvicorn.Config(application(models, settings, worker, metrics), **_uvicorn(settings))
        server = Stopping(config, worker, settings.drain_seconds, report)
        server.run(sockets=[listening])
    finally:
        listening.close()


def listen(settings: Settings) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: the address is none of this machine's, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((settings.host, settings.port))
        made.listen(1024)
        return made
    except OSError as error:
        made.close()
        reason = explain_os_error(error) if error.errno else str(error)
        raise UserError(f"cannot listen at {settings.host} port {settings.port}: {reason}") from None


def _uvicorn(settings: Settings) -> dict[str, Any]:
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what matters is told by ourselves
    return {
        "http": protocol(settings),
        "ws": "none",
        "lifespan": "on",
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "limit_concurrency": settings.connections,
        "timeout_keep_alive": 30,
        "timeout_graceful_shutdown": round(settings.drain_seconds)
        + 1,  # whole seconds; the last is for farewells
        "h11_max_incomplete_event_size": 2 * settings.header_bytes,
        "backlog": 1024,
    }


class Stopping(uvicorn.Server):
    """A server that ends by a signal without passing it on: Ctrl-C is how it is meant to end."""

    def __init__(self, config: uvicorn.Config, worker: Worker, drain_seconds: float, report: Report) -> None:
        super().__init__(config)
        self._worker, self._drain_seconds, self._report = worker, drain_seconds, report

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets what is being written end, a second doesn't."""
        if self.should_exit:
            self.force_exit = True
        else:
            self._report("stopping: what is being written may end; once more stops at once")
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no new connections; what is being written may end, and is cut short in time to tell its client."""
        late = asyncio.get_running_loop().call_later(self._drain_seconds, self._worker.end)
        try:
            await super().shutdown(sockets)
        finally:
            late.cancel()


def runner_maker(precision: str, threads: int | None) -> MakeRunner:
    """What writes, in a type and with so many threads.

    Raises:
        UserError: a type that isn't computed in.
    """
    if precision not in ("bf16", "fp32"):
        raise UserError(f"--precision {precision}: it should be bf16 or fp32")
    if threads is not None:
        torch.set_num_threads(threads)

    def make(model: Model, slots: int, capacity: dict[str, int]) -> Runner:
        kind = "bf16" if precision == "bf16" else "fp32"
        return make_runner(model.network, slots, capacity, precision=kind, threads=threads)

    return make


def _warm(model: ServedModel) -> None:
    """One short text, so that the first client doesn't wait for what is done once."""
    if model.engine is None:
        return
    prompt, _ = model.prompt("a", "prompt")
    model.engine.write([prompt], Sampling(max_tokens=2))
