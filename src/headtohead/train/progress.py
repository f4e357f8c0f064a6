"""How far a run is: the loop's own state, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from headtohead.train.parallel import Team


@dataclass
class Progress:
    """The loop's own state, as it stands in a checkpoint."""

    step: int = 0
    """Updates made."""
    curve: list[dict[str, Any]] = field(default_factory=list)
    since_log: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """Nats and supervised tokens since the last line of the metrics."""
    since_point: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """The same since the last point of the learning curve."""
    recent: list[float] = field(default_factory=list)
    """Nats per supervised token of the last steps, by which a spike is known."""
    spikes: list[dict[str, float]] = field(default_factory=list)
    """Those since the last line of the metrics."""
    best: float | None = None
    """Fewest bits per byte of a point of the curve, the first weights left out."""
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("compile", "train", "evaluate", "checkpoint"), 0.0)
    )
    """Wall time by what it went into, over all starts of the run."""
    ranks: list[list[int]] = field(default_factory=list)
    """From which step on how many processes shared the run: [[0, 2], [500, 4]]; empty for one from first to last."""

    def by_ranks(self, team: Team) -> None:
        """Note how many go on from here, where it isn't what it was."""
        if team.size != (self.ranks[-1][1] if self.ranks else 1):
            self.ranks.append([self.step, team.size])


class Clock:
    """Seconds left: what remains of steps and evaluations, at the pace they have had since this start."""

    def __init__(self, steps: int, evaluate_at: Collection[int]) -> None:
        self._steps = steps
        self._evaluate_at = sorted(at for at in evaluate_at if at <= steps)
        self._before: dict[str, float] | None = None
        self._per_step = 0.0
        self._per_point = 0.0

    def left(self, progress: Progress) -> float:
        """To be asked after every step."""
        now = dict(progress.seconds)
        before, self._before = self._before, now
        if before is None:
            self._per_step = now["train"] / progress.step
            self._per_point = now["evaluate"] / max(1, len(progress.curve))
        else:
            # The machine is shared and its pace changes: the last fifty steps or so count most.
            self._per_step += 0.02 * (now["train"] - before["train"] - self._per_step)
            self._per_point = max(self._per_point, now["evaluate"] - before["evaluate"])
        due = sum(at > progress.step for at in self._evaluate_at)
        return self._per_step * (self._steps - progress.step) + self._per_point * due
