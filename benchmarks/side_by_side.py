"""Small networks: runs side by side, one thread each, against one plain run that has all the threads.

    python benchmarks/side_by_side.py [--rounds 7] [--seconds 4]

A decoder of 1.3M parameters (d 128, 4 layers, vocabulary 2048) in steps of 8 rows of 256 tokens: as many processes as
there are cores, in bf16 and compiled, as a study starts its runs; then one process with all the threads, in fp32 and
eager. They take turns, and each process waits while the others are timed. Prints one JSON line: tokens a second of all
processes together and of the plain one, and the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import IO, Any

from headtohead.model.presets import architecture

ROWS, LENGTH = 8, 256
NETWORK = architecture("decllm-nano").resized(
    depths=[4], d_model=128, heads=4, d_head=32, d_ff=512, vocabulary=2048
)
PLAIN = {"precision": "fp32", "compile": False}


class Worker:
    """A process that has made its first steps and then trains for as long as it is told, again and again."""

    def __init__(self, threads: int, settings: dict[str, Any]) -> None:
        words = [sys.executable, __file__, "--worker", str(threads), json.dumps(settings)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._hears()

    def go(self, seconds: float) -> None:
        pipe = self._pipe(self._process.stdin)
        pipe.write(f"{seconds}\n")
        pipe.flush()

    def speed(self) -> float:
        """Tokens a second of what it was last told to do."""
        return float(self._hears())

    def _hears(self) -> str:
        line = self._pipe(self._process.stdout).readline()
        if not line:
            sys.exit("a process of the benchmark ended: its message is above")
        return line

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(int(options.worker[0]), json.loads(options.worker[1]))
        return
    cores = len(os.sched_getaffinity(0))
    beside, plain = [Worker(1, {}) for _ in range(cores)], [Worker(cores, PLAIN)]
    together, alone = [], []
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        together.append(speed(beside, options.seconds))
        alone.append(speed(plain, options.seconds))
    found = {
        "tokens_per_second": round(statistics.median(together)),
        "plain_tokens_per_second": round(statistics.median(alone)),
        "ratio": round(statistics.median(a / b for a, b in zip(together, alone, strict=True)), 2),
        "processes": cores,
        "architecture": NETWORK.name,
    }
    print(json.dumps(found))


def speed(workers: Sequence[Worker], seconds: float) -> float:
    """Tokens a second of all of them at once."""
    for worker in workers:
        worker.go(seconds)
    return sum(worker.speed() for worker in workers)


def work(threads: int, settings: dict[str, Any]) -> None:
    """What a process does: a line "ready", then a speed for each number of seconds that it reads."""
    from headtohead.interop.bench.training import Setting, our_step

    step = our_step(NETWORK, Setting(ROWS, LENGTH, threads), settings)
    for _ in range(3):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        began, steps = time.perf_counter(), 0
        while time.perf_counter() - began < float(line):
            step()
            steps += 1
        print(steps * ROWS * LENGTH / (time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    main()
