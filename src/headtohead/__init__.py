"""headtohead: a laboratory for language-model architectures."""

import importlib
from typing import Any

from headtohead.registering import register_when_imported

__version__ = "0.1.0"

# What type checkers see of them is in __init__.pyi.
_WHERE = {"architecture": "headtohead.interop.describing", "load": "headtohead.interop.loading"}


def __getattr__(name: str) -> Any:
    """`load` and `architecture`, imported when they are asked for: `import headtohead` alone stays light."""
    if name not in _WHERE:
        raise AttributeError(f"module 'headtohead' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name]), name)


register_when_imported()
