"""How long runs will take here: the machine's own rate, measured in a second, times shares of it that were measured.

Nothing here imports torch. The shares are those of networks of about a million parameters, two runs side by side on
two cores with AVX-512 BF16: 80-110 GFLOP/s in training where fp32 matrix products reach 135, and 36 in scoring.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from headtohead.study.schedule import Run

TRAINING = {"bf16": 0.60, "fp32": 0.25}
"""Training FLOPs a second as a share of the rate of fp32 matrix products in one thread, by precision."""
SCORING = 0.27
"""The same of forward FLOPs when held-out text is scored: fp32, not compiled."""
START_SECONDS = 15.0
"""A run's start: importing torch, compiling its blocks."""

CALIBRATION = """
import numpy, time
a, b, out = numpy.ones((3, 512, 512), numpy.float32)
best, end = float("inf"), time.perf_counter() + 0.5
while time.perf_counter() < end:
    began = time.process_time()
    for _ in range(4):
        numpy.matmul(a, b, out=out)
    best = min(best, (time.process_time() - began) / 4)
print(2 * 512**3 / best)
"""


@dataclass(frozen=True)
class Pace:
    """What one worker does in a second: FLOP/s of fp32 matrix products, and whether bf16 is faster here."""

    matmul: float
    bf16: bool

    def seconds(self, run: Run) -> float:
        """About how long a run takes from its start to its result."""
        precision = "bf16" if self.bf16 and run.description["recipe"]["precision"] == "bf16" else "fp32"
        return (
            START_SECONDS
            + run.cost / (self.matmul * TRAINING[precision])
            + run.scoring_cost / (self.matmul * SCORING)
        )

    def __str__(self) -> str:
        share = TRAINING["bf16" if self.bf16 else "fp32"]
        kind = " (bf16)" if self.bf16 else ""
        return (
            f"{self.matmul / 1e9:.0f} GFLOP/s of fp32 matrix products in one thread, measured just now; "
            f"with nothing else to do, {share:.0%} of it assumed for training{kind}, {SCORING:.0%} for scoring, "
            f"{START_SECONDS:.0f} s for each start"
        )


def pace() -> Pace:
    """This machine's, measured: the best of half a second, in time of the processor, which others don't lengthen.

    In a process of its own, since the number of threads of NumPy's matrix product is settled when it is imported.
    """
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    asked = [sys.executable, "-c", CALIBRATION]
    told = subprocess.run(asked, env={**os.environ, **one}, capture_output=True, text=True, check=True).stdout
    return Pace(float(told), has_bf16())


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bf16 matrices, as far as the system tells without torch."""
    try:
        return re.search(r"\b(avx512_bf16|amx_bf16)\b", cpuinfo.read_text(encoding="utf-8")) is not None
    except OSError:
        return False
