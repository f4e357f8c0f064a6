"""Checkpoints of a network that several processes hold in parts (FSDP2).

Each rank writes its own parts, by PyTorch's distributed checkpoints in their safetensors form, which holds no pickle:

- ``weights/shard-00001-….safetensors`` …: the parameters, with the place of each part in the whole;
- ``optimizer/shard-00001-….safetensors`` …: the optimizer's tensors, and each rank's random state;
- ``average/…``: the mean of the weights so far, while a recipe's ``average_last`` takes it;
- ``state.json``: as in a single process's, with size and SHA-256 of every file.

Parts are put together, or cut anew, for whoever goes on: one process, or another number of ranks. No file is opened
before its checksum was found right, and what one rank finds damaged is damaged for all.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts

from headtohead.errors import UserError
from headtohead.files import sha256_of, sync_folder
from headtohead.train.checkpoint import (
    SHARDED,
    Damaged,
    device_of,
    named_state,
    named_tensors,
    place_for,
)
from headtohead.train.devices import RANDOM, random_states, set_random_states
from headtohead.train.parallel import Team
from headtohead.train.staging import Stage

WEIGHTS, OPTIMIZER, AVERAGE = "weights", "optimizer", "average"


@dataclass(frozen=True)
class Parts:
    """A checkpoint in parts, verified; ``restore`` reads of it what this process needs."""

    path: Path
    step: int
    identity: dict[str, Any]
    state: dict[str, Any]
    team: Team

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Put the weights into ``model`` and, with ``optimizer``, its state too; the random state only where there
        are as many ranks as wrote it. All ranks do it together.

        Raises:
            UserError: the weights are of another network.
        """
        own = {name: tensor.detach() for name, tensor in named_tensors(model).items()}
        saved = self._saved(WEIGHTS)
        wrong = sorted(own.keys() ^ saved.keys()) or [n for n, t in own.items() if t.shape != saved[n].size]
        if wrong:
            raise UserError(f"{self.path} holds the weights of another network: '{wrong[0]}' does not fit")
        self._read(WEIGHTS, own)
        if optimizer is None:
            return
        parameters = dict(model.named_parameters())
        saved = self._saved(OPTIMIZER)
        places: dict[str, Tensor] = {}
        for key, about in saved.items():
            if not key.startswith(RANDOM):
                places[key] = place_for(about.size, about.properties.dtype, parameters[key.split(".", 1)[1]])
        device = device_of(model)
        same_size = sum(key.startswith(f"{RANDOM}.rank") for key in saved) == self.team.size
        states = random_states(device)
        mine = {_of_rank(name, self.team): torch.empty_like(state) for name, state in states.items()}
        mine = {key: state for key, state in mine.items() if same_size and key in saved}
        self._read(OPTIMIZER, {**places, **mine})
        optimizer.state.clear()
        for key, tensor in places.items():
            slot, name = key.split(".", 1)
            optimizer.state[parameters[name]][slot] = tensor
        found = {
            name: mine[_of_rank(name, self.team)] for name in states if _of_rank(name, self.team) in mine
        }
        set_random_states(found, device)

    def average_for(self, model: nn.Module) -> dict[str, Tensor]:
        """The mean of the weights so far, in the parts that ``model`` is in; empty where none was taken."""
        if not (self.path / AVERAGE).is_dir():
            return {}
        places = {name: torch.zeros_like(t, requires_grad=False) for name, t in named_tensors(model).items()}
        self._read(AVERAGE, places)
        return places

    def _saved(self, part: str) -> dict[str, TensorStorageMetadata]:
        return HuggingFaceStorageReader(str(self.path / part)).read_metadata().state_dict_metadata  # pyright: ignore[reportReturnType]

    def _read(self, part: str, tensors: dict[str, Tensor]) -> None:
        reader = HuggingFaceStorageReader(str(self.path / part))
        with warnings.catch_warnings():
            # That one process reads what many wrote is no accident.
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            load_parts(tensors, storage_reader=reader, no_dist=self.team.size == 1)


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    state: Mapping[str, Any],
    average: Mapping[str, Tensor],
    keep: int,
    team: Team,
) -> Path:
    """``checkpoint.save`` of a network in parts."""
    stage = Stage(folder, step, keep)
    states = {_of_rank(name, team): tensor for name, tensor in random_states(device_of(model)).items()}
    parts = {
        WEIGHTS: {name: tensor.detach() for name, tensor in named_tensors(model).items()},
        OPTIMIZER: {**named_state(model, optimizer), **states},
        **({AVERAGE: dict(average)} if average else {}),
    }

    def begin() -> None:
        with stage:
            if team.leads:
                stage.begin()
                for part in parts:
                    (stage.unfinished / part).mkdir()

    def write() -> dict[str, dict[str, Any]]:
        files: dict[str, dict[str, Any]] = {}
        with stage:
            for part, tensors in parts.items():
                _write(stage.unfinished / part, tensors)
                for path in sorted((stage.unfinished / part).glob(f"shard-{team.rank + 1:05d}-*")):
                    files[f"{part}/{path.name}"] = _synced(path)
        return files

    def finish() -> None:
        if team.leads:
            with stage:
                for part in parts:
                    sync_folder(stage.unfinished / part)
                stage.finish(
                    {
                        "format": SHARDED,
                        "step": step,
                        "identity": dict(identity),
                        "state": dict(state),
                        "files": {name: about for files in everyones for name, about in files.items()},
                    }
                )

    team.together(begin)
    everyones = team.gather(team.together(write))
    team.together(finish)
    return stage.target


def load(path: Path, record: Mapping[str, Any], team: Team) -> Parts:
    """The checkpoint in parts at ``path``, of which ``record`` tells; verified, by the ranks of a team in shares.

    Raises:
        Damaged: something is missing, cut short or altered, or is there that was not written.
    """
    noted: dict[str, dict[str, Any]] = record["files"]
    there = {
        f"{part}/{found.name}" for part in (WEIGHTS, OPTIMIZER, AVERAGE) for found in (path / part).glob("*")
    }
    for name in sorted(noted.keys() ^ there):
        raise Damaged(f"{name} is missing" if name in noted else f"{name} is none of its files")
    for name in sorted(noted)[team.rank :: team.size]:
        size = (path / name).stat().st_size
        if size < noted[name]["bytes"]:
            raise Damaged(f"{name} is cut short: {size} of {noted[name]['bytes']} bytes")
        if sha256_of(path / name) != noted[name]["sha256"]:
            raise Damaged(f"{name} was altered: its SHA-256 is not the one noted in state.json")
    return Parts(path, record["step"], record["identity"], record["state"], team)


def _of_rank(name: str, team: Team) -> str:
    """The name of a rank's own random state: ``random_state.rank1``, ``random_state.cuda.rank1``."""
    return f"{name}.rank{team.rank}"


def _write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """This rank's part of the tensors, all ranks together.

    Raises:
        OSError: of whichever rank could not write.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save_parts(dict(tensors), storage_writer=writer)
    except CheckpointException as error:
        reasons = [reason for reason, _ in error.failures.values()]
        raise next((reason for reason in reasons if isinstance(reason, OSError)), reasons[0]) from error


def _synced(path: Path) -> dict[str, Any]:
    """Bring a file to the disk; its size and checksum."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
