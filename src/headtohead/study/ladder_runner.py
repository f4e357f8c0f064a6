"""Runs a ladder: the search of learning rates, then every size for every budget; and what it would do, before it does.

All else is a study's own way of running: `supervisor`, `worker`, `training`. Imports no torch.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from headtohead.errors import UserError, about
from headtohead.files import FolderLock, write_atomic
from headtohead.study.arms import Matched, matched_arms, too_large
from headtohead.study.display import duration
from headtohead.study.estimate import runs_table
from headtohead.study.ladder import Ladder, Rungs, ladder_runs, load_ladder, rates_of, tuning_runs
from headtohead.study.pace import pace
from headtohead.study.places import Here, Place
from headtohead.study.plan import Study
from headtohead.study.prepare import Source, check_rows, prepare
from headtohead.study.results import check_earlier, write_results
from headtohead.study.runner import basis_of, check_material, keep_promises, record_of, supervised
from headtohead.study.schedule import Run
from headtohead.study.texts import source_of
from headtohead.study.tuning import searched


@dataclass(frozen=True)
class Words:
    """What the command line said of the text."""

    text: Sequence[Path]
    pairs: Path | None
    field: str


@dataclass(frozen=True)
class Asked:
    """What the command line said of a ladder."""

    file: Path
    overrides: Sequence[str]
    words: Words
    out: Path | None
    workers: int | None
    dry_run: bool
    where: Place


def run(asked: Asked) -> None:
    """Run the ladder, or go on with it; with `dry_run`, print what it would do.

    Raises:
        UserError: as a study does.
    """
    ladder, plan = load_ladder(asked.file, asked.overrides)
    source = source_of(plan.data, asked.words.text, asked.words.pairs, asked.words.field)
    with about(asked.file):
        arms = matched_arms(plan)
    if asked.dry_run:
        _show(asked, source, ladder, plan, arms)
        return
    for matched in arms.values():
        if reason := too_large(matched.arm, matched.architecture, plan.optimizer(matched.arm)):
            raise UserError(f"{asked.file}: {reason}: make it smaller")
    folder = asked.out or Path("runs") / ladder.name
    with FolderLock(folder), closing(asked.where):
        asked.where.open(folder)
        check_material(folder, plan, source)
        data = prepare(plan, source, folder / "data", print)
        check_rows(folder / "data", plan.data)
        basis = basis_of(plan, arms, data, folder / "data", None)
        work = supervised(folder, asked.workers or asked.where.slots(), asked.where)

        def written(
            runs: Sequence[Run], rates: Mapping[str, float], found: dict[str, Any] | None, **more: Any
        ) -> None:
            record = record_of(
                asked.file, asked.overrides, plan, None, arms, data, basis, runs, dict(rates), found
            )
            keep_promises(folder, record)
            whole = {**record, "ladder": ladder.model_dump(mode="json", by_alias=True), **more}
            text = json.dumps(whole, indent=1, ensure_ascii=False) + "\n"
            write_atomic(folder / "plan.json", text)

        tried = tuning_runs(ladder, basis)
        check_earlier(folder, tried)
        if not any((folder / "runs").glob("ladder-*/result.json")):
            written(tried, {}, None)
        work(tried, f"{ladder.title}: tuning", None)
        keys = dict.fromkeys(run.arm for run in tried)
        regions: dict[str, Sequence[str]] = {key: data["regions"] for key in keys}
        found = searched(ladder.tuning, regions, write_results(folder, tried))
        optima = {key: found["arms"][key]["optimum"] for key in keys}
        rates = rates_of(ladder, _sizes(arms), optima)
        rungs = ladder_runs(ladder, basis, rates)
        check_earlier(folder, rungs.runs)
        written(rungs.runs, rates, found, left_out=[list(entry) for entry in rungs.left_out])
        work(rungs.runs, ladder.title, plan.evaluation.test_windows)


def _sizes(arms: Mapping[str, Matched]) -> dict[str, int]:
    return {key: matched.parameters["total"] for key, matched in arms.items()}


def _show(asked: Asked, source: Source, ladder: Ladder, plan: Study, arms: Mapping[str, Matched]) -> None:
    """Print the runs, what they cost, and what is left out. The text is prepared in a temporary folder."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="headtohead-") as place:
        folder = Path(place) / "data"
        data = prepare(plan, source, folder, lambda line: None)
        check_rows(folder, plan.data)
        basis = basis_of(plan, dict(arms), data, folder, None)
    optima = {
        ladder.key(arm.key, size): ladder.tuning.grid[0]
        for arm in ladder.arms
        for size in ladder.tuning.sizes
    }
    rungs: Rungs = ladder_runs(ladder, basis, rates_of(ladder, _sizes(arms), optima))
    tried = tuning_runs(ladder, basis)
    console.print(f"[bold]{ladder.title}[/bold]")
    console.print(ladder.question)
    console.print(f"Text: {source.material.source}.")
    for key, matched in arms.items():
        off = "" if matched.mismatch is None else f", {matched.mismatch:+.2%} of {matched.matched_to}"
        depth = "+".join(map(str, matched.architecture.depths))
        width = matched.architecture.d_model
        console.print(
            f"  {key}: {matched.parameters['total']:,} parameters, {depth} layers of width {width}{off}"
        )
    table, note = runs_table([*tried, *rungs.runs], asked.workers or Here().slots())
    console.print()
    console.print(table)
    console.print(note)
    here = pace()
    console.print(
        f"The search: {len(tried)} runs, {duration(sum(map(here.seconds, tried)))} of one worker's time; the ladder: "
        f"{len(rungs.runs)} runs, {duration(sum(map(here.seconds, rungs.runs)))}."
    )
    for arm, budget, why in rungs.left_out:
        console.print(f"left out: {arm} for {budget}: {why}")
