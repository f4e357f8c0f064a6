"""What the ladder's results recommend, with interval and cost, or what would settle it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headtohead.errors import UserError
from headtohead.files import read_json
from headtohead.model.budget import cache_bytes, flops
from headtohead.study.choosing.candidates import FEWEST_STEPS, Plan, most_steps
from headtohead.study.judgement import Difference, Judgement, judge
from headtohead.study.page import Arm, Page, read

Standing = Literal["behind", "level", "not settled", "not judged"]
CHEAPER = 0.95
"""Of two that are level, the one that answers in less than this share of the other's time is recommended."""
TWO_THREADS = 1.35
"""How much faster one run is that has two cores, beside two runs that have one each (docs/performance.md)."""


@dataclass(frozen=True)
class Cost:
    """What a candidate costs: parameters; FLOPs, bytes of cache (bf16) and milliseconds of a request as it is served;
    seconds of training in the ladder's upper rung, the mean of its runs.
    """

    parameters: int
    serving_flops: int
    cache_bytes: int
    milliseconds: float
    training_seconds: float | None


@dataclass(frozen=True)
class Rung:
    """One rung of the ladder, as it was read and judged. Text and pairs have one region each."""

    page: Page
    judgement: Judgement
    region: str

    @classmethod
    def of(cls, folder: Path) -> Rung:
        page = read(folder)
        return cls(page, judge(page), page.regions[0])

    def bits(self, arm: Arm) -> list[float]:
        """Bits per byte of an arm's finished runs. A rehearsal is none."""
        return self.page.bits(arm, self.region) if self.page.rung == "full" else []

    def mean(self, arm: Arm) -> float | None:
        """Bits per byte of an arm: the mean over its seeds."""
        found = self.bits(arm)
        return sum(found) / len(found) if found else None

    @property
    def margin(self) -> float:
        return self.page.study["margin"]

    def stopped(self, arm: Arm) -> str:
        """How many of an arm's runs stopped, and why the first did; empty where none did."""
        own = [run for run in self.page.runs if run.arm.key == arm.key and run.rung == "full"]
        why = [run.reason for run in own if run.status == "stopped"]
        return f"{len(why)} of {len(own)} runs of {arm.key} stopped: {why[0]}" if why else ""

    @property
    def ranking(self) -> list[Arm]:
        """The arms that have a result, the best first."""
        with_mean = [(mean, arm.index, arm) for arm in self.page.arms if (mean := self.mean(arm)) is not None]
        return [arm for _, _, arm in sorted(with_mean, key=lambda entry: entry[:2])]


@dataclass(frozen=True)
class Rival:
    """Another candidate beside the recommended one: bits per byte that it costs more, with the 95 % interval."""

    arm: Arm
    standing: Standing
    difference: float | None
    low: float | None
    high: float | None
    remark: str


@dataclass(frozen=True)
class Recommendation:
    """Which architecture to take, how sure that is, and what it costs.

    `best` has the fewest bits per byte; `arm`, which is recommended, may be another that is level with it and answers
    sooner. `most_steps`: of its training.
    """

    arm: Arm
    best: Arm
    rivals: tuple[Rival, ...]
    lower: Rung
    upper: Rung
    costs: Mapping[str, Cost]
    steps_a_second: float
    """Of the recommended arm's runs in the ladder."""
    workers: int
    most_steps: int

    @property
    def settled(self) -> bool:
        """Whether every other candidate is behind the recommended one, or level with it."""
        return _settled(self.rivals)

    @property
    def lead(self) -> str:
        """The recommendation in a sentence or two."""
        name = self.arm.label
        cheaper = self.arm.key != self.best.key
        if not self.settled:
            return self._not_settled(name, cheaper)
        level = _listed(self._those("level"))
        if cheaper:
            return (
                f"Take the {name}: it and the {level} are level within the margin, and it answers sooner than the "
                f"{self.best.label} ({self._milliseconds(self.arm)} in place of {self._milliseconds(self.best)})."
            )
        if level:
            return (
                f"Take the {name}: it and the {level} are level within the margin, and of these no other answers "
                f"sooner by more than {1 - CHEAPER:.0%} ({self._milliseconds(self.arm)})."
            )
        nearest = min(self.rivals, key=lambda r: r.difference or 0.0)
        return (
            f"Take the {name}: it is better than every other that was tried, the nearest ({nearest.arm.label}) by "
            f"{nearest.difference:.3f} bits per byte ({nearest.low:.3f} to {nearest.high:.3f})."
        )

    def _not_settled(self, name: str, cheaper: bool) -> str:
        open_ = _listed(self._those("not settled"))
        unjudged = [rival for rival in self.rivals if rival.standing == "not judged"]
        if len(unjudged) == len(self.rivals):
            told = f"Not settled: there is nothing to hold the {name} against"
        elif cheaper:
            told = f"Not settled: the {name} is level with the {self.best.label} and answers sooner"
        else:
            told = f"Not settled: the {name} is ahead{' of those that could be judged' if unjudged else ''}"
        if open_:
            told += f", but against the {open_}, it is neither surely better by more than the margin nor surely level"
        for rival in unjudged:
            told += f". The {rival.arm.label} could not be judged ({rival.remark})"
        return f"{told}. The {name} is the best guess, and what is trained."

    def _those(self, standing: Standing) -> list[str]:
        return [rival.arm.label for rival in self.rivals if rival.standing == standing]

    def _milliseconds(self, arm: Arm) -> str:
        return f"{self.costs[arm.key].milliseconds:.0f} ms"

    def steps_in(self, seconds: float) -> int:
        """About how many steps of the recommended network's training fit in a time with all cores, and at most so many
        as read the data `candidates.MOST_PASSES` times.
        """
        faster = TWO_THREADS if self.workers > 1 else 1.0
        fitting = round(seconds * 0.85 * self.steps_a_second * faster)
        return min(max(FEWEST_STEPS, fitting), self.most_steps)


def recommend(out: Path, plan: Plan, latency: Mapping[str, float]) -> Recommendation:
    """From the results of both rungs in `out`.

    The candidate with the fewest bits per byte on the upper rung is recommended; where every other is behind or level,
    one that is level with it and answers sooner takes its place, and is held against every other in turn.

    Raises:
        UserError: results that are missing or damaged; fewer than two candidates with a result.
    """
    lower, upper = Rung.of(out / "lower"), Rung.of(out / "upper")
    _check_results(lower, out / "lower", 1)
    _check_results(upper, out / "upper", 2)
    # One run tells nothing of how much runs differ: it may be the best by luck, and nothing can be said of it.
    best = next((arm for arm in upper.ranking if len(upper.bits(arm)) > 1), upper.ranking[0])
    arm, rivals = best, _rivals(upper, best)
    level = [rival.arm for rival in rivals if rival.standing == "level"]
    if level and _settled(rivals):
        soonest = min(level, key=lambda other: latency[other.key])
        if latency[soonest.key] < CHEAPER * latency[best.key]:
            arm, rivals = soonest, _rivals(upper, soonest)
    told = read_json(out / "upper" / "plan.json", "the plan")
    return Recommendation(
        arm,
        best,
        rivals,
        lower,
        upper,
        {a.key: _cost(a, plan, latency, upper.page) for a in upper.page.arms},
        _steps_a_second(upper.page, arm),
        told["machine"]["cores"] or 1,
        most_steps(plan.lengths),
    )


def _check_results(rung: Rung, folder: Path, least: int) -> None:
    if len(rung.ranking) >= least:
        return
    stopped = [why for arm in rung.page.arms if (why := rung.stopped(arm))]
    raise UserError(
        f"{folder}: {len(rung.ranking)} of {len(rung.page.arms)} architectures have a result, too few to choose from "
        f"({'; '.join(stopped) or 'no run has ended'}); see its report.html, and try {folder}.toml with other "
        "settings by headtohead study"
    )


def _settled(rivals: Sequence[Rival]) -> bool:
    return all(rival.standing in ("behind", "level") for rival in rivals)


def _listed(names: Sequence[str]) -> str:
    return " and the ".join(names)


def _rivals(rung: Rung, arm: Arm) -> tuple[Rival, ...]:
    """Every other candidate beside `arm`, those without a result too."""
    return tuple(_rival(rung, arm, other) for other in rung.page.arms if other.key != arm.key)


def _rival(rung: Rung, arm: Arm, other: Arm) -> Rival:
    """How `other` stands beside `arm`, from the contrast between them, whichever way round it was stated."""
    pair = {arm.key, other.key}
    found = next(d for d in rung.judgement.differences if {d.first.key, d.second.key} == pair)
    remarks = list(found.remarks)
    if found.difference is None or found.low is None or found.high is None:
        why = [*remarks[:1], rung.stopped(other) or rung.stopped(arm)]
        return Rival(other, "not judged", None, None, None, "; ".join(filter(None, why)))
    sign = 1 if found.first.key == arm.key else -1
    low, high = sorted((sign * found.low, sign * found.high))
    standing = _standing(found, low, high, rung.margin)
    if standing == "not settled" and found.outcome == "different":
        surely = "behind" if low > 0 else "ahead"
        more = "" if high <= -rung.margin else f", but perhaps by less than the margin of {rung.margin:g}"
        remarks.append(f"it is surely {surely}{more}")
    return Rival(other, standing, sign * found.difference, low, high, "; ".join(remarks))


def _standing(found: Difference, low: float, high: float, margin: float) -> Standing:
    """A difference smaller than the margin, even a sure one, is no reason to choose."""
    if found.outcome == "different" and low >= margin:
        return "behind"
    return "level" if -margin < low and high < margin else "not settled"


def _finished_seconds(page: Page, arm: Arm) -> list[float]:
    """Of training, of an arm's finished runs; one that stopped has a time of no whole training."""
    seeds = {line["seed"] for line in page.of(arm)}
    own = [t for t in page.timings if t["arm"] == arm.key and t["rung"] == "full" and t["seed"] in seeds]
    return [t["seconds"]["train"] for t in own]


def _steps_a_second(page: Page, arm: Arm) -> float:
    steps = [line["ledger"]["steps"] for line in page.of(arm)]
    return sum(steps) / max(1e-9, sum(_finished_seconds(page, arm)))


def _cost(arm: Arm, plan: Plan, latency: Mapping[str, float], page: Page) -> Cost:
    given, written = plan.serve
    seconds = _finished_seconds(page, arm)
    return Cost(
        arm.parameters,
        flops(arm.architecture, given, written)["forward"],
        cache_bytes(arm.architecture, given, written),
        latency[arm.key],
        sum(seconds) / len(seconds) if seconds else None,
    )
