"""What training networks would take of devices, in memory and time: ``headtohead plan``. Imports torch only to measure
this machine's own processor.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture
from headtohead.model.budget import Supervise, flops, parameters, places
from headtohead.model.presets import architecture
from headtohead.study.devices import BETWEEN_NODES, RESERVE, SHARE, Device, device
from headtohead.study.display import duration
from headtohead.study.sizing import MOMENTS, WIDTH, Memory, Sharding, largest_rows, memory
from headtohead.study.tables import binary, decimal, print_wide
from headtohead.study.timing import StepTime, step_time

PAPER = tuple(
    f"{family}-{size}" for size in ("150m", "1b", "2b", "4b", "8b") for family in ("decllm", "redllm")
)
"""The ten networks of RedLLM (arXiv 2510.26622), which were pre-trained alike: `Workload`'s defaults."""
MOST_PLACES = 2**16
"""Of one example: who sees whom is counted query by query, and masks are dense."""


@dataclass(frozen=True)
class Workload:
    """What is trained on: `batch` examples in a step, of `input` and `output` places, for so many steps."""

    batch: int = 2048
    input: int = 1024
    output: int = 1024
    steps: int = 400_000
    precision: str = "bf16"
    optimizer: str = "adafactor"


@dataclass(frozen=True)
class Way:
    """One way to train on the devices: what fits, and the time it takes. `rows` is 0 when nothing fits."""

    sharding: Sharding
    checkpointing: bool
    rows: int
    memory: Memory
    time: StepTime | None


def supervise_of(a: Architecture) -> Supervise:
    """A causal decoder learns from every token, as in the paper; any other network from its output."""
    one = len(a.streams) == 1
    rules = {str(read.visibility) for layer in a.streams[0].layers for read in layer.reads}
    return "all" if one and all(rule.split(" & ")[0] == "causal" for rule in rules) else "output"


def ways(a: Architecture, of: Device, devices: int, work: Workload, share: float) -> list[Way]:
    """Every sharding that so many devices allow, without and with activation checkpointing."""
    each = -(-work.batch // devices)
    room = of.memory * (1 - RESERVE)
    supervise = supervise_of(a)
    supervised = places(a.output_stream, work.input, work.output) if supervise == "all" else work.output
    found = []
    for sharding in ("none",) if devices == 1 else ("ddp", "fsdp2"):
        for checkpointing in (False, True):

            def taken(
                rows: int, sharding: Sharding = sharding, checkpointing: bool = checkpointing
            ) -> Memory:
                return memory(
                    a, rows, work.input, work.output, work.precision, sharding, devices, checkpointing,
                    work.optimizer, supervised,
                )  # fmt: skip

            rows = largest_rows(room, each, taken)
            if rows == 0:
                found.append(Way(sharding, checkpointing, 0, taken(1), None))
                continue
            passes = -(-each // rows)
            time = step_time(
                a, of, devices, work.batch, passes, work.input, work.output, share, sharding,
                checkpointing, work.optimizer, supervise,
            )  # fmt: skip
            found.append(Way(sharding, checkpointing, rows, taken(rows), time))
    return found


def fastest(of: Sequence[Way]) -> Way | None:
    """The way with the shortest step, None where nothing fits."""
    return min((way for way in of if way.time), key=lambda way: way.time.total, default=None)  # type: ignore[union-attr]


def print_plan(
    names: Sequence[str], on: str, devices: int, work: Workload, share: float, as_json: bool
) -> None:
    """Print what fits and how long it takes, for each network by name; without names, for the paper's ten.

    Raises:
        UserError: an unknown name, device, precision or optimizer, or lengths that can't be used.
    """
    networks = _checked(names or PAPER, work, share)
    if on == "cpu":
        _print_here(networks, devices, work, as_json)
        return
    of = device(on)
    if work.precision != "bf16":
        raise UserError(
            f"--precision {work.precision}: the data sheets' peaks here are of bf16; cpu has both"
        )
    found = {a.name: ways(a, of, devices, work, share) for a in networks}
    if as_json:
        print(json.dumps(_record(networks, found, of, devices, work, share), indent=1))
        return
    console = Console(file=sys.stdout, highlight=False)
    print_wide(_times(networks, found, work))
    if names:
        for a in networks:
            console.print(
                f"\n[bold]{a.name}[/bold]: bytes on each device, at the largest micro-batch that fits"
            )
            print_wide(_fits(found[a.name]))
    for line in assumptions(of, devices, work, share):
        console.print(f"- {line}")


def _checked(names: Sequence[str], work: Workload, share: float) -> list[Architecture]:
    if work.precision not in WIDTH:
        raise UserError(f"--precision {work.precision}: it should be {' or '.join(WIDTH)}")
    if work.optimizer not in MOMENTS:
        raise UserError(f"--optimizer {work.optimizer}: it should be {' or '.join(MOMENTS)}")
    if not 0 < share <= 1:
        raise UserError(f"--share {share:g}: give a share of the peak above 0 and up to 1, such as {SHARE:g}")
    if work.input + work.output > MOST_PLACES:
        raise UserError(
            f"{work.input:,} + {work.output:,} tokens are too many: give at most {MOST_PLACES:,} in all"
        )
    networks = [architecture(name) for name in names]
    for a in networks:
        if a.context is not None and work.input + work.output > a.context:
            raise UserError(
                f"{a.name} has learned positions for {a.context} tokens: give --input and --output of that many in all"
            )
    return networks


def _table() -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("", overflow="fold")
    return table


def _times(networks: Sequence[Architecture], found: dict[str, list[Way]], work: Workload) -> Table:
    table = _table()
    for heading in ("parameters", "FLOPs\na step", "way", "micro-\nbatch", "memory", "a step", "of it\nwaiting",
                    "tokens/s", "all steps"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "way" else "right", no_wrap=True)
    for a in networks:
        best = fastest(found[a.name])
        work_ = work.batch * flops(a, work.input, work.output, supervise_of(a))["training"]
        start = [f"[bold]{a.name}[/bold]", decimal(parameters(a)["total"]), decimal(work_)]
        if best is None or best.time is None:
            table.add_row(*start, "does not fit", *[""] * 6)
            continue
        seconds = best.time.total
        table.add_row(
            *start,
            told_way(best),
            f"{best.rows}",
            binary(best.memory.total),
            told_seconds(seconds),
            f"{best.time.communication / seconds:.0%}",
            decimal(work.batch * (work.input + work.output) / seconds),
            told_seconds(seconds * work.steps),
        )
    return table


def _fits(found: Sequence[Way]) -> Table:
    table = _table()
    columns = [*Memory.__dataclass_fields__, "total"]
    for heading in ("micro-batch", *columns, "a step"):
        table.add_column(heading, justify="right", no_wrap=True)
    for way in found:
        parts = [binary(getattr(way.memory, part)) for part in columns]
        fits = str(way.rows) if way.rows else "1 is too many"
        table.add_row(told_way(way), fits, *parts, told_seconds(way.time.total) if way.time else "")
    return table


def told_way(way: Way) -> str:
    """How it is sharded, and whether activations are made again."""
    name = {"none": "one device", "ddp": "DDP", "fsdp2": "FSDP2"}[way.sharding]
    return f"{name}, checkpointing" if way.checkpointing else name


def told_seconds(seconds: float) -> str:
    """From milliseconds to days."""
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return duration(seconds) if seconds < 48 * 3600 else f"{seconds / 86400:,.1f} days"


def assumptions(of: Device, devices: int, work: Workload, share: float) -> list[str]:
    """What the figures rest on, as sentences."""
    found = [
        f"{devices} × {of.title}: {of.flops / 1e12:,.0f} TFLOP/s of dense bf16, {of.memory / 1e9:,.0f} GB at "
        f"{of.bandwidth / 1e9:,.0f} GB/s, by its data sheet. Nothing here was measured on one.",
        f"{work.steps:,} steps of {work.batch:,} examples of {work.input:,} + {work.output:,} tokens, "
        f"{work.optimizer}; a causal decoder learns from every token, any other network from its output.",
        f"Products reach {share:.0%} of the peak: assumed (--share), as large runs told of (PaLM 46 %, Llama 3 "
        "38 to 43 %). Small networks and small micro-batches reach less. FLOPs are by visible pairs, so a kernel that "
        "computes what is masked takes longer.",
        f"{RESERVE:.0%} of the memory is left free. Weights, gradients and moments are fp32; activations are those of "
        "eager training with a fused attention kernel; masks are dense.",
    ]
    if devices > 1:
        slow = f"; more than {of.neighbours} devices: {BETWEEN_NODES / 1e9:.0f} GB/s each"
        between = slow if devices > of.neighbours else ""
        found.append(
            f"Rings at {of.link / 1e9:.0f} GB/s each way{between}, wholly hidden behind the products where they are "
            "shorter. Loading, evaluation, checkpoints, failures and waiting for the slowest are left out."
        )
    if of.note:
        found.append(f"{of.name}: {of.note}.")
    return found


def _record(
    networks: Sequence[Architecture],
    found: dict[str, list[Way]],
    of: Device,
    devices: int,
    work: Workload,
    share: float,
) -> dict[str, Any]:
    def told(way: Way, best: Way | None) -> dict[str, Any]:
        seconds = None if way.time is None else {**vars(way.time), "total": way.time.total}
        return {
            "sharding": way.sharding,
            "checkpointing": way.checkpointing,
            "fits": way.rows > 0,
            "micro_batch": way.rows,
            "bytes": {**vars(way.memory), "total": way.memory.total},
            "step": seconds,
            "seconds": None if way.time is None else way.time.total * work.steps,
            "fastest": way is best,
        }

    return {
        "device": vars(of),
        "devices": devices,
        "workload": vars(work),
        "share_of_peak": share,
        "assumptions": assumptions(of, devices, work, share),
        "networks": {
            a.name: {
                "parameters": parameters(a)["total"],
                "flops_per_step": work.batch * flops(a, work.input, work.output, supervise_of(a))["training"],
                "supervise": supervise_of(a),
                "ways": [told(way, fastest(found[a.name])) for way in found[a.name]],
            }
            for a in networks
        },
    }


# ------------------------------------------------------------------------------------------------ this machine


def _print_here(networks: Sequence[Architecture], devices: int, work: Workload, as_json: bool) -> None:
    if devices != 1:
        raise UserError("--device cpu is this machine alone: leave --devices out")
    here = memory_here()
    rows = {a.name: _rows_here(a, work, here) for a in networks}
    if all(count == 0 for count in rows.values()):
        raise UserError(
            f"none of these fits into this machine's {here / 1e9:.0f} GB: plan for a --device of the list"
        )
    # torch: this processor's pace is measured by the training loop's own steps.
    from headtohead.study.stepping import measure, share_of_peak
    from headtohead.train.recipe import Recipe

    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found: dict[str, Any] = {}
    table = _table()
    for heading in ("micro-batch", "memory", "a step", "tokens/s", "share of peak", "all steps"):
        table.add_column(heading, justify="right", no_wrap=True)
    peak = 0.0
    for a in networks:
        count = rows[a.name]
        if count == 0:
            table.add_row(a.name, "1 is too many")
            found[a.name] = {"fits": False}
            continue
        recipe = Recipe.model_validate(
            {"learning_rate": 1e-3, "rows_per_step": count, "precision": work.precision, "threads": threads}
        )
        supervise = supervise_of(a)
        stepped = measure(a, count, work.input, work.output, recipe, supervise)
        seconds, peak = stepped.step(a.depths), max(peak, stepped.peak)
        passes = -(-work.batch // count)
        took = _memory_here(a, count, work).total
        share = share_of_peak(a, stepped, count, work.input, work.output, supervise)
        table.add_row(
            a.name, str(count), binary(took), told_seconds(seconds * passes),
            decimal(count * (work.input + work.output) / seconds), f"{share:.0%}",
            told_seconds(seconds * passes * work.steps),
        )  # fmt: skip
        found[a.name] = {
            "fits": True,
            "micro_batch": count,
            "bytes": took,
            "step_seconds": seconds * passes,
            "seconds": seconds * passes * work.steps,
            "share_of_peak": share,
            "matmul_peak_flops": stepped.peak,
            "layer_seconds": stepped.layers,
            "rest_seconds": stepped.rest,
            "compiled": stepped.compiled,
            "precision": stepped.precision,
            "measured_in_seconds": stepped.seconds,
        }
    if as_json:
        print(
            json.dumps(
                {"device": "cpu", "threads": threads, "workload": vars(work), "networks": found}, indent=1
            )
        )
        return
    print_wide(table)
    print(
        f"Measured just now on {threads} threads with steps of networks of one and three layers at these shapes, "
        "AdamW; the rest follows from the number of layers. "
        f"Peak: {peak / 1e9:,.0f} GFLOP/s of a square product. A step of more "
        "examples than the micro-batch goes in passes."
    )


def memory_here() -> float:
    """Bytes of this machine's memory that are free to use."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024.0
    except (OSError, ValueError):
        pass
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


HERE_ROWS = 8
"""Examples in a micro-batch on a CPU, where more are no faster."""


def _rows_here(a: Architecture, work: Workload, here: float) -> int:
    return largest_rows(
        here * (1 - RESERVE), min(HERE_ROWS, work.batch), lambda rows: _memory_here(a, rows, work)
    )


def _memory_here(a: Architecture, rows: int, work: Workload) -> Memory:
    supervised = places(a.output_stream, work.input, work.output) if supervise_of(a) == "all" else work.output
    return memory(
        a,
        rows,
        work.input,
        work.output,
        work.precision,
        optimizer="adamw",
        supervised=supervised,
        scores=True,
    )
