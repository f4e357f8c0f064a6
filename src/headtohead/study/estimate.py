"""What a study would do, before it does it: runs, match, FLOPs, and an estimate of the time. Imports no
torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from headtohead.data.shards import ExampleStore
from headtohead.model.budget import cache_bytes, flops
from headtohead.study.arms import Matched
from headtohead.study.display import duration
from headtohead.study.plan import RatesStudy, Study, learning_rates
from headtohead.study.prepare import Source, check_rows, prepare, rows_in_pass, scored_rows
from headtohead.study.schedule import Basis, Run, comparison, scored_windows, search
from headtohead.study.versions import versions

SHARE = 0.30
"""Training FLOPs (as `model.budget` counts them) per second, as a share of the fp32 matrix-multiply rate of
one thread.
"""
START_SECONDS = 12.0
"""A run's start: importing torch, compiling a block."""
SCORED = 0.15
"""Time for learning curves and held-out scores, as a share of the training's."""

CALIBRATION = """
import numpy, time
a, b, out = numpy.ones((3, 512, 512), numpy.float32)
best, end = float("inf"), time.perf_counter() + 0.5
while time.perf_counter() < end:
    began = time.perf_counter()
    for _ in range(4):
        numpy.matmul(a, b, out=out)
    best = min(best, (time.perf_counter() - began) / 4)
print(2 * 512**3 / best)
"""


def matmul_rate() -> float:
    """FLOP/s of fp32 matrix products in one thread of this machine: the best of half a second.

    In a process of its own: the number of threads of NumPy's matrix product is settled when it is imported.
    """
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    asked = [sys.executable, "-c", CALIBRATION]
    return float(
        subprocess.run(asked, env={**os.environ, **one}, capture_output=True, text=True, check=True).stdout
    )


def show(
    file: Path,
    plan: Study,
    rates: RatesStudy | None,
    source: Source,
    arms: Mapping[str, Matched],
    workers: int,
    console: Console | None = None,
) -> None:
    """Print the study's plan. The text is prepared in a temporary folder, so that its tokens are counted,
    not guessed.

    Raises:
        UserError: as the study itself would.
    """
    console = console or Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="headtohead-") as folder:
        data = prepare(plan, source, Path(folder) / "data", lambda line: None)
        check_rows(Path(folder) / "data", plan.data)
        windows = scored_windows(plan, rates)
        scored = scored_rows(Path(folder) / "data", plan.data, data["regions"], windows)
        store = ExampleStore.open(Path(folder) / "data", "train")
        seeds = (rates.seed,) if rates else plan.seeds
        rows = {seed: rows_in_pass(store, seed, plan.data.row, plan.data.side) for seed in seeds}
    basis = Basis(plan, arms, data, versions(), rows, scored)
    runs = search(basis, rates) if rates else comparison(basis, learning_rates(plan, file.parent)[0])

    console.print(f"[bold]{(rates or plan).title}[/bold]")
    if not rates:
        console.print(plan.question)
    console.print(f"Text: {source.material.source}.")
    train = data["splits"]["train"]
    tokens = train["input_tokens"] + train["output_tokens"]
    steps = basis.steps(plan.rungs.full)
    console.print(
        f"{train['examples']:,} training examples of {tokens:,} tokens ({data['bytes_per_token']:.2f} bytes "
        f"of output a token), {min(rows.values()):,} rows; a full run takes {steps:,} steps."
    )
    for table, note in (_match(plan, basis, arms), _runs(runs, workers)):
        console.print()
        console.print(table)
        console.print(note)


def _match(plan: Study, basis: Basis, arms: Mapping[str, Matched]) -> tuple[Table, str]:
    table = _table("The arms, and what differs between them")
    columns = ("arm", "layers", "d_ff", "params", "off by", "loss", "train", "read", "write", "cache")
    for name in columns:
        table.add_column(name, justify="left" if name in ("arm", "loss") else "right", no_wrap=True)
    typical = basis.typical
    for key, matched in arms.items():
        network = matched.architecture
        cost = flops(network, *typical, matched.arm.supervise)
        widths = "/".join(str(w) for w in sorted({layer.d_ff for s in network.streams for layer in s.layers}))
        table.add_row(
            key,
            "+".join(map(str, network.depths)),
            widths,
            f"{matched.parameters['total']:,}",
            "" if matched.mismatch is None else f"{matched.mismatch:+.2%}",
            "all" if matched.arm.supervise == "all" else "out",
            f"{cost['training'] / 1e6:,.0f}M",
            f"{cost['prefill'] / 1e6:,.0f}M",
            f"{cost['decode_per_token'] / 1e6:,.1f}M",
            f"{cache_bytes(network, *typical) / 1024:,.0f}K",
        )
    targets = {matched.matched_to for matched in arms.values() if matched.matched_to}
    note = (
        f"Parameters are brought to those of {' and '.join(sorted(targets)) or 'no other arm'}, within 1 %. "
        f"Per example of {typical[0]} + {typical[1]} tokens: FLOPs to train, to read the input, to write one "
        f"token; bytes of cache in bf16. Declared to differ: "
        f"{', '.join(plan.declared_differences) or 'nothing'}."
    )
    return table, note


def _runs(runs: Sequence[Run], workers: int) -> tuple[Table, str]:
    matmul = matmul_rate()
    rate = matmul * SHARE

    def seconds(run: Run) -> float:
        return START_SECONDS + run.cost * (1 + SCORED) / rate

    table = _table(f"The runs, {workers} side by side")
    for name in ("rung", "arm", "runs", "steps", "FLOPs each", "time each"):
        table.add_column(name, justify="left" if name in ("rung", "arm") else "right", no_wrap=True)
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.rung, run.arm), []).append(run)
    for (rung, arm), some in groups.items():
        steps = some[0].description["recipe"]["steps"]
        table.add_row(
            rung,
            arm,
            str(len(some)),
            f"{steps:,}",
            f"{some[0].cost:.2e}",
            f"about {duration(seconds(some[0]))}",
        )
    ends: dict[str, float] = {}
    free = [0.0] * max(1, workers)
    for run in runs:
        free.sort()
        free[0] += seconds(run)
        ends[run.rung] = max(ends.get(run.rung, 0.0), free[0])
    told = ", ".join(f"{rung} done after about {duration(end)}" for rung, end in ends.items())
    note = (
        f"{told}. An estimate: {matmul / 1e9:.0f} GFLOP/s of fp32 matrix products in one thread, measured "
        f"just now; {SHARE:.0%} of it assumed for training, {SCORED:.0%} more time for scoring, "
        f"{START_SECONDS:.0f} s for each start."
    )
    return table, note


def _table(title: str) -> Table:
    look: Any = {"box": box.SIMPLE_HEAD, "pad_edge": False, "padding": (0, 1, 0, 0), "show_edge": False}
    return Table(title=title, title_justify="left", title_style="bold", **look)
