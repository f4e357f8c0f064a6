"""Which program a result comes from: versions decide a run's numbers, the commit is kept to be read."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path
from typing import Any

from headtohead import __version__


def versions() -> dict[str, Any]:
    """What else decides a run's numbers, and the commit, to be read."""
    return {"version": __version__, "torch": importlib.metadata.version("torch"), "commit": commit()}


def commit() -> str | None:
    """The source tree's commit, with "+" where files have been changed since; None outside a git checkout."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        asked = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+"]
        found = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
