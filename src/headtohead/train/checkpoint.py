"""Checkpoints: exact, whole or absent, and never opened without their checksum.

A checkpoint is a folder ``step-00000500`` of three files, or four:

- ``weights.safetensors``: parameters and persistent buffers, fp32;
- ``optimizer.safetensors``: the optimizer's tensors by parameter name, and torch's random state;
- ``average.safetensors``: the mean of the weights so far, while a recipe's ``average_last`` takes it;
- ``state.json``: the step, the run's identity, the loop's own state, size and SHA-256 of the other files, and a
  SHA-256 of itself.

The place in the data needs no file of its own: the batch of a step is a function of the step. The folder is
made under another name, brought to the disk and renamed, so a process killed at any moment leaves whole
checkpoints only.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from headtohead.errors import UserError
from headtohead.files import explain_os_error
from headtohead.train.runtime import Notice, to_stderr

FORMAT = 1
KEPT = 2
_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
_AVERAGE = "average.safetensors"
_RANDOM = "random_state"
_UNFINISHED = ".unfinished-"


class Damaged(Exception):
    """A checkpoint that is not what was written: the message says which file and how."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back and verified."""

    path: Path
    step: int
    identity: dict[str, Any]
    state: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    average: dict[str, Tensor] = field(default_factory=dict)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Put the weights into ``model`` and, with ``optimizer``, its state and torch's random state too.

        Raises:
            UserError: the weights are of another network.
        """
        own = named_tensors(model)
        wrong = sorted(own.keys() ^ self.weights.keys()) or [
            name for name, tensor in own.items() if tensor.shape != self.weights[name].shape
        ]
        if wrong:
            raise UserError(f"{self.path} holds the weights of another network: '{wrong[0]}' does not fit")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(self.weights[name])
        if optimizer is None:
            return
        parameters = dict(model.named_parameters())
        optimizer.state.clear()
        for key, tensor in self.optimizer.items():
            if key == _RANDOM:
                torch.set_rng_state(tensor.clone())
            else:
                slot, name = key.split(".", 1)
                optimizer.state[parameters[name]][slot] = tensor.clone()


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, a tied one once."""
    unique: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        unique.setdefault(id(tensor), (name, tensor))
    return dict(unique.values())


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, newest first, not yet verified."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name)]
    return sorted(found, key=_step_of, reverse=True)


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    state: Mapping[str, Any],
    *,
    average: Mapping[str, Tensor] | None = None,
    keep: int = KEPT,
) -> Path:
    """Write the checkpoint of ``step`` into ``folder``; keep the newest ``keep`` with it, delete the others.

    Raises:
        UserError: naming the file that could not be written (disk full, …); earlier ones are untouched.
    """
    parameters = dict(model.named_parameters())
    tensors = {_RANDOM: torch.get_rng_state()}
    for name, parameter in parameters.items():
        for slot, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{slot}.{name}"] = value.detach().contiguous()
    weights = {name: tensor.detach().contiguous() for name, tensor in named_tensors(model).items()}
    contents = {_WEIGHTS: safetensors.torch.save(weights), _OPTIMIZER: safetensors.torch.save(tensors)}
    if average:
        contents[_AVERAGE] = safetensors.torch.save(dict(average))
    record = {
        "format": FORMAT,
        "step": step,
        "identity": dict(identity),
        "state": dict(state),
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
    }
    contents[_STATE] = json.dumps({**record, "sha256": _digest(record)}, indent=1).encode()

    target = folder / f"step-{step:08d}"
    unfinished = folder / f"{_UNFINISHED}{target.name}"
    writing = unfinished
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir()
        for name, content in contents.items():
            writing = unfinished / name
            _write_synced(writing, content)
        writing = target
        _sync_folder(unfinished)
        _discard(target)  # there only when it is damaged: the run went on from before it
        os.rename(unfinished, target)
        _sync_folder(folder)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise UserError(
            f"cannot write the checkpoint {target / writing.name if writing != target else target}: "
            f"{explain_os_error(error)}; earlier checkpoints are untouched"
        ) from error
    # What is newer than this checkpoint was damaged, else the run would have gone on from there.
    earlier = [path for path in checkpoints(folder) if _step_of(path) < step]
    for path in checkpoints(folder):
        if path != target and path not in earlier[: keep - 1]:
            _discard(path)
    return target


def load(path: Path) -> Checkpoint:
    """The checkpoint at ``path``, verified byte for byte.

    Raises:
        Damaged: something is missing, cut short or altered.
        UserError: it can't be read (permissions, …), or is of a format this version doesn't know.
    """
    record = _read_record(path)
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, expected in record["files"].items():
        content = _read(path / name)
        if len(content) < expected["bytes"]:
            raise Damaged(f"{name} is cut short: {len(content)} of {expected['bytes']} bytes")
        if hashlib.sha256(content).hexdigest() != expected["sha256"]:
            raise Damaged(f"{name} was altered: its SHA-256 is not the one noted in {_STATE}")
        tensors[name] = safetensors.torch.load(content)
    return Checkpoint(
        path,
        record["step"],
        record["identity"],
        record["state"],
        tensors[_WEIGHTS],
        tensors[_OPTIMIZER],
        tensors.get(_AVERAGE, {}),
    )


def latest(
    folder: Path, identity: Mapping[str, Any] | None = None, notice: Notice = to_stderr
) -> Checkpoint | None:
    """The newest usable checkpoint in ``folder``; damaged ones are named, one line each, and passed over.

    Args:
        identity: of the run that wants to go on, to be that of the checkpoint; None asks no questions.

    Raises:
        UserError: the checkpoint is of another run: names what differs.
    """
    damaged: list[str] = []
    found = None
    for path in checkpoints(folder):
        try:
            if identity is not None:
                _check_identity(path, _read_record(path)["identity"], identity)
            found = load(path)
            break
        except Damaged as reason:
            damaged.append(f"the checkpoint {path} is damaged ({reason})")
    then = f"going on from {found.path.name}" if found else "no usable checkpoint: starting from step 0"
    for line in damaged:
        notice(f"{line}: {then}")
    return found


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-made in ``folder``."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def differences(old: Any, new: Any, key: str = "") -> Iterator[str]:
    """Where two JSON values differ, by dotted key: ``recipe.threads: 1 there, 2 here``."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from differences(
                old.get(name, "absent"), new.get(name, "absent"), f"{key}.{name}" if key else name
            )
    elif old != new:
        yield f"{key}: {old} there, {new} here"


def _check_identity(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    found = list(differences(there, json.loads(json.dumps(here))))
    if found:
        raise UserError(
            f"{path} is of another run ({'; '.join(found)}): set this back, or give the run another folder"
        )


def _read_record(path: Path) -> dict[str, Any]:
    """``state.json``, verified by its own checksum."""
    content = _read(path / _STATE)
    try:
        record = json.loads(content)
        noted = record.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(f"{_STATE} is cut short or altered: not what was written") from None
    if noted != _digest(record):
        raise Damaged(f"{_STATE} was altered: it is not what its SHA-256 says")
    if record["format"] != FORMAT:
        raise UserError(f"{path} is a checkpoint of format {record['format']}: this version reads {FORMAT}")
    return record


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise Damaged(f"{path.name} is missing") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {explain_os_error(error)}") from error


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(path: Path) -> None:
    """Delete a checkpoint, first out of sight: half a checkpoint must never look like one."""
    if path.exists():
        hidden = path.with_name(f"{_UNFINISHED}old-{path.name}")
        shutil.rmtree(hidden, ignore_errors=True)
        os.rename(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)
