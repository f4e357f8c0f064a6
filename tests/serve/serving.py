"""Servers for the tests: real ones, on a port of their own, in a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn

from headtohead.data.objectives.base import MASK
from headtohead.data.tokenizers import ByteTokenizer
from headtohead.interop.folders import Held, write_folder
from headtohead.interop.frame import own_frame
from headtohead.model.architecture import Architecture, one_stack, two_stacks
from headtohead.model.transformer import Transformer
from headtohead.serve import running
from headtohead.serve.app import application
from headtohead.serve.metrics import Metrics
from headtohead.serve.networks import ServedModel, served
from headtohead.serve.settings import Settings
from headtohead.serve.worker import Worker
from headtohead.train.checkpoint import named_tensors

BYTES = ByteTokenizer((MASK,))
SIZES: dict[str, Any] = {"d_model": 32, "heads": 2, "d_head": 16, "vocabulary": BYTES.vocabulary, "d_ff": 64}
NETWORKS: dict[str, Architecture] = {
    "causal": one_stack("causal", "causal", depth=2, **SIZES),
    "pair": two_stacks("pair", "full", depths=(1, 2), **SIZES),
    "filler": one_stack("filler", "full", depth=2, **SIZES),
}


def write_networks(folder: Path) -> Path:
    """A model folder for each of `NETWORKS`, with weights so large that no byte is written over and over."""
    for name, a in NETWORKS.items():
        model = Transformer(a, seed=4)
        with torch.no_grad():
            for tensor in named_tensors(model).values():
                if tensor.ndim > 1:
                    tensor.mul_(3)
        BYTES.save(folder / "t.json")
        frame = own_frame(mask=BYTES.vocabulary - 1)
        write_folder(
            folder / name, Held(a, named_tensors(model), frame, (folder / "t.json").read_text("utf-8"))
        )
    return folder


@dataclass
class Running:
    """A server that listens at `url`."""

    url: str
    models: dict[str, ServedModel]
    worker: Worker
    settings: Settings
    server: uvicorn.Server
    said: list[str] = field(default_factory=list)

    def post(self, path: str, **content: Any) -> httpx.Response:
        """A request with a JSON body."""
        return httpx.post(self.url + path, json=content, timeout=60)

    def metric(self, name: str, **labels: str) -> float:
        """One figure of /metrics; 0 where there is none yet."""
        inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
        wanted = f"{name}{{{inside}}} " if inside else f"{name} "
        lines = httpx.get(self.url + "/metrics", timeout=60).text.splitlines()
        return next((float(line[len(wanted) :]) for line in lines if line.startswith(wanted)), 0.0)

    def idle(self, seconds: float = 20) -> bool:
        """Whether nothing is being written, at last."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            engines = [model.engine for model in self.models.values() if model.engine is not None]
            if not any(engine.busy for engine in engines) and not any(self.worker._open.values()):
                return all(engine.free_slots == engine.runner.slots for engine in engines)
            time.sleep(0.02)
        return False


@contextmanager
def serving(folder: Path, *names: str, **limits: Any) -> Iterator[Running]:
    """Serve the networks of `write_networks`, with some limits of one's own."""
    settings = Settings(
        **{"port": 0, "context": 128, "max_tokens": 64, "slots": 8, "queue": 16, **limits}
    ).checked()
    make = running.runner_maker("fp32", None)
    models = [served(name, folder / name, settings, make, 1) for name in names]
    metrics = Metrics()
    worker = Worker(models, metrics, settings.queue)
    listening = running.listen(settings)
    config = uvicorn.Config(application(models, settings, worker, metrics), **running._uvicorn(settings))
    said: list[str] = []
    server = running.Stopping(config, worker, settings.drain_seconds, said.append)
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
        assert thread.is_alive()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield Running(url, {model.name: model for model in models}, worker, settings, server, said)
    finally:
        server.should_exit = True
        thread.join(15)
        assert not thread.is_alive()
        listening.close()
