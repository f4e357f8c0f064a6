"""What this machine can do at most, measured: the yardsticks that speeds are given as a share of."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import torch

PEAK_SIDES = (1024, 1536, 2048)
"""Square products of these sides are tried: large enough to be bound by arithmetic, small enough for seconds."""


def matmul_peak(dtype: torch.dtype = torch.bfloat16, seconds: float = 0.6) -> float:
    """FLOP/s of the fastest square matrix product of the CPU seen in about `seconds`, with the threads torch has now.

    2n³ FLOPs each. The fastest counts, not the mean: on a shared machine the others measure the neighbours.
    """
    best = 0.0
    for side in PEAK_SIDES:
        a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
        torch.mm(a, b)
        end = time.perf_counter() + seconds / len(PEAK_SIDES)
        while True:
            began = time.perf_counter()
            torch.mm(a, b)
            now = time.perf_counter()
            best = max(best, 2 * side**3 / (now - began))
            if now > end:
                break
    return best


READ_BYTES = 2**28
"""Far more than any cache holds."""


def read_bandwidth(seconds: float = 0.5) -> float:
    """Bytes per second of the fastest reading of memory seen in about `seconds`, with the threads torch has now: sums
    over 256 MiB. The fastest counts, as in `matmul_peak`.
    """
    memory = torch.ones(READ_BYTES // 4)
    memory.sum()
    best, end = 0.0, time.perf_counter() + seconds
    while True:
        began = time.perf_counter()
        memory.sum()
        now = time.perf_counter()
        best = max(best, READ_BYTES / (now - began))
        if now > end:
            return best


def peak_memory() -> int:
    """The most bytes that this process has had in memory.

    On Linux of this program alone: `getrusage` would count what its parent held when it was started.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
