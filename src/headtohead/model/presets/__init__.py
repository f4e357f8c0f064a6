"""Architectures by name: every network of the literature that is at hand, at its published sizes and at
laptop sizes.

A module of this package that has a list called ``FAMILIES`` is found by itself: adding an architecture is
adding it to one file here, and nothing else.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture
from headtohead.model.presets.family import Family, Size

__all__ = ["Family", "Size", "architecture", "families", "preset_names"]


@cache
def families() -> dict[str, Family]:
    """Every family by name, in the order of the modules' names and of their lists."""
    found: dict[str, Family] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        listed = getattr(importlib.import_module(f"{__name__}.{module.name}"), "FAMILIES", ())
        for family in listed:
            if family.name in found:
                raise ValueError(f"two families of presets are called '{family.name}'")
            found[family.name] = family
    return found


@cache
def _presets() -> dict[str, tuple[Family, Size]]:
    found: dict[str, tuple[Family, Size]] = {}
    for family in families().values():
        for size in family.sizes:
            name = f"{family.name}-{size}"
            if name in found:
                raise ValueError(f"two presets are called '{name}'")
            found[name] = (family, family.sizes[size])
    return found


def preset_names() -> list[str]:
    """Every name that `architecture` knows, families in order, sizes as the family lists them."""
    return list(_presets())


def architecture(name: str) -> Architecture:
    """The preset of that name: a family and a size, such as ``redllm-150m``.

    Raises:
        UserError: for an unknown name, with the nearest ones.
    """
    known = _presets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "see 'headtohead budget --list' for the names"
        raise UserError(f"no architecture is called '{name}': {hint}")
    family, size = known[name]
    return family.describe(name, size)
