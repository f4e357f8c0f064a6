"""What a training run shows while it runs: two live lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from headtohead.measure.limits import peak_memory
from headtohead.study.display import duration

PLAIN_SECONDS = 30.0
"""Without a terminal: how often a line is printed, beside one for each point of the curve."""
BAR = 24


class Watch:
    """`with Watch(…) as watch`: a run's display (`worker.Watcher`).

    Args:
        bytes_per_token: of the training text: a loss in nats per token is shown in bits per byte by it.
        peak: FLOP/s of the fastest matrix product measured here, that the run's are a share of; None hides it.
    """

    def __init__(
        self,
        name: str,
        steps: int,
        bytes_per_token: float,
        peak: float | None,
        console: Console | None = None,
    ) -> None:
        self.name, self.steps, self.peak = name, steps, peak
        self.bits = 1 / math.log(2) / bytes_per_token
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.live = (
            Live(console=self.console, refresh_per_second=4, transient=True)
            if self.console.is_terminal
            else None
        )
        self.stage, self.step = "starting", 0
        self.left: float | None = None
        self.nats: float | None = None
        self.rate: float | None = None
        self.share: float | None = None
        self.points: list[tuple[int, float]] = []
        self.spikes = 0
        self.before: Mapping[str, Any] | None = None
        self.said = time.monotonic()

    def __enter__(self) -> Watch:
        if self.live is not None:
            self.live.start()
            self.live.update(self._table())
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(Text(line))

    def progress(self, stage: str, step: int, seconds_left: float, nats: float | None) -> None:
        """After each step; see `training.Report`."""
        self.stage, self.step = stage, step
        if stage == "training":
            self.left = seconds_left
            if nats is not None:
                # The last twenty steps or so: one step's loss jumps about.
                self.nats = nats if self.nats is None else self.nats + 0.1 * (nats - self.nats)
        self._show()

    def line(self, kind: str, values: Mapping[str, Any]) -> None:
        """A line of the metrics, or a point of the curve."""
        if kind == "metrics":
            self._pace(values)
            for spike in values.get("spikes", ()):
                self.spikes += 1
                self.say(f"step {spike['step']}: the loss jumped to {spike['nats']:.3f}")
            return
        found = [value for value in values["bits_per_byte"].values()]
        self.points.append((int(values["step"]), sum(found) / len(found)))
        self.say(f"step {values['step']}: held-out {self.points[-1][1]:.4f} bits per byte{self._best()}")

    def _pace(self, values: Mapping[str, Any]) -> None:
        """Tokens and FLOPs a second, since the last line of the metrics."""
        before = self.before or {"tokens": 0, "flops": 0.0, "seconds": 0.0}
        seconds = values["seconds"] - before["seconds"]
        if self.before is not None and seconds > 0:  # the first line's seconds may be an earlier start's
            self.rate = (values["tokens"] - before["tokens"]) / seconds
            if self.peak:
                self.share = (values["flops"] - before["flops"]) / seconds / self.peak
        self.before = dict(values)

    def _best(self) -> str:
        best = min(value for _, value in self.points)
        return "" if self.points[-1][1] <= best else f" (best {best:.4f})"

    def _show(self) -> None:
        if self.live is not None:
            self.live.update(self._table())
        elif time.monotonic() - self.said >= PLAIN_SECONDS:
            self.said = time.monotonic()
            self.say(f"step {self.step}/{self.steps}: {', '.join(self._figures())}, {self._end()}")

    def _figures(self) -> list[str]:
        found: list[str] = []
        if self.nats is not None:
            found.append(f"loss {self.nats:.3f} ({self.nats * self.bits:.2f} bits/byte)")
        if self.rate is not None:
            found.append(f"{_short(self.rate)} tokens/s")
        if self.share is not None:
            found.append(f"{self.share:.0%} of peak")
        return [*found, f"{peak_memory() / 2**20:,.0f} MB"]

    def _end(self) -> str:
        if self.stage != "training" or self.left is None:
            return self.stage
        return f"{duration(self.left)} left"

    def _table(self) -> Group:
        head = Table.grid(padding=(0, 2))
        for _ in range(4):
            head.add_column(no_wrap=True)
        bar = ProgressBar(total=max(self.steps, 1), completed=self.step, width=BAR)
        head.add_row(Text(self.name, style="bold"), bar, f"{self.step}/{self.steps}", self._end())
        figures = Text("  ".join(self._figures()), no_wrap=True, overflow="ellipsis")
        return Group(head, figures)


def _short(rate: float) -> str:
    return f"{rate / 1000:.1f}k" if rate >= 1000 else f"{rate:.0f}"
