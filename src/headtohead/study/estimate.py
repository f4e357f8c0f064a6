"""What a study would do, before it does it: runs, match, FLOPs, and an estimate of the time. Imports no
torch.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from headtohead.measure.verdicts import detectable_before
from headtohead.model.budget import cache_bytes
from headtohead.study.arms import Matched, too_large
from headtohead.study.display import duration
from headtohead.study.loading import learning_rates
from headtohead.study.pace import pace
from headtohead.study.parting import Shard
from headtohead.study.plan import RatesStudy, Study
from headtohead.study.prepare import Source, check_rows, prepare, rows_in_pass, scored_rows, training_lengths
from headtohead.study.schedule import Basis, Run, arm_costs, comparison, scored_windows, search, trials
from headtohead.study.versions import versions


def show(
    file: Path,
    plan: Study,
    rates: RatesStudy | None,
    source: Source,
    arms: Mapping[str, Matched],
    workers: int,
    console: Console | None = None,
    part: Shard | None = None,
) -> None:
    """Print the study's plan, or what a shard of it would do. The text is prepared in a temporary folder, so that
    its tokens are counted, not guessed.

    Raises:
        UserError: as the study itself would.
    """
    console = console or Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="headtohead-") as folder:
        data = prepare(plan, source, Path(folder) / "data", lambda line: None)
        check_rows(Path(folder) / "data", plan.data)
        windows = scored_windows(plan, rates, data)
        scored = scored_rows(Path(folder) / "data", plan, data["regions"], windows)
        lengths = training_lengths(Path(folder) / "data", data["stores"])
        seeds = (rates.seed,) if rates else (*plan.seeds, *(plan.tuning.seeds if plan.tuning else ()))
        rows = {seed: rows_in_pass(lengths, seed, plan.data.row, plan.data.side) for seed in seeds}
    basis = Basis(plan, arms, data, versions(), rows, scored)
    if rates:
        runs = search(basis, rates)
    elif plan.tuning is not None:  # what a run costs doesn't depend on the rate that will be found
        runs = [*trials(basis), *comparison(basis, dict.fromkeys(arms, plan.tuning.grid[0]))]
    else:
        runs = comparison(basis, learning_rates(plan, file.parent)[0])

    if part is not None:
        if plan.tuning is not None:
            own = part.of_arms(arm_costs(basis))
            runs = [run for run in runs if run.arm in own]
        else:
            runs = part.of_runs(runs)
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
    for table, note in (_match(plan, basis, arms), runs_table(runs, workers)):
        console.print()
        console.print(table)
        console.print(note)
    documents = len(set(data["groups"]["test"]))
    effect = detectable_before(plan.model_dump(mode="json", by_alias=True), documents)
    if not rates and math.isfinite(effect):
        console.print(
            f"\nWith {len(plan.seeds)} seeds and {documents} held-out documents, a true difference of about "
            f"{effect:.3f} bits per byte would be found four times in five (supposing the spread of earlier "
            f"studies); the margin is {plan.margin:g}."
        )


def _match(plan: Study, basis: Basis, arms: Mapping[str, Matched]) -> tuple[Table, str]:
    table = _table("The arms, and what differs between them")
    columns = ("arm", "depth", "d_ff", "params", "off by", "loss", "train", "read", "write", "cache")
    for name in columns:
        table.add_column(name, justify="left" if name in ("arm", "loss") else "right", no_wrap=True)
    typical = basis.typical
    for key, matched in arms.items():
        network = matched.architecture
        cost = basis.work(key)
        widths = "/".join(str(w) for w in sorted({layer.d_ff for s in network.streams for layer in s.layers}))
        table.add_row(
            key,
            "+".join(map(str, network.depths)),
            widths,
            f"{matched.parameters['total']:,}",
            "" if matched.mismatch is None else f"{matched.mismatch:+.2%}",
            {"all": "all", "output": "out"}.get(matched.arm.supervise, matched.arm.supervise),
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
    for matched in arms.values():
        if reason := too_large(matched.arm, matched.architecture, plan.optimizer(matched.arm)):
            note += f" Not on this machine: {reason}."
    return table, note


def runs_table(runs: Sequence[Run], workers: int) -> tuple[Table, str]:
    """The runs by rung, arm and length with their cost, and in words when they would be done."""
    here = pace()
    table = _table(f"The runs, {workers} side by side")
    for name in ("rung", "arm", "runs", "steps", "FLOPs each", "time each"):
        table.add_column(name, justify="left" if name in ("rung", "arm") else "right", no_wrap=True)
    groups: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.rung, run.arm, run.description["recipe"]["steps"]), []).append(run)
    for (rung, arm, _), some in groups.items():
        steps = some[0].description["recipe"]["steps"]
        table.add_row(
            rung,
            arm,
            str(len(some)),
            f"{steps:,}",
            f"{some[0].cost:.2e}",
            f"about {duration(here.seconds(some[0]))}",
        )
    ends: dict[str, float] = {}
    free = [0.0] * max(1, workers)
    for run in runs:
        free.sort()
        free[0] += here.seconds(run)
        ends[run.rung] = max(ends.get(run.rung, 0.0), free[0])
    told = ", ".join(f"{rung} done after about {duration(end)}" for rung, end in ends.items())
    work = sum(run.cost + run.scoring_cost for run in runs)
    note = f"{len(runs)} runs, {work:.2e} FLOPs; {told}. An estimate: {here}."
    return table, note


def _table(title: str) -> Table:
    look: Any = {"box": box.SIMPLE_HEAD, "pad_edge": False, "padding": (0, 1, 0, 0), "show_edge": False}
    return Table(title=title, title_justify="left", title_style="bold", **look)
