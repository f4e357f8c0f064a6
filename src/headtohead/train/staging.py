"""A checkpoint folder in the making: under another name until it is whole, so that a kill at any moment leaves whole
checkpoints only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from headtohead.errors import UserError
from headtohead.files import explain_os_error, sync_folder

STATE = "state.json"
_UNFINISHED = ".unfinished-"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, newest first, not yet verified."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name)]
    return sorted(found, key=_step_of, reverse=True)


class Stage:
    """A checkpoint in the making, gone when making it fails.

    ``begin``, then the files, then ``finish``, within the context, which makes one line of a full disk.
    """

    def __init__(self, folder: Path, step: int, keep: int) -> None:
        self.folder, self.step, self.keep = folder, step, keep
        self.target = folder / f"step-{step:08d}"
        self.unfinished = folder / f"{_UNFINISHED}{self.target.name}"
        self._writing = self.target

    def begin(self) -> None:
        """An empty folder under the other name."""
        self._writing = self.unfinished
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.unfinished.exists():
            shutil.rmtree(self.unfinished)
        self.unfinished.mkdir()

    def write(self, name: str, content: bytes) -> None:
        """One file, on the disk when this returns."""
        self._writing = self.target / name
        _write_synced(self.unfinished / name, content)

    def finish(self, record: Mapping[str, Any]) -> None:
        """``state.json``, and the checkpoint is there; of older ones, those that are not to be kept are deleted."""
        self.write(STATE, json.dumps({**record, "sha256": digest_of(record)}, indent=1).encode())
        self._writing = self.target
        sync_folder(self.unfinished)
        _discard(self.target)  # there only when it is damaged: the run went on from before it
        os.rename(self.unfinished, self.target)
        sync_folder(self.folder)
        # What is newer than this checkpoint was damaged, else the run would have gone on from there.
        earlier = [path for path in checkpoints(self.folder) if _step_of(path) < self.step]
        for path in checkpoints(self.folder):
            if path != self.target and path not in earlier[: self.keep - 1]:
                _discard(path)

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            shutil.rmtree(self.unfinished, ignore_errors=True)
            raise UserError(
                f"cannot write the checkpoint {self._writing}: {explain_os_error(error)}; "
                "earlier checkpoints are untouched"
            ) from error


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-made in ``folder``."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def digest_of(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _discard(path: Path) -> None:
    """Delete a checkpoint, first out of sight: half a checkpoint must never look like one."""
    if path.exists():
        hidden = path.with_name(f"{_UNFINISHED}old-{path.name}")
        shutil.rmtree(hidden, ignore_errors=True)
        os.rename(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
