"""Checkpoints: exact, whole or absent, and never opened without their checksum.

A checkpoint is a folder ``step-00000500`` of three files, or four:

- ``weights.safetensors``: parameters and persistent buffers, fp32;
- ``optimizer.safetensors``: the optimizer's tensors by parameter name, and torch's random state;
- ``average.safetensors``: the mean of the weights so far, while a recipe's ``average_last`` takes it;
- ``state.json``: the step, the run's identity, the loop's own state, size and SHA-256 of the other files, and a
  SHA-256 of itself.

A network that several processes hold in parts is written in parts too: see ``sharded``.

The place in the data needs no file of its own: the batch of a step is a function of the step. The folder is
made under another name, brought to the disk and renamed, so a process killed at any moment leaves whole
checkpoints only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor, nn

from headtohead.errors import UserError
from headtohead.files import explain_os_error
from headtohead.train.devices import RANDOM, random_states, set_random_states
from headtohead.train.parallel import ALONE, Team, is_sharded, write
from headtohead.train.runtime import Notice, to_stderr
from headtohead.train.staging import STATE, Stage, checkpoints, digest_of

FORMAT, SHARDED = 1, 2
KEPT = 2
_WEIGHTS, _OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
_AVERAGE = "average.safetensors"


class Damaged(Exception):
    """A checkpoint that is not what was written: the message says which file and how."""


class Saved(Protocol):
    """A checkpoint read back and verified, in one piece or in parts."""

    @property
    def path(self) -> Path: ...
    @property
    def step(self) -> int: ...
    @property
    def identity(self) -> dict[str, Any]: ...
    @property
    def state(self) -> dict[str, Any]: ...

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Put it into a network, and with ``optimizer`` into that and the random state."""
        ...

    def average_for(self, model: nn.Module) -> dict[str, Tensor]:
        """The mean of the weights so far, each tensor where ``model`` has its own; empty where none was taken."""
        ...


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
        for name, tensor in own.items():
            write(tensor, self.weights[name])
        if optimizer is None:
            return
        set_random_states(self.optimizer, device_of(model))
        parameters = dict(model.named_parameters())
        optimizer.state.clear()
        for key, tensor in self.optimizer.items():
            if not key.startswith(RANDOM):
                slot, name = key.split(".", 1)
                place = place_for(tensor.shape, tensor.dtype, parameters[name])
                write(place, tensor)
                optimizer.state[parameters[name]][slot] = place

    def average_for(self, model: nn.Module) -> dict[str, Tensor]:
        """The mean of the weights so far, each tensor where ``model`` has its own; empty where none was taken."""
        places = {
            name: torch.zeros_like(tensor) for name, tensor in named_tensors(model).items() if self.average
        }
        for name, place in places.items():
            write(place, self.average[name])
        return places


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, a tied one once."""
    unique: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        unique.setdefault(id(tensor), (name, tensor))
    return dict(unique.values())


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
    team: Team = ALONE,
) -> Path:
    """Write the checkpoint of ``step`` into ``folder``; keep the newest ``keep`` with it, delete the others.

    All ranks of a team call it, and all have the checkpoint or the one error. A network that each holds whole is
    written by the first of them; one in parts by all.

    Raises:
        UserError: naming the file that could not be written (disk full, …); earlier ones are untouched.
    """
    if is_sharded(model):
        from headtohead.train import sharded

        return sharded.save(folder, step, model, optimizer, identity, state, average or {}, keep, team)

    def write_whole() -> None:
        if team.leads:
            _save_whole(folder, step, model, optimizer, identity, state, average or {}, keep)

    team.together(write_whole)
    return Stage(folder, step, keep).target


def _save_whole(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    state: Mapping[str, Any],
    average: Mapping[str, Tensor],
    keep: int,
) -> None:
    weights = {name: tensor.detach().contiguous() for name, tensor in named_tensors(model).items()}
    tensors = {**random_states(device_of(model)), **named_state(model, optimizer)}
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
    stage = Stage(folder, step, keep)
    with stage:
        stage.begin()
        for name, content in contents.items():
            stage.write(name, content)
        stage.finish(record)


def named_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors, by slot and parameter: ``exp_avg.embedding``."""
    return {
        f"{slot}.{name}": value.detach().contiguous()
        for name, parameter in model.named_parameters()
        for slot, value in optimizer.state.get(parameter, {}).items()
    }


def place_for(shape: torch.Size, dtype: torch.dtype, parameter: Tensor) -> Tensor:
    """Room for a tensor of the optimizer: divided as its parameter is, where it has the parameter's shape."""
    if shape == parameter.shape:
        return torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
    return torch.zeros(shape, dtype=dtype, device=parameter.device)


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def load(path: Path, team: Team = ALONE) -> Saved:
    """The checkpoint at ``path``, verified byte for byte, whoever wrote it.

    Raises:
        Damaged: something is missing, cut short or altered.
        UserError: it can't be read (permissions, …), or is of a format this version doesn't know.
    """
    record = read_record(path)
    if record["format"] == SHARDED:
        from headtohead.train import sharded

        return sharded.load(path, record, team)
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, expected in record["files"].items():
        content = _read(path / name)
        if len(content) < expected["bytes"]:
            raise Damaged(f"{name} is cut short: {len(content)} of {expected['bytes']} bytes")
        if hashlib.sha256(content).hexdigest() != expected["sha256"]:
            raise Damaged(f"{name} was altered: its SHA-256 is not the one noted in {STATE}")
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
    folder: Path,
    identity: Mapping[str, Any] | None = None,
    notice: Notice = to_stderr,
    team: Team = ALONE,
) -> Saved | None:
    """The newest usable checkpoint in ``folder``; damaged ones are named, one line each, and passed over.

    Args:
        identity: of the run that wants to go on, to be that of the checkpoint; None asks no questions.
        team: whose ranks take the same one: what is damaged for any is damaged for all.

    Raises:
        UserError: the checkpoint is of another run: names what differs.
    """
    damaged: list[str] = []
    found = None
    for path in team.gather(checkpoints(folder))[0]:

        def usable(path: Path = path) -> Saved:
            if identity is not None:
                _check_identity(path, read_record(path)["identity"], identity)
            return load(path, team)

        try:
            found = team.together(usable)
            break
        except Damaged as reason:
            damaged.append(f"the checkpoint {path} is damaged ({reason})")
    then = f"going on from {found.path.name}" if found else "no usable checkpoint: starting from step 0"
    for line in damaged:
        notice(f"{line}: {then}")
    return found


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


def read_record(path: Path) -> dict[str, Any]:
    """``state.json``, verified by its own checksum."""
    content = _read(path / STATE)
    try:
        record = json.loads(content)
        noted = record.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(f"{STATE} is cut short or altered: not what was written") from None
    if noted != digest_of(record):
        raise Damaged(f"{STATE} was altered: it is not what its SHA-256 says")
    if record["format"] not in (FORMAT, SHARDED):
        raise UserError(
            f"{path} is a checkpoint of format {record['format']}: this version reads {FORMAT} and {SHARDED}"
        )
    return record


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise Damaged(f"{path.name} is missing") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {explain_os_error(error)}") from error
