"""What the ladder's results recommend, with interval and cost, or what would settle it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headtohead.files import read_json
from headtohead.model.budget import cache_bytes, flops
from headtohead.study.choosing.candidates import Plan
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

    def mean(self, arm: Arm) -> float | None:
        """Bits per byte of an arm: the mean over its seeds."""
        found = self.page.bits(arm, self.region)
        return sum(found) / len(found) if found else None

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
    """Which architecture to take, how sure that is, and what it costs."""

    arm: Arm
    because: Literal["best", "level and cheaper", "ahead, not settled"]
    rivals: tuple[Rival, ...]
    lower: Rung
    upper: Rung
    costs: Mapping[str, Cost]
    steps_a_second: float
    """Of the recommended arm's runs in the ladder."""
    workers: int

    @property
    def settled(self) -> bool:
        return self.because != "ahead, not settled"

    @property
    def lead(self) -> str:
        """The recommendation in a sentence or two."""
        name = self.arm.label
        if self.because == "best":
            nearest = min(
                (r for r in self.rivals if r.difference is not None), key=lambda r: r.difference or 0.0
            )
            return (
                f"Take the {name}: it is better than every other that was tried, the nearest ({nearest.arm.label}) by "
                f"{nearest.difference:.3f} bits per byte ({nearest.low:.3f} to {nearest.high:.3f})."
            )
        names = {
            r.standing: [q.arm.label for q in self.rivals if q.standing == r.standing] for r in self.rivals
        }
        if self.because == "level and cheaper":
            level = " and the ".join(names["level"])
            return (
                f"Take the {name}: the {level} and it are level within the margin, and no other answers sooner "
                f"({self.costs[self.arm.key].milliseconds:.0f} ms)."
            )
        open_ = " or the ".join(names["not settled"])
        return (
            f"Not settled: the {name} is ahead, but not surely so of the {open_}. It is the best guess, and what was "
            "trained."
        )

    def steps_in(self, seconds: float) -> int:
        """About how many steps of the recommended network's training fit in a time with all cores."""
        faster = TWO_THREADS if self.workers > 1 else 1.0
        return max(40, round(seconds * 0.85 * self.steps_a_second * faster))


def recommend(out: Path, plan: Plan, latency: Mapping[str, float]) -> Recommendation:
    """From the results of both rungs in `out`.

    The candidate with the fewest bits per byte on the upper rung is recommended, unless another is level with it
    within the margin and answers sooner. It is settled when every other is behind or level.

    Raises:
        UserError: results that are missing or damaged.
    """
    lower, upper = Rung.of(out / "lower"), Rung.of(out / "upper")
    best, *others = upper.ranking
    arm, because = best, "best"
    standings = {other.key: _rival(upper, best, other) for other in others}
    level = [other for other in others if standings[other.key].standing == "level"]
    if any(rival.standing in ("not settled", "not judged") for rival in standings.values()):
        because = "ahead, not settled"
    elif level:
        soonest = min(level, key=lambda other: latency[other.key])
        arm = soonest if latency[soonest.key] < CHEAPER * latency[best.key] else best
        because = "level and cheaper"
    rivals = tuple(_rival(upper, arm, other) for other in upper.page.arms if other.key != arm.key)
    timings = [t for t in upper.page.timings if t["arm"] == arm.key and t["rung"] == "full"]
    steps = [line["ledger"]["steps"] for line in upper.page.of(arm)]
    rate = sum(steps) / max(1e-9, sum(t["seconds"]["train"] for t in timings))
    costs = {a.key: _cost(a, plan, latency, upper.page) for a in upper.page.arms}
    told = read_json(out / "upper" / "plan.json", "the plan")
    return Recommendation(arm, because, rivals, lower, upper, costs, rate, told["machine"]["cores"] or 1)


def _rival(rung: Rung, arm: Arm, other: Arm) -> Rival:
    """How `other` stands beside `arm`, from the contrast between them, whichever way round it was stated."""
    pair = {arm.key, other.key}
    found = next(d for d in rung.judgement.differences if {d.first.key, d.second.key} == pair)
    sign = 1 if found.first.key == arm.key else -1
    if found.difference is None or found.low is None or found.high is None:
        return Rival(other, "not judged", None, None, None, "; ".join(found.remarks))
    low, high = sorted((sign * found.low, sign * found.high))
    difference = sign * found.difference
    return Rival(other, _standing(found, difference), difference, low, high, "; ".join(found.remarks))


def _standing(found: Difference, difference: float) -> Standing:
    """A difference smaller than the margin, even a sure one, is no reason to choose."""
    if found.outcome == "different":
        return "behind" if difference > 0 else "not settled"
    return "not settled" if found.outcome == "undecided" else "level"


def _cost(arm: Arm, plan: Plan, latency: Mapping[str, float], page: Page) -> Cost:
    given, written = plan.serve
    seconds = [t["seconds"]["train"] for t in page.timings if t["arm"] == arm.key and t["rung"] == "full"]
    return Cost(
        arm.parameters,
        flops(arm.architecture, given, written)["forward"],
        cache_bytes(arm.architecture, given, written),
        latency[arm.key],
        sum(seconds) / len(seconds) if seconds else None,
    )
