"""`headtohead bench train`: a training step (forward, backward, clipping, optimizer) of ours and of its peers.

All candidates of one network are timed in turns in one process, so that they share what the machine is doing; the
figure of each is the median over the rounds, a ratio the median of the rounds' ratios. Peak memory is taken in a
process of each candidate's own. The machine's limit is measured in the same run.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from headtohead.data.layouts import Layout
from headtohead.data.shards import CONTINUE, SPECIALS, Example
from headtohead.errors import UserError
from headtohead.interop.bench.peers import require_transformers, twin
from headtohead.measure.limits import matmul_peak, peak_memory
from headtohead.model.architecture import Architecture
from headtohead.model.batch import Batch
from headtohead.model.budget import flops
from headtohead.model.presets import architecture
from headtohead.model.transformer import Transformer
from headtohead.train.loop import backward
from headtohead.train.optimizers import make_optimizer
from headtohead.train.recipe import Recipe
from headtohead.train.runtime import configure

DEFAULT = ("decllm-mini", "redllm-mini")
PEERS = ("transformers-eager", "transformers-compiled")
OURS = "headtohead"


@dataclass(frozen=True)
class Setting:
    """What a step is made of: `rows` examples of so many places, on so many threads."""

    rows: int = 8
    length: int = 512
    threads: int = 2
    rounds: int = 7


def bench_train(
    names: Sequence[str], against: Sequence[str], setting: Setting, say: Callable[[str], None]
) -> dict[str, Any]:
    """The figures of `headtohead bench train --json`; see `docs/performance.md` for what each means.

    Raises:
        UserError: for a preset or peer that isn't known, or a network that has no twin in transformers.
    """
    wanted = [architecture(name) for name in names or DEFAULT]
    unknown = [peer for peer in against if peer != "transformers"]
    if unknown:
        raise UserError(f"there is no peer '{unknown[0]}' to train against: transformers")
    peers = PEERS if "transformers" in against else ()
    if peers:
        require_transformers()
        for a in wanted:
            twin(a, setting.length)
    torch.set_num_threads(setting.threads)
    peaks = [matmul_peak()]
    found = {}
    with tempfile.TemporaryDirectory(prefix="headtohead-bench-") as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # compiled anew: what it costs is one of the figures
        for a in wanted:
            found[a.name] = _bench(a, peers, setting, say)
            peaks.append(matmul_peak())
    peak = max(peaks)
    for a in wanted:
        entry = found[a.name]
        per_token = _flops(a, setting) / (setting.rows * setting.length)
        entry["share_of_peak"] = entry["tokens_per_second"] * per_token / peak
        for peer in entry["peers"].values():
            peer["share_of_peak"] = peer["tokens_per_second"] * per_token / peak
    return {
        "models": found,
        "matmul_peak_flops": peak,
        "rows": setting.rows,
        "length": setting.length,
        "threads": setting.threads,
        "torch": torch.__version__,
    }


def _flops(a: Architecture, setting: Setting) -> int:
    """Training FLOPs of a step, by visible pairs (`model.budget`): a causal mask counts half of the square."""
    side = setting.length // 2
    return setting.rows * flops(a, side, side, "output" if a.two_streams else "all")["training"]


def _bench(
    a: Architecture, peers: Sequence[str], setting: Setting, say: Callable[[str], None]
) -> dict[str, Any]:
    steps: dict[str, Callable[[], object]] = {}
    first: dict[str, float] = {}
    for candidate in (OURS, *peers):
        say(f"{a.name}: {candidate}, first step")
        began = time.perf_counter()
        steps[candidate] = step_of(a, candidate, setting)
        steps[candidate]()
        first[candidate] = time.perf_counter() - began
        steps[candidate]()
    times: dict[str, list[float]] = {candidate: [] for candidate in steps}
    for number in range(setting.rounds):
        say(f"{a.name}: round {number + 1} of {setting.rounds}")
        for candidate, step in steps.items():
            began = time.perf_counter()
            step()
            times[candidate].append(time.perf_counter() - began)
    steps.clear()
    tokens = setting.rows * setting.length
    speed = {candidate: tokens / statistics.median(found) for candidate, found in times.items()}
    say(f"{a.name}: peak memory")
    memory = {candidate: _peak_memory(a, candidate, setting) for candidate in times}

    def ratio(peer: str) -> float:
        return statistics.median(theirs / ours for theirs, ours in zip(times[peer], times[OURS], strict=True))

    return {
        "tokens_per_second": speed[OURS],
        "peak_memory_bytes": memory[OURS],
        "compile_seconds": first[OURS] - statistics.median(times[OURS]),
        "peers": {
            peer: {
                "tokens_per_second": speed[peer],
                "ratio": ratio(peer),
                "peak_memory_bytes": memory[peer],
                "compile_seconds": first[peer] - statistics.median(times[peer]),
            }
            for peer in peers
        },
    }


def step_of(a: Architecture, candidate: str, setting: Setting) -> Callable[[], object]:
    """A training step of a candidate, to be called again and again."""
    if candidate == OURS:
        return our_step(a, setting, {})
    return _their_step(a, setting, compiled=candidate.endswith("compiled"))


def example_batch(a: Architecture, setting: Setting) -> Batch:
    """Rows of one document each, of random tokens, that fill every place: halves of input and output."""
    side = setting.length // 2
    draw = np.random.default_rng(0)
    rows = [
        [
            Example(
                input=draw.integers(len(SPECIALS), a.vocabulary, side - 1).astype(np.int32),
                output=draw.integers(len(SPECIALS), a.vocabulary, side - 1).astype(np.int32),
                mode=CONTINUE,
                ends=True,
                document=0,
                region="continuation",
                output_bytes=side,
            )
        ]
        for _ in range(setting.rows)
    ]
    return Layout(a, "output" if a.two_streams else "all", setting.length, side).batch(rows)


def our_step(a: Architecture, setting: Setting, settings: Mapping[str, Any]) -> Callable[[], object]:
    """A step of a fresh network by the recipe's defaults, or by other `settings` of it."""
    needed = {"learning_rate": 1e-4, "rows_per_step": setting.rows, "threads": setting.threads, "steps": 1}
    recipe = Recipe.model_validate({**needed, **settings})
    runtime = configure(recipe)
    model = Transformer(a, 0)
    if runtime.compiled:
        model.compile_blocks()
    optimizer = make_optimizer(model, recipe)
    parameters = list(model.parameters())
    batch = example_batch(a, setting)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        backward(model, [batch], recipe.z_loss, runtime)
        float(torch.nn.utils.clip_grad_norm_(parameters, recipe.clip))
        optimizer.step()

    return step


def _their_step(a: Architecture, setting: Setting, compiled: bool) -> Callable[[], object]:
    model = twin(a, setting.length).train()
    forward = torch.compile(model, dynamic=False) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    parameters = list(model.parameters())
    draw = torch.Generator().manual_seed(0)
    side = setting.length // 2 if a.two_streams else setting.length
    ids, labels = (
        torch.randint(len(SPECIALS), a.vocabulary, (setting.rows, side), generator=draw) for _ in range(2)
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = forward(input_ids=ids, labels=labels if a.two_streams else ids).loss
        loss.backward()
        float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
        optimizer.step()

    return step


def print_figures(found: dict[str, Any]) -> None:
    """The figures as a table, for people."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ("network", "tokens/s", "ratio", "share of peak", "peak memory", "first step")
    for column in columns:
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, entry in found["models"].items():
        for candidate, figures in ((name, entry), *entry["peers"].items()):
            ratio = f"1 / {figures['ratio']:.2f}" if "ratio" in figures else "1"
            table.add_row(
                candidate if candidate == name else f"  {candidate}",
                f"{figures['tokens_per_second']:,.0f}",
                ratio,
                f"{figures['share_of_peak']:.2f}",
                f"{figures['peak_memory_bytes'] / 2**30:.2f} GiB",
                f"+{figures['compile_seconds']:.0f} s",
            )
    Console().print(table)
    print(
        f"steps of {found['rows']} x {found['length']} tokens, {found['threads']} threads, bf16; the peak: "
        f"{found['matmul_peak_flops'] / 1e9:,.0f} GFLOP/s, the fastest square product in this run"
    )


def _peak_memory(a: Architecture, candidate: str, setting: Setting) -> int:
    """Bytes of the largest resident set of a process that makes three steps."""
    words = [a.name, candidate, setting.rows, setting.length, setting.threads]
    done = subprocess.run(
        [sys.executable, "-m", __name__, *map(str, words)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"{a.name}: {candidate} failed in a process of its own: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _main(name: str, candidate: str, rows: str, length: str, threads: str) -> None:
    setting = Setting(int(rows), int(length), int(threads))
    torch.set_num_threads(setting.threads)
    step = step_of(architecture(name), candidate, setting)
    for _ in range(3):
        step()
    print(peak_memory())


if __name__ == "__main__":
    _main(*sys.argv[1:])
