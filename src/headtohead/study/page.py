"""What a study's page says, gathered from its folder: no layout here, and no judgement that `measure` didn't
make.

`read` takes `plan.json` and the lines of `results.jsonl` (none, some, all) and gives a `Page`, from which the
templates are filled. Arms keep the order of the study file everywhere: sorting them would be a ranking.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from headtohead.errors import UserError
from headtohead.files import read_text
from headtohead.measure.scored import given_up, judged_regions
from headtohead.model.architecture import Architecture
from headtohead.study.figures import Curve
from headtohead.study.palette import Ink, inks
from headtohead.study.results import read_plan

Moment = Literal["nothing", "rehearsal", "underway", "finished"]
Axis = Literal["tokens", "flops"]

THRESHOLD_SHARE = 2 / 3
"""A run has found its input when it needs less than this share of what a 5-gram model, which has none, needs.
"""


@dataclass(frozen=True)
class Arm:
    """One arm of the study, with its look on the page."""

    key: str
    label: str
    note: str
    ink: Ink
    architecture: Architecture
    supervise: str
    objective: str | None
    parameters: int
    matched_to: str | None
    mismatch: float | None
    learning_rate: float | None
    index: int


@dataclass(frozen=True)
class Sample:
    """How every arm goes on from one prompt."""

    region: str
    input: str
    reference: str
    outputs: tuple[tuple[Arm, str], ...]


@dataclass(frozen=True)
class Crossing:
    """When an arm's seeds went under the threshold, in tokens (None: not yet), and in FLOPs."""

    arm: Arm
    tokens: tuple[float | None, ...]
    flops: tuple[float | None, ...]


@dataclass(frozen=True)
class Run:
    """One planned run and how it stands."""

    arm: Arm
    seed: int
    rung: str
    status: Literal["finished", "stopped", "to come"]
    reason: str


@dataclass(frozen=True)
class Page:
    """Everything the templates show."""

    plan: dict[str, Any]
    results: list[dict[str, Any]]
    timings: list[dict[str, Any]]
    written: datetime

    @cached_property
    def study(self) -> dict[str, Any]:
        return self.plan["study"]

    @cached_property
    def regions(self) -> list[str]:
        return list(self.plan["data"].get("regions") or self.study["data"]["regions"])

    @cached_property
    def judged(self) -> list[str]:
        """What contrasts are judged in: the regions, and the rise where lengths are scored."""
        return judged_regions({**self.study, "data": {"regions": self.regions}})

    @cached_property
    def elsewhere(self) -> list[str]:
        """The texts out of the domain that runs are scored on."""
        return list(dict.fromkeys(name for line in self.shown for name in line.get("out_of_domain", ())))

    def out_of_domain(self, arm: Arm, name: str, region: str) -> float | None:
        """The mean over the arm's shown runs."""
        found = [line.get("out_of_domain", {}).get(name, {}).get(region) for line in self.of(arm)]
        values = [value for value in found if value is not None]
        return sum(values) / len(values) if values else None

    @cached_property
    def tasks(self) -> list[str]:
        """The tasks that runs were asked."""
        return list(dict.fromkeys(name for line in self.shown for name in line.get("tasks", ())))

    def task(self, arm: Arm, name: str) -> dict[str, Any] | None:
        """How an arm does on a task: each figure's mean over its shown runs, with the largest of the runs' standard
        errors over questions.
        """
        found = [line["tasks"][name] for line in self.of(arm) if name in line.get("tasks", ())]
        if not found:
            return None
        figures = {
            figure: (
                sum(one["figures"][figure]["mean"] for one in found) / len(found),
                max(one["figures"][figure]["standard_error"] or 0.0 for one in found),
            )
            for figure in found[0]["figures"]
        }
        return {"questions": found[0]["questions"], "chance": found[0].get("chance"), "figures": figures}

    def at_lengths(self, arm: Arm) -> list[dict[str, Any]]:
        """The arm's figures at each length, means over its shown runs; `refused` where it has no such positions."""
        runs = [line["lengths"] for line in self.of(arm) if "lengths" in line]
        found = []
        for at in zip(*runs, strict=False):
            one = {"times": at[0]["times"], "bytes": at[0]["bytes"], "refused": at[0].get("refused")}
            for key in ("bits_per_byte", "rise"):
                values = [run[key] for run in at if run.get(key) is not None]
                one[key] = sum(values) / len(values) if values else None
            for key in ("local", "cross_local", "input"):
                shares = [
                    run["attention"][key] for run in at if (run.get("attention") or {}).get(key) is not None
                ]
                one[key] = sum(shares) / len(shares) if shares else None
            found.append(one)
        return found

    @cached_property
    def arms(self) -> list[Arm]:
        notes = {arm["key"]: arm.get("note", "") for arm in self.study["arms"]}
        looks = inks(len(self.plan["arms"]))
        return [
            Arm(
                key=arm["key"],
                label=arm["label"],
                note=notes.get(arm["key"], ""),
                ink=look,
                architecture=Architecture.model_validate(arm["architecture"]),
                supervise=arm["supervise"],
                objective=arm.get("objective", {}).get("kind"),
                parameters=arm["parameters"]["total"],
                matched_to=arm.get("matched_to"),
                mismatch=arm.get("mismatch"),
                learning_rate=arm["learning_rate"],
                index=index,
            )
            for index, (arm, look) in enumerate(zip(self.plan["arms"], looks, strict=True))
        ]

    def arm(self, key: str) -> Arm:
        """The arm of that key."""
        return next(arm for arm in self.arms if arm.key == key)

    @cached_property
    def runs(self) -> list[Run]:
        """Every planned run."""
        lines = {(line["rung"], line["arm"], line["seed"]): line for line in self.results}
        found = []
        for run in self.plan["runs"]:
            line = lines.get((run["rung"], run["arm"], run["seed"]))
            status = "to come" if line is None else "stopped" if line["status"] == "stopped" else "finished"
            reason = (line or {}).get("reason") or ""
            found.append(Run(self.arm(run["arm"]), run["seed"], run["rung"], status, reason))
        return found

    def count(self, rung: str, *statuses: str) -> int:
        """How many planned runs of that rung have one of these statuses (no status: all of them)."""
        return sum(run.rung == rung and (not statuses or run.status in statuses) for run in self.runs)

    @cached_property
    def stopped(self) -> list[Run]:
        return [run for run in self.runs if run.status == "stopped"]

    @cached_property
    def moment(self) -> Moment:
        again = any(map(given_up, self.results))
        if not again and not any(run.status == "to come" for run in self.runs):
            return "finished"
        if any(line["rung"] == "full" for line in self.results):
            return "underway"
        return "rehearsal" if self.results else "nothing"

    @cached_property
    def rung(self) -> str:
        """The rung whose figures the page shows: the full one as soon as it has any."""
        finished = {line["rung"] for line in self.results if line["status"] == "finished"}
        return "full" if "full" in finished or not finished else "rehearsal"

    @cached_property
    def shown(self) -> list[dict[str, Any]]:
        """The finished runs whose figures the page shows."""
        return [line for line in self.results if line["rung"] == self.rung and line["status"] == "finished"]

    def of(self, arm: Arm) -> list[dict[str, Any]]:
        """The shown runs of one arm, by seed."""
        return sorted((line for line in self.shown if line["arm"] == arm.key), key=lambda line: line["seed"])

    # -- figures of the arms

    def bits(self, arm: Arm, region: str) -> list[float]:
        """Bits per byte of the arm's shown runs."""
        return [x for line in self.of(arm) if (x := line["bits_per_byte"].get(region)) is not None]

    def value_of_input(self, arm: Arm, region: str) -> float | None:
        """The mean over the arm's shown runs."""
        values = [line["value_of_input"][region] for line in self.of(arm) if region in line["value_of_input"]]
        return sum(values) / len(values) if values else None

    def all_tokens(self, arm: Arm) -> float | None:
        """Bits per byte over all tokens, of an arm that learns from all."""
        values = [x for line in self.of(arm) if (x := line.get("all_tokens_bits_per_byte")) is not None]
        return sum(values) / len(values) if values else None

    @cached_property
    def baselines(self) -> dict[str, dict[str, float]]:
        """Name of the baseline -> region -> bits per byte."""
        return self.plan["data"].get("baselines") or {}

    def baselines_of(self, region: str) -> dict[str, float]:
        return {name: by_region[region] for name, by_region in self.baselines.items() if region in by_region}

    # -- learning curves

    def threshold(self, region: str) -> float | None:
        """Where a run counts as having found its input, in regions where any shown run ever does."""
        reference = self.baselines_of(region).get("5-gram")
        if reference is None:
            return None
        limit = THRESHOLD_SHARE * reference
        lowest = min(
            (p["bits_per_byte"].get(region, math.inf) for line in self.shown for p in line["curve"]),
            default=math.inf,
        )
        return limit if lowest < limit else None

    def curves(self, region: str, x: Axis) -> list[Curve]:
        """Each arm's curve over its seeds, at the points that all of its seeds have."""
        found = []
        for arm in self.arms:
            runs = [line["curve"] for line in self._scored(arm, region) if line["curve"]]
            if not runs:
                continue
            steps = sorted(set.intersection(*({p["step"] for p in run} for run in runs)))
            if not steps:
                continue
            at = [{p["step"]: p for p in run} for run in runs]
            values = np.array([[run[step]["bits_per_byte"][region] for step in steps] for run in at])
            found.append(
                Curve(
                    arm.key,
                    arm.ink,
                    tuple(float(np.mean([run[step][x] for run in at])) for step in steps),
                    tuple(values.mean(axis=0).tolist()),
                    tuple(values.min(axis=0).tolist()),
                    tuple(values.max(axis=0).tolist()),
                    tuple(c for c in self._crossings(arm, region, x) if c is not None),
                )
            )
        return found

    def _crossings(self, arm: Arm, region: str, x: Axis) -> tuple[float | None, ...]:
        limit = self.threshold(region)
        if limit is None:
            return ()
        return tuple(crossing(line["curve"], region, x, limit) for line in self._scored(arm, region))

    def _scored(self, arm: Arm, region: str) -> list[dict[str, Any]]:
        """The arm's shown runs, none where it isn't scored in the region."""
        return [line for line in self.of(arm) if region in line["bits_per_byte"]]

    def crossings(self, region: str) -> list[Crossing]:
        """When each arm goes under the threshold of the region; nothing where there is none."""
        if self.threshold(region) is None:
            return []
        return [
            Crossing(arm, self._crossings(arm, region, "tokens"), self._crossings(arm, region, "flops"))
            for arm in self.arms
            if self._scored(arm, region)
        ]

    # -- times and samples

    def seconds(self, arm: Arm) -> list[float]:
        """Training and scoring, in seconds, of the arm's shown runs that were timed."""
        found = []
        for line in self.timings:
            if line["arm"] == arm.key and line["rung"] == self.rung:
                found.append(sum(value for part, value in line["seconds"].items() if part != "this_start"))
        return found

    @cached_property
    def arms_shown(self) -> list[Arm]:
        """The arms that have a shown run."""
        return [arm for arm in self.arms if self.of(arm)]

    @cached_property
    def samples(self) -> list[Sample]:
        """The prompts, each with the continuation by every arm's run of its lowest seed."""
        first = {arm: self.of(arm)[0] for arm in self.arms if self.of(arm)}
        prompts: dict[tuple[str, str], str] = {}
        for line in first.values():
            for sample in line["samples"]:
                prompts.setdefault((sample["region"], sample["input"]), sample["reference"])
        return [
            Sample(
                region,
                prompt,
                reference,
                tuple(
                    (arm, sample["output"])
                    for arm, line in first.items()
                    for sample in line["samples"]
                    if (sample["region"], sample["input"]) == (region, prompt)
                ),
            )
            for (region, prompt), reference in prompts.items()
        ]

    @cached_property
    def identities(self) -> dict[str, list[str]]:
        """What the shown runs were made with: each key with its different values (one, if all is well)."""
        found: dict[str, list[str]] = {}
        for line in self.shown:
            for key, value in line["identity"].items():
                text = str(value)
                if text not in found.setdefault(key, []):
                    found[key].append(text)
        return found


def crossing(curve: Sequence[Mapping[str, Any]], region: str, x: Axis, limit: float) -> float | None:
    """Where the curve goes under `limit` for good, between its points along a straight line; None if it never
    does.
    """
    values = [point["bits_per_byte"][region] for point in curve]
    over = [i for i, value in enumerate(values) if value >= limit]
    first = over[-1] + 1 if over else 0
    if first >= len(values):
        return None
    if first == 0:
        return float(curve[0][x])
    before, after = values[first - 1], values[first]
    share = (before - limit) / (before - after)
    return float(curve[first - 1][x] + share * (curve[first][x] - curve[first - 1][x]))


# --------------------------------------------------------------------------------------------------------


def read(folder: Path) -> Page:
    """The page of the study in `folder`.

    Raises:
        UserError: no `plan.json` there, or a file that can't be read or is damaged.
    """
    plan = read_plan(folder, "start the study again, which writes it anew")
    path = folder / "results.jsonl"
    results = _lines(path, RESULT) if path.exists() else []
    timed = folder / "timings.jsonl"
    timings = _lines(timed, RUN | {"seconds"}) if timed.exists() else []
    written = datetime.fromtimestamp((path if path.exists() else folder / "plan.json").stat().st_mtime, UTC)
    return Page(plan, results, timings, written)


def read_results(path: Path) -> list[dict[str, Any]]:
    """The lines of a results.jsonl.

    Raises:
        UserError: a line that is damaged.
    """
    return _lines(path, RESULT)


RUN = {"arm", "seed", "rung"}
RESULT = RUN | {"status"}
FINISHED = {"bits_per_byte", "value_of_input", "curve", "documents", "ledger", "identity", "samples"}
"""What the lines of the study's files have."""


def _lines(path: Path, needed: set[str]) -> list[dict[str, Any]]:
    found = []
    again = "start the study again, which writes it anew"
    for number, line in enumerate(read_text(path, "the results").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}: line {number} is not JSON: {again}") from error
        keys = entry.keys() if isinstance(entry, dict) else set()
        finished = FINISHED if keys and entry.get("status") == "finished" else set()
        if missing := sorted((needed | finished) - keys):
            raise UserError(f"{path}: line {number} is damaged, it has no {missing[0]}: {again}")
        found.append(entry)
    return found
