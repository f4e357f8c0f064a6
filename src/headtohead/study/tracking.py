"""Trackers: what a run tells of itself, also to TensorBoard, Weights & Biases or trackio.

``metrics.jsonl`` is always written; a tracker is told the same numbers, under the same names, as they are made.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from headtohead.errors import UserError
from headtohead.validation import suggest

PROJECT = "headtohead"
NOT_TOLD = ("step", "spikes")


class Tracker(Protocol):
    """Where numbers go."""

    def log(self, values: Mapping[str, float], step: int) -> None: ...
    def close(self) -> None: ...


class TensorBoard:
    """Event files in FOLDER/tensorboard. A run that goes on hides what a killed one wrote past its checkpoint."""

    def __init__(self, folder: Path, name: str, description: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of the project headtohead. Offline (WANDB_MODE=offline) it needs no network."""

    def __init__(self, folder: Path, name: str, description: Mapping[str, Any], step: int) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        # wandb starts a process and warns on the way; the run's id lets a resumed run go on there too.
        self.run = wandb.init(
            project=PROJECT, name=name, dir=str(folder), config=dict(description),
            id=str(description["identity"])[:16], resume="allow", settings=wandb.Settings(silent=True),
        )  # fmt: skip

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of the project headtohead, in trackio's own folder (TRACKIO_DIR)."""

    def __init__(self, folder: Path, name: str, description: Mapping[str, Any], step: int) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        self.trackio = trackio
        trackio.init(project=PROJECT, name=name, config=dict(description), resume="allow")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.trackio.log(dict(values), step=step)

    def close(self) -> None:
        self.trackio.finish()


TRACKERS: dict[str, tuple[str, Callable[[Path, str, Mapping[str, Any], int], Tracker]]] = {
    "tensorboard": ("tensorboard", TensorBoard),
    "wandb": ("wandb", WeightsAndBiases),
    "trackio": ("trackio", Trackio),
}
"""By the word of ``--track``: the package that it needs, and what makes it."""


def check_tracker(kind: str) -> None:
    """Whether a tracker is known and its package installed; imports nothing of it.

    Raises:
        UserError: it isn't.
    """
    if kind not in TRACKERS:
        raise UserError(f"--track {kind} is unknown: {suggest(kind, TRACKERS)}")
    package = TRACKERS[kind][0]
    if importlib.util.find_spec(package) is None:
        raise UserError(f"--track {kind} needs the package {package}: pip install 'headtohead[{kind}]'")


class Tracked:
    """A tracker that looks on (`worker.Watcher`)."""

    def __init__(self, kind: str, folder: Path, description: Mapping[str, Any], step: int) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        name = f"{folder.resolve().name}"
        self.tracker = TRACKERS[kind][1](folder, name, description, step)

    def progress(self, stage: str, step: int, seconds_left: float, nats: float | None) -> None:
        """Every step is too often."""

    def line(self, kind: str, values: Mapping[str, Any]) -> None:
        named = "train" if kind == "metrics" else "held_out"
        self.tracker.log(dict(_flat(named, values)), int(values["step"]))

    def close(self) -> None:
        self.tracker.close()


def _flat(path: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{path}/{key}", value)
        elif isinstance(value, int | float) and key not in NOT_TOLD:
            yield f"{path}/{key}", float(value)
