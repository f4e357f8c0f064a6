"""Runs a study: what is not finished yet is started, a few runs side by side, each a process of its own.

The parent starts and watches; it never trains. It may be killed at any moment: the workers go with it, and
the same command goes on from the checkpoints. The page is written by a process of its own too, so that
whatever happens there the study goes on.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from headtohead.errors import Interrupted, UserError, about
from headtohead.files import FolderLock, write_atomic
from headtohead.measure.scored import given_up
from headtohead.model.budget import cache_bytes
from headtohead.study import estimate
from headtohead.study.arms import Matched, matched_arms, too_large, vocabulary
from headtohead.study.dialogue import is_dialogue
from headtohead.study.dialogue import run as run_dialogue
from headtohead.study.ladder import is_ladder
from headtohead.study.loading import learning_rates, load
from headtohead.study.parting import Shard
from headtohead.study.places import Here, Place, place
from headtohead.study.plan import RatesStudy, Study
from headtohead.study.prepare import (
    Source,
    check_rows,
    fingerprint,
    prepare,
    read_data,
    rows_in_pass,
    scored_rows,
    training_lengths,
)
from headtohead.study.results import check_earlier, read_plan, write_results
from headtohead.study.schedule import Basis, Run, arm_costs, comparison, scored_windows, search, trials
from headtohead.study.supervisor import Supervisor
from headtohead.study.texts import source_of
from headtohead.study.tuning import chosen as chosen_of
from headtohead.study.tuning import for_horizon, grid_of, searched
from headtohead.study.versions import versions


def study(
    file: Path,
    text: Sequence[Path] = (),
    pairs: Path | None = None,
    field: str = "text",
    out: Path | None = None,
    workers: int | None = None,
    dry_run: bool = False,
    overrides: Sequence[str] = (),
    on: str | None = None,
    slurm: Sequence[str] = (),
    shard: str | None = None,
) -> None:
    """Run the study in `file`, or go on with it; with `dry_run`, print what it would do.
    `on` and `slurm` say where its runs are computed, see `places.place`. `shard`: do a part of them, see `parting`.

    Raises:
        UserError: a file, key or value that is wrong; OUT in use, or holding another study's results; a full
        disk.
    """
    where = place(on, slurm)
    if is_ladder(file):
        from headtohead.study import ladder_runner  # which runs as this does

        if shard is not None:
            raise UserError(f"--shard {shard}: {file} is a ladder, whose sizes share their search")
        words = ladder_runner.Words(text, pairs, field)
        ladder_runner.run(ladder_runner.Asked(file, overrides, words, out, workers, dry_run, where))
        return
    if is_dialogue(file):
        if on is not None or shard is not None:
            raise UserError(f"{file} holds dialogues on this machine, in turns: without --on and --shard")
        run_dialogue(file, overrides, out, dry_run)
        return
    plan, rates = load(file, overrides)
    part = None if shard is None else Shard.parse(shard)
    if part is not None and rates is not None:
        raise UserError(f"--shard {part}: {file} is a search of learning rates, whose runs belong together")
    source = source_of(plan.data, text, pairs, field, plan.evaluation.tasks)
    with about(file.parent / rates.study if rates else file):
        arms = matched_arms(plan)
    if dry_run:
        estimate.show(file, plan, rates, source, arms, workers or Here().slots(), part=part)
        return
    for matched in arms.values():
        if reason := too_large(matched.arm, matched.architecture, plan.optimizer(matched.arm)):
            raise UserError(f"{file}: {reason}: make it smaller")
    if part is not None and plan.tuning is not None:
        part.check_count(len(arms), "arms, each tuned where it runs")
    untuned = rates is not None or plan.tuning is not None
    chosen, committed = ({}, None) if untuned else learning_rates(plan, file.parent)
    own_part = "" if part is None else f"-shard{part.number}of{part.count}"
    folder = out or Path("runs") / f"{(rates or plan).name}{own_part}"
    with FolderLock(folder), closing(where):
        where.open(folder)
        check_material(folder, plan, source)
        if part is not None:
            part.check_folder(folder)
        data = prepare(plan, source, folder / "data", print)
        check_rows(folder / "data", plan.data)
        basis = basis_of(plan, arms, data, folder / "data", rates)
        title = (rates or plan).title
        work = supervised(folder, workers or where.slots(), where)
        settings: dict[str, dict[str, Any]] = {}
        if plan.tuning is not None:
            tried = trials(basis)
            own_arms = list(arms) if part is None else part.of_arms(arm_costs(basis))
            tried = [run for run in tried if run.arm in own_arms]
            check_earlier(folder, tried)
            first = record_of(file, overrides, plan, None, arms, data, basis, tried, {}, None)
            first |= {} if part is None else {"shard": str(part)}
            if not any((folder / "runs").glob("full-*/result.json")):
                write_atomic(folder / "plan.json", json.dumps(first, indent=1, ensure_ascii=False) + "\n")
            work(tried, f"{title}: tuning", None)
            scored = {a.key: plan.regions_of(a, data["regions"]) for a in plan.arms if a.key in own_arms}
            committed = searched(plan.tuning, scored, write_results(folder, tried))
            settings = {arm: found.settings for arm, found in chosen_of(committed).items()}
            chosen = {arm: found.optimum for arm, found in chosen_of(committed).items()}
        if committed:
            length = committed["steps"], basis.steps(plan.rungs.full), plan.horizon_exponent
            chosen = {arm: for_horizon(rate, *length) for arm, rate in chosen.items()}
        if rates:
            runs = planned = search(basis, rates)
        else:
            # What another shard finds for its arms is its own affair: their runs stand in the plan without a rate.
            planned = comparison(
                basis,
                {arm: chosen.get(arm, plan.tuning.grid[0] if plan.tuning else 0.0) for arm in arms},
                settings,
            )
            runs = _own_runs(plan, planned, part, chosen)
        check_earlier(folder, runs)
        record = record_of(file, overrides, plan, rates, arms, data, basis, planned, chosen, committed)
        if part is not None:
            record["shard"] = str(part)
        keep_promises(folder, record)
        write_atomic(folder / "plan.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        work(runs, title, None if rates else plan.evaluation.test_windows)
        results = write_results(folder, runs)
        if rates:
            _write_rates(folder, file, plan, rates, data, results)


def supervised(
    folder: Path, side_by_side: int, where: Place
) -> Callable[[Sequence[Run], str, int | None], None]:
    """What does runs, so many side by side, under a title, with a page if baselines are measured on `windows`.

    An interruption is told with the command that goes on.
    """
    signal.signal(signal.SIGTERM, _interrupt)

    def work(runs: Sequence[Run], title: str, windows: int | None) -> None:
        try:
            Supervisor(folder, title, runs, side_by_side, windows, where).work()
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; go on where it was with: {_command()}") from None

    return work


def _own_runs(
    plan: Study, planned: Sequence[Run], part: Shard | None, chosen: Mapping[str, float]
) -> list[Run]:
    """The runs that are done here: whole arms where they were tuned here."""
    if part is None:
        return list(planned)
    if plan.tuning is not None:
        return [run for run in planned if run.arm in chosen]
    part.check_count(len(planned), "runs")
    return part.of_runs(planned)


def basis_of(
    plan: Study, arms: dict[str, Matched], data: dict[str, Any], folder: Path, rates: RatesStudy | None
) -> Basis:
    """What the runs share, with the rows that a pass makes under each seed."""
    if data["vocabulary"] != vocabulary(plan):
        raise UserError(
            f"the tokenizer has {data['vocabulary']} tokens where data.vocabulary says {vocabulary(plan)}"
        )
    lengths = training_lengths(folder, data["stores"])
    seeds = (rates.seed,) if rates else (*plan.seeds, *(plan.tuning.seeds if plan.tuning else ()))
    rows = {seed: rows_in_pass(lengths, seed, plan.data.row, plan.data.side) for seed in seeds}
    scored = scored_rows(folder, plan, data["regions"], scored_windows(plan, rates, data))
    return Basis(plan, arms, data, versions(), rows, scored)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def check_material(folder: Path, plan: Study, source: Source) -> None:
    """Other text or other settings of the data would take finished runs' data from under them."""
    path = folder / "data" / "data.json"
    if not path.is_file() or not any((folder / "runs").glob("*/result.json")):
        return
    there, wanted = read_data(folder / "data")["fingerprint"], fingerprint(plan, source)
    for key, value in wanted.items():
        if there.get(key) != value:
            raise UserError(
                f"{folder} holds results on other data ({key}: {_short(there.get(key))} there, {_short(value)} "
                "here): "
                f"set this back, or start afresh with another --out, such as --out {folder}-2"
            )


def _short(value: Any) -> str:
    """A checksum's beginning tells enough."""
    text = str(value)
    return text if len(text) <= 60 else f"{text[:12]}…"


def keep_promises(folder: Path, record: dict[str, Any]) -> None:
    """What was promised before the first full run can't be changed once there is one."""
    done = any(any((folder / "runs").glob(f"{rung}-*/result.json")) for rung in ("full", "ladder"))
    if not done or not (folder / "plan.json").is_file():
        return
    afresh = f"start afresh with another --out, such as --out {folder}-2"
    there = read_plan(folder, f"put back what it was, or {afresh}")["study"]
    for promise in ("margin", "contrasts", "claims"):
        kept, now = (_promise(study_.get(promise)) for study_ in (there, record["study"]))
        if kept != now:
            raise UserError(
                f"{folder} has full runs, made when {promise} was another: it is stated before the run; "
                f"set it back, or {afresh}"
            )


def _promise(value: Any) -> Any:
    """Of contrasts and claims, what binds: arms, factor (which may be gated), contrasts rested on, rule."""
    if not isinstance(value, list):
        return value
    binding = ("name", "key", "from", "to", "factor", "contrasts", "rule")
    return [{key: entry[key] for key in binding if key in entry} for entry in value]


def record_of(
    file: Path,
    overrides: Sequence[str],
    plan: Study,
    rates: RatesStudy | None,
    arms: dict[str, Matched],
    data: dict[str, Any],
    basis: Basis,
    runs: Sequence[Run],
    chosen: dict[str, float],
    committed: dict[str, Any] | None,
) -> dict[str, Any]:
    """plan.json: everything that was decided before the run."""
    typical = basis.typical

    def described(key: str, matched: Matched) -> dict[str, Any]:
        return {
            "key": key,
            "label": matched.arm.label,
            "note": matched.arm.note,
            "supervise": matched.arm.supervise,
            "architecture": matched.architecture.model_dump(mode="json"),
            "depths": list(matched.architecture.depths),
            "parameters": dict(matched.parameters),
            "matched_to": matched.matched_to,
            "mismatch": matched.mismatch,
            "changes": list(matched.changes),
            "learning_rate": chosen.get(key),
            **({"objective": matched.arm.objective.model_dump(mode="json")} if matched.arm.objective else {}),
            "flops": dict(basis.work(key)),
            "cache_bytes": cache_bytes(matched.architecture, *typical),
        }

    return {
        "study": plan.model_dump(mode="json", by_alias=True),
        "rates_study": rates.model_dump(mode="json") if rates else None,
        "study_file": {"name": file.name, "text": file.read_text(encoding="utf-8")},
        "overrides": list(overrides),
        "command": _command(),
        **basis.versions,
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "typical_example": {"input": typical[0], "output": typical[1]},
        "arms": [described(key, matched) for key, matched in arms.items()],
        "rates": committed,
        "runs": [
            {
                "folder": f"runs/{run.name}",
                "arm": run.arm,
                "seed": run.seed,
                "rung": run.rung,
                "learning_rate": run.learning_rate if rates or run.arm in chosen else None,
            }
            for run in runs
        ],
        "data": {key: value for key, value in data.items() if key != "fingerprint"},
        "rows_in_pass": {str(seed): rows for seed, rows in basis.rows_in_pass.items()},
    }  # fmt: skip


def _command() -> str:
    """What was typed."""
    return shlex.join(["headtohead", *(word for word in sys.argv[1:] if word)])


def _processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _write_rates(
    folder: Path,
    file: Path,
    plan: Study,
    rates: RatesStudy,
    data: dict[str, Any],
    results: Sequence[dict[str, Any]],
) -> None:
    """The search's outcome as the file that the comparison reads, when every arm has at least one finished
    run.
    """
    waiting = [r for r in results if given_up(r)]
    if waiting or len(results) < len(plan.arms) * len(rates.grid):
        some = (
            f": {waiting[0]['arm']} at {waiting[0]['learning_rate']:g}, {waiting[0]['reason']}"
            if waiting
            else ""
        )
        raise UserError(f"{folder / rates.writes} is not written: not every run has ended{some}; start again")
    arms: dict[str, Any] = {}
    for arm in plan.arms:
        found = {r["learning_rate"]: r for r in results if r["arm"] == arm.key and r["status"] == "finished"}
        if not found:
            raise UserError(f"no run of arm '{arm.key}' has finished: see {folder}/runs for the reasons")
        regions = list(next(iter(found.values()))["bits_per_byte"])
        by_region = {
            region: [found[rate]["bits_per_byte"][region] if rate in found else None for rate in rates.grid]
            for region in regions
        }
        arms[arm.key] = {
            **grid_of(rates.grid, by_region),
            "parameters": next(iter(found.values()))["parameters"],
        }
    record = {
        "study": plan.name,
        "search": rates.name,
        "split": "tune",
        "seed": rates.seed,
        "steps": rates.steps,
        "regions": list(data["regions"]),
        "arms": arms,
        "corpus_sha256": data["corpus_sha256"],
        "tokenizer_sha256": data["tokenizer_sha256"],
        "data": plan.data.model_dump(mode="json"),
        "recipe": plan.recipe,
        "command": f"headtohead study {file} --out {folder}",
        "date": datetime.date.today().isoformat(),
        **versions(),
    }
    path = folder / rates.writes
    write_atomic(path, json.dumps(record, indent=1) + "\n")
    print(f"learning rates: {path}; the comparison reads them from {file.parent / rates.writes}")
    for key, found in arms.items():
        edge = ", on the edge of the grid" if found["edge"] else ""
        values = "  ".join("stopped" if value is None else f"{value:.4f}" for value in found["bits_per_byte"])
        print(f"  {key:20} {found['optimum']:g}{edge}   ({values})")
