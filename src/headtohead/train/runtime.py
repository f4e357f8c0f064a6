"""What this machine makes of a recipe: threads, precision, compiler, allocator."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import sys
import sysconfig
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from headtohead.train.devices import chosen
from headtohead.train.recipe import Recipe

Notice = Callable[[str], None]


NOTE = "note: "


def to_stderr(line: str) -> None:
    """Where one-line notices go unless the caller has a better place; a study finds them by their first word."""
    print(f"{NOTE}{line}", file=sys.stderr)


@dataclass(frozen=True)
class Runtime:
    """How a run is really computed: part of its identity, since each of these changes bits."""

    threads: int
    precision: Literal["bf16", "fp32"]
    compiled: bool
    torch: str
    device: str = "cpu"
    """Type of what it is computed on: "cpu" or "cuda", the current one."""
    simd: str | None = None
    """Vector instructions that a compiled network uses; known once it is compiled."""

    @property
    def identity(self) -> dict[str, Any]:
        """What of it makes a run this run; a CPU is not named, as before there was anything else."""
        return {key: value for key, value in vars(self).items() if (key, value) != ("device", "cpu")}

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass: bf16 matrix products over fp32 master weights, or nothing."""
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision == "bf16")


def configure(recipe: Recipe, notice: Notice = to_stderr) -> Runtime:
    """Set this process up for ``recipe`` and say what it came to. Call it before the network is built.

    What the machine lacks is told in one line each and done without: bf16 becomes fp32, compiled is eager.
    """
    tune_allocator()
    torch.set_num_threads(recipe.threads)
    device = chosen(recipe.device)
    # On CUDA some operations have no deterministic form: a warning says which, once.
    torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
    # It would write NaN over every fresh tensor first: a guard for code that reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    precision = recipe.precision
    if precision == "bf16" and not has_bf16(device):
        lacks = (
            "CPU has no bf16 matrix products (AVX-512 BF16 or AMX)"
            if device.type == "cpu"
            else "GPU has no bf16"
        )
        notice(f"this {lacks}: the run is in fp32")
        precision = "fp32"
    compiled = recipe.compile
    if compiled and (missing := missing_for_compile()):
        notice(f"{missing}: the run is eager, not compiled")
        compiled = False
    return Runtime(recipe.threads, precision, compiled, torch.__version__, device.type)


def has_bf16(device: torch.device | None = None) -> bool:
    """Does the device (the CPU, if none is named) multiply bf16 matrices in hardware? Without it, bf16 is emulated
    and slower than fp32.
    """
    if device is not None and device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


def missing_for_compile() -> str | None:
    """What keeps ``torch.compile`` from working here, or None. Chooses the compiler when CXX doesn't."""
    chosen = os.environ.get("CXX")
    if chosen:
        if shutil.which(chosen.split()[0]) is None:
            return f"CXX names {chosen}, which is not there"
    else:
        found = next((name for name in ("g++", "clang++") if shutil.which(name)), None)
        if found is None:
            return "there is no C++ compiler (g++ or clang++)"
        os.environ["CXX"] = found  # torch looks for g++ alone
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return "there are no Python headers (Python.h) to compile against"
    return None


def tune_allocator() -> bool:
    """Keep freed memory in the process (glibc): True when it was done.

    Activations are freed and asked for again in every step. By default glibc gives large blocks back to the
    kernel, which hands them out again page by page, zeroed: up to half of a small network's step.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    # malloc.h: M_TRIM_THRESHOLD -1 (as large as it goes: never trim), M_MMAP_MAX -4 (0: no block by mmap)
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(-1, -1)) and bool(mallopt(-4, 0))
