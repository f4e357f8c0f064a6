"""Networks of Hugging Face's transformers, both ways: a config as an `Architecture`, their tensors as ours.

A family is a file of this folder with a list `FAMILIES`; they are found by themselves. transformers is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from headtohead.errors import UserError
from headtohead.interop.families.base import Config, Family
from headtohead.model.architecture import Architecture
from headtohead.model.transformer import Transformer
from headtohead.train.checkpoint import named_tensors
from headtohead.validation import explained, suggest

__all__ = ["describe", "model_types", "to_ours", "to_theirs"]


@cache
def _families() -> tuple[Family, ...]:
    modules = (import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__))
    return tuple(family for module in modules for family in getattr(module, "FAMILIES", ()))


def model_types() -> tuple[str, ...]:
    """The model types of transformers that can be read and written."""
    return tuple(kind for family in _families() for kind in family.model_types)


def _family(config: Config) -> Family:
    kind = config.get("model_type")
    for family in _families():
        if kind in family.model_types:
            return family
    raise UserError(f"no network of model_type {kind!r} can be read: {suggest(str(kind), model_types())}")


def describe(config: Config) -> Architecture:
    """The network that a config.json of transformers means.

    Raises:
        UserError: a model type that isn't known, a setting that is missing, or one that can't be described here.
    """
    family = _family(config)
    try:
        return family.describe(config)
    except ValidationError as error:
        raise UserError(
            f"the config of this {config['model_type']} is no network: {explained(Architecture, error)}"
        ) from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"the config of this {config['model_type']} has a setting of the wrong kind ({error}): compare it with one "
            "that save_pretrained writes"
        ) from error


def to_ours(
    config: Config, a: Architecture, theirs: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Their tensors as those of `Transformer(a)` by name, in fp32; and the names of those that are no part of it.

    Names with and without the prefix of the bare model are read.

    Raises:
        UserError: a tensor that is missing, of the wrong shape, not equal to the one it is tied to, or unknown.
    """
    family = _family(config)
    shapes = _shapes(a)
    there = {_full_name(family, name): tensor for name, tensor in theirs.items()}
    found: dict[str, Tensor] = {}
    used: set[str] = set()
    for row in family.rows(a, config):
        for name in row.theirs:
            if name not in there:
                raise UserError(f"the weights of this {config['model_type']} lack {name}")
        used.update(row.theirs)
        for name, tensor in zip(
            row.ours, row.read([there[name].float() for name in row.theirs]), strict=True
        ):
            if tuple(tensor.shape) != shapes[name]:
                raise UserError(
                    f"{' and '.join(row.theirs)} of this {config['model_type']} should make {name} of the shape "
                    f"{list(shapes[name])}, not {list(tensor.shape)}"
                )
            found[name] = tensor
    left: list[str] = []
    for name, constant in family.constants(a, config).items():
        used.add(name)
        if name in there and not torch.allclose(there[name].float(), constant, atol=1e-4):
            raise UserError(f"{name} is not what the config of a {config['model_type']} makes of it")
    for name, tensor in there.items():
        source = family.copies(a, config).get(name)
        if name in used:
            continue
        if source is not None and source in there:
            if not torch.equal(tensor, there[source]):
                raise UserError(f"{name} should be the same as {source}, to which it is tied, and isn't")
        elif source is None and any(piece in name for piece in family.left_out):
            if name.endswith("bias") and "logits" in name and bool(tensor.any()):
                raise UserError(f"{name} is not 0, which can't be described here")
            left.append(name)
        elif source is None:
            raise UserError(f"{name} is no tensor of a {config['model_type']} that is known here")
    missing = sorted(shapes.keys() - found.keys())
    assert not missing, missing
    return found, left


def to_theirs(a: Architecture, ours: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """A config and tensors of transformers for this very network; None where none of its families computes it.

    The config says nothing of token ids. Tied tensors are there once.
    """
    for writing in _families():
        config = writing.config(a)
        if config is None or not _describes(family := _family(config), config, a):
            continue
        theirs: dict[str, Tensor] = {}
        for row in family.rows(a, config):
            written = row.write([ours[name].detach() for name in row.ours])
            theirs.update(zip(row.theirs, written, strict=True))
        return config, {**theirs, **family.constants(a, config)}
    return None


def _describes(family: Family, config: dict[str, Any], a: Architecture) -> bool:
    """Whether the config means this network: names aside, and however its layers are listed."""
    try:
        found = family.describe(config)
    except (UserError, ValueError):
        return False
    return _spread(found) == _spread(a)


def _spread(a: Architecture) -> dict[str, Any]:
    """What a network computes: without names, every layer written out."""
    plain = a.model_dump(mode="json", exclude={"name", "streams"})
    names = {stream.name: number for number, stream in enumerate(a.streams)}
    plain["key_heads"] = a.key_heads or a.heads
    plain["scores"]["scale"] = a.scores.scale or a.d_head**-0.5
    plain["streams"] = [
        {
            "holds": stream.holds,
            "width": {
                **a.width(stream).model_dump(),
                "key_heads": a.width(stream).key_heads or a.width(stream).heads,
            },
            "shares": stream.shares,
            "layers": [
                {
                    "d_ff": layer.d_ff,
                    "positions": None if layer.positions is None else layer.positions.model_dump(),
                    "reads": [
                        {**read.model_dump(mode="json"), "keys": names[read.keys]} for read in layer.reads
                    ],
                }
                for layer in stream.expanded
            ],
        }
        for stream in a.streams
    ]
    return plain


def _full_name(family: Family, name: str) -> str:
    """The name that a tensor of the bare model has in the model with a head."""
    known = (family.prefix, "lm_head.", "cls.", "final_logits_bias")
    return name if not family.prefix or name.startswith(known) else family.prefix + name


def _shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in named_tensors(Transformer(a)).items()}
