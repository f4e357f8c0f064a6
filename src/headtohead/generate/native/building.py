"""Compiles `kernel.cpp` for this machine, once: the library is kept in the user's cache folder."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from headtohead.generate.native import structs

SOURCE = Path(__file__).with_name("kernel.cpp")
PARTS = sorted(SOURCE.parent.glob("*.h"))
"""What it includes."""
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fopenmp",
    "-fPIC",
    "-shared",
)


class Unavailable(Exception):
    """Why there is no native decoding here, as a clause of a sentence."""


@cache
def library() -> ctypes.CDLL:
    """The compiled kernel.

    Raises:
        Unavailable: there is no compiler that can build it, or nowhere to keep it.
    """
    compiler = _compiler()
    path = _cache_folder() / f"decoding-{_identity(compiler)}.so"
    if not path.is_file():
        _compile(compiler, path)
    try:
        found = ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"the decoding kernel can't be loaded ({error})") from error
    sizes = (ctypes.c_int32 * len(structs.ALL))()
    found.layout(sizes)
    if list(sizes) != [ctypes.sizeof(kind) for kind in structs.ALL]:
        raise Unavailable("the decoding kernel lays out its structures in another way than Python does")
    return found


def missing() -> str | None:
    """Why there is no native decoding here, or None."""
    try:
        library()
    except Unavailable as reason:
        return str(reason)
    return None


def _compiler() -> list[str]:
    named = os.environ.get("CXX")
    if named:
        words = shlex.split(named)
        if not words or shutil.which(words[0]) is None:
            raise Unavailable(f"CXX names {named}, which is not there")
        return words
    found = next((name for name in ("g++", "clang++") if shutil.which(name)), None)
    if found is None:
        raise Unavailable("there is no C++ compiler (g++ or clang++)")
    return [found]


def _identity(compiler: list[str]) -> str:
    """A digest of all that the library depends on: source, flags, compiler, and what this CPU can do."""
    said = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        can = next((line for line in told if line.startswith(("flags", "Features"))), "")
    except OSError:
        can = platform.processor()
    source = [path.read_text(encoding="utf-8") for path in (SOURCE, *PARTS)]
    parts = [*source, *FLAGS, *compiler, said.stdout, platform.machine(), can]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(base) / "headtohead"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"headtohead-{os.getuid()}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"there is nowhere to keep the decoding kernel ({error})") from error
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            # A folder of somebody else's in a place that all may write to: what is in it isn't to be run.
            raise Unavailable(f"{folder} belongs to somebody else") from None
    return folder


def _compile(compiler: list[str], path: Path) -> None:
    handle, made = tempfile.mkstemp(prefix=".decoding-", suffix=".so", dir=path.parent)
    os.close(handle)
    try:
        done = subprocess.run(
            [*compiler, *FLAGS, "-o", made, str(SOURCE)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if "error" in line), "it says nothing")
            raise Unavailable(f"{compiler[0]} can't compile the decoding kernel: {said.strip()[:200]}")
        os.replace(made, path)
    except OSError as error:
        raise Unavailable(f"the decoding kernel can't be kept ({error})") from error
    finally:
        Path(made).unlink(missing_ok=True)
