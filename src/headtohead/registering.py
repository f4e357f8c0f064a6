"""`import headtohead` makes our networks known to transformers' Auto classes, without importing transformers.

Where transformers' table of Auto classes is loaded already, they are put in at once; otherwise as soon as it is:
a finder on `sys.meta_path` waits for those two modules by name, lets them be imported as ever, and registers when
they are. Nothing else passes through it. Nothing heavy is imported here; what is registered is named, not imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

AUTO = {
    "AutoModel": "HeadtoheadModel",
    "AutoModelForCausalLM": "HeadtoheadForCausalLM",
    "AutoModelForSeq2SeqLM": "HeadtoheadForSeq2SeqLM",
    "AutoModelForMaskedLM": "HeadtoheadForMaskedLM",
}
"""Our class for each Auto class."""


def _config() -> Any:
    return importlib.import_module("headtohead.interop.configuring").HeadtoheadConfig


def _register_config(module: ModuleType) -> None:
    module.AutoConfig.register(_config().model_type, _config(), exist_ok=True)


def _register_networks(module: ModuleType) -> None:
    networks = importlib.import_module("headtohead.interop.modelling")
    for auto, network in AUTO.items():
        getattr(module, auto).register(_config(), getattr(networks, network), exist_ok=True)


WAITED_FOR: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.modeling_auto": _register_networks,
}


def register_when_imported() -> None:
    """Register with the Auto classes: now, of what is imported already, and later, of what isn't yet."""
    for name, register in WAITED_FOR.items():
        # A module that is being imported right now has no Auto classes yet; its loader isn't ours any more.
        module = sys.modules.get(name)
        if module is not None and hasattr(module, "AutoConfig" if "configuration" in name else "AutoModel"):
            register(module)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds what the other finders find, with a loader that registers afterwards."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in WAITED_FOR:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, WAITED_FOR[fullname])
                return spec
        return None


class _Loader(Loader):
    """A module's own loader, and then `register`."""

    def __init__(self, loader: Any, register: Callable[[ModuleType], None]) -> None:
        self._loader, self._register = loader, register

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._register(module)
