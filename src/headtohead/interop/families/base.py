"""What a family of transformers is to us: a way to read its config, and one table of corresponding tensors.

The table serves both directions: a row says which of their tensors are which of ours, and how the one becomes the
other. A transformation and its inverse stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture

Config = Mapping[str, Any]
Change = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Row:
    """Their tensors, by the names they are saved under, and ours; `read` makes ours of theirs, `write` the inverse."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    read: Change
    write: Change


def same(theirs: str, ours: str) -> Row:
    """The same tensor."""
    return Row((theirs,), (ours,), _as_is, _as_is)


def _as_is(tensors: list[Tensor]) -> list[Tensor]:
    return tensors


def linear(theirs: str, ours: str, bias: bool = False) -> list[Row]:
    """A linear layer, or a norm: its weight and, if it has one, its bias."""
    return [
        same(f"{theirs}.{part}", f"{ours}.{part}") for part in (["weight", "bias"] if bias else ["weight"])
    ]


def joined(theirs: Sequence[str], ours: str, bias: bool = False) -> list[Row]:
    """Linear layers of theirs that are one of ours, one below the other, in equal parts."""

    def read(tensors: list[Tensor]) -> list[Tensor]:
        return [torch.cat(tensors)]

    def write(tensors: list[Tensor]) -> list[Tensor]:
        return [part.contiguous() for part in tensors[0].chunk(len(theirs))]

    parts = ["weight", "bias"] if bias else ["weight"]
    return [
        Row(tuple(f"{name}.{part}" for name in theirs), (f"{ours}.{part}",), read, write) for part in parts
    ]


def changed(
    theirs: str, ours: str, read: Callable[[Tensor], Tensor], write: Callable[[Tensor], Tensor]
) -> Row:
    """One tensor, changed."""
    return Row((theirs,), (ours,), lambda x: [read(x[0])], lambda x: [write(x[0])])


@dataclass(frozen=True)
class Family:
    """A family of transformers.

    `describe` reads a config, `config` writes one (or None, where the network can't be of this family: whether it is
    one is decided by describing that config again), `rows` is the table. `prefix`: what the names of the bare model
    lack. `left_out`: pieces of names of tensors that are no part of the network. `copies`: their names for tensors
    that are tied to another, with the name of that one. `constants`: tensors that are
    saved although they follow from the config.
    """

    model_types: tuple[str, ...]
    describe: Callable[[Config], Architecture]
    config: Callable[[Architecture], dict[str, Any] | None]
    rows: Callable[[Architecture, Config], list[Row]]
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    copies: Callable[[Architecture, Config], Mapping[str, str]] = lambda a, config: {}
    constants: Callable[[Architecture, Config], Mapping[str, Tensor]] = lambda a, config: {}


def need(config: Config, key: str) -> Any:
    """A number, or a table, that must be there. Raises UserError naming it."""
    kind, value = config.get("model_type"), config.get(key)
    if value is None:
        raise UserError(f"the config of this {kind} has no {key}")
    if isinstance(value, bool) or not isinstance(value, int | float | Mapping):
        raise UserError(f"the config of this {kind} says {key} = {value!r}: it should be a number")
    return value


def only(config: Config, **allowed: Any) -> None:
    """Whether settings that change the network have a value that we have too; a setting that isn't there has.

    Args:
        allowed: for each key the value it must have, or a tuple of them.

    Raises:
        UserError: naming the first that doesn't, its value and what would be right.
    """
    for key, values in allowed.items():
        options = values if isinstance(values, tuple) else (values,)
        if key in config and config[key] not in options:
            said = " or ".join(repr(option) for option in options)
            raise UserError(
                f"the config says {key} = {config[key]!r}, which can't be described here: it should be {said}"
            )


def activation(config: Config, key: str, known: Mapping[str, str], default: str) -> Any:
    """The feed-forward for a name of an activation. Raises UserError for one we don't have."""
    name = config.get(key, default)
    if name not in known:
        raise UserError(
            f"the config says {key} = {name!r}, which can't be described here: known are {', '.join(known)}"
        )
    return known[name]


def rope_base(config: Config, default: float = 10_000.0) -> float:
    """The base of plain RoPE, as configs of either generation say it.

    Raises:
        UserError: the positions are scaled, or turn a part of each head only.
    """
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = found.get("rope_type", found.get("type", "default"))
    if kind != "default":
        raise UserError(
            f"the config says RoPE of type {kind!r}, which can't be described here: only 'default' can"
        )
    if float(found.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))) != 1.0:
        raise UserError(
            "the config says partial_rotary_factor, which can't be described here: RoPE turns whole heads"
        )
    return float(found.get("rope_theta", config.get("rope_theta", default)))


def by_value(of: Mapping[str, str]) -> dict[str, str]:
    """Known names by what they stand for: the first of several."""
    return {value: key for key, value in reversed(list(of.items()))}
