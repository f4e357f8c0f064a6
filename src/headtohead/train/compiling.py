"""``torch.compile`` on a machine where it may be missing, fail, or have been killed half-way.

torch keeps compiled libraries in a folder for later processes to load, and the linker writes them in
place: a process killed in that moment leaves half a library, which nothing would ever replace. Later runs
would fail on it or, where it was the probe for the CPU's vector instructions, silently compile for
narrower ones and differ in bits.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

import torch

from headtohead.train.runtime import Notice, Runtime, to_stderr

_FOLDER = "TORCHINDUCTOR_CACHE_DIR"
_OURS = "headtohead-compiled"


def compiled_or_eager(
    runtime: Runtime, one_pass: Callable[[], object], notice: Notice = to_stderr
) -> Runtime:
    """Run ``one_pass`` (forward and backward), which compiles the network, and say what came of it.

    When it fails it is tried once more in an empty cache; failing again makes the run eager, with one
    line. An error that is not the compiler's is then raised by the eager pass.
    """
    failure: Exception | None = None
    for attempt in (1, 2):
        try:
            with _cache(fresh=attempt == 2):
                one_pass()
            if runtime.device != "cpu":
                return replace(runtime, compiled=True)
            from torch._inductor.cpu_vec_isa import pick_vec_isa

            isa = pick_vec_isa()
            return replace(runtime, compiled=True, simd=f"{isa} {' '.join(isa.build_arch_flags().split())}")
        except Exception as error:
            failure = error
            from torch._inductor.utils import clear_caches

            torch.compiler.reset()
            clear_caches()
    torch.compiler.set_stance("force_eager")
    one_pass()
    reason = str(failure).strip().partition("\n")[0] or type(failure).__name__
    notice(f"compiling the network failed ({reason}): the run is eager")
    return replace(runtime, compiled=False)


@contextmanager
def _cache(fresh: bool) -> Iterator[None]:
    """torch's folder for compiled libraries: one for all our runs, emptied when a process died compiling.

    Each process that compiles holds a locked marker in it. The kernel frees the lock when the process
    dies, and a marker that nobody holds tells of a death.
    """
    marker: IO[str] | None = None
    with suppress(OSError):  # where no folder can be written, torch says so better
        marker = _private() if fresh else _shared()
        os.environ[_FOLDER] = str(Path(marker.name).parent)
    try:
        yield
    finally:
        if marker is not None:
            Path(marker.name).unlink(missing_ok=True)
            marker.close()


def _shared() -> IO[str]:
    """A marker in the folder of all our runs, without what the dead have left there."""
    folder = Path(os.environ.get(_FOLDER) or Path(tempfile.gettempdir(), f"{_OURS}-{os.getuid()}"))
    if not folder.name.startswith(_OURS):
        folder /= _OURS  # a folder the user named may hold more than ours, and ours may be emptied
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    there = folder.stat()
    if there.st_uid != os.getuid() or there.st_mode & 0o022:
        return _private()  # never load what somebody else may have compiled
    with open(folder.with_name(f"{folder.name}.lock"), "w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)  # one process at a time looks, clears and marks
        markers = list(folder.glob("compiling-*"))
        dead = [marker for marker in markers if not _is_held(marker)]
        if len(dead) < len(markers) and dead:
            return _private()  # others are at work among the remains
        if dead:
            shutil.rmtree(folder)
            folder.mkdir(mode=0o700)
        return _marker(folder)


def _private() -> IO[str]:
    """A marker in an empty folder."""
    return _marker(Path(tempfile.mkdtemp(prefix=f"{_OURS}-")))


def _marker(folder: Path) -> IO[str]:
    marker = open(folder / f"compiling-{os.getpid()}", "w")  # noqa: SIM115 - held until all is compiled
    fcntl.flock(marker, fcntl.LOCK_EX)
    return marker


def _is_held(marker: Path) -> bool:
    try:
        with open(marker) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):  # at work, or just done
        return True
    return False
