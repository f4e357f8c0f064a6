"""What a study shows while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_SECONDS = 60.0
"""Without a terminal: how often a line on the state is printed."""


@dataclass(frozen=True)
class Working:
    """One worker, as it stands."""

    name: str
    stage: str
    step: int
    steps: int
    nats: float | None
    seconds_left: float | None


@dataclass(frozen=True)
class State:
    """The study, as it stands. `seconds_left` is None as long as nothing is known."""

    done: int
    stopped: int
    total: int
    working: Sequence[Working]
    seconds_left: float | None


class Display:
    """`with Display() as display`: `say` lines that stay, `show` the state that passes."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.title = title
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.live = (
            Live(console=self.console, refresh_per_second=2, transient=True)
            if self.console.is_terminal
            else None
        )
        self.shown = time.monotonic()

    def __enter__(self) -> Display:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self.console.print(Text(line))

    def show(self, state: State) -> None:
        """The state of now, in place of the one before."""
        if self.live is not None:
            self.live.update(self._table(state))
        elif time.monotonic() - self.shown >= PLAIN_SECONDS:
            self.shown = time.monotonic()
            working = "; ".join(_line(worker) for worker in state.working)
            self.say(f"{state.done} of {state.total} runs done, {_end(state)}: {working}")

    def _table(self, state: State) -> Group:
        head = Text.assemble(
            (self.title, "bold"), f"  {state.done} of {state.total} runs done, {_end(state)}"
        )
        if state.stopped:
            head.append(f", {state.stopped} stopped", style="red")
        table = Table.grid(padding=(0, 2))
        for _ in range(5):
            table.add_column(no_wrap=True)
        for worker in state.working:
            bar = ProgressBar(total=max(worker.steps, 1), completed=worker.step, width=10)
            now = _left(worker.seconds_left) if worker.stage == "training" else worker.stage
            loss = "" if worker.nats is None else f"loss {worker.nats:.3f}"
            table.add_row(worker.name, bar, f"{worker.step}/{worker.steps}", loss, now)
        return Group(head, table)


def _line(worker: Working) -> str:
    loss = "" if worker.nats is None else f", loss {worker.nats:.3f}"
    at = f"{worker.step}/{worker.steps}"
    return f"{worker.name} {worker.stage} {at}{loss} {_left(worker.seconds_left)}".strip()


def _end(state: State) -> str:
    if state.seconds_left is None:
        return "the end can't be estimated yet"
    at = time.strftime("%H:%M", time.localtime(time.time() + state.seconds_left))
    return f"about {duration(state.seconds_left)} left (until {at})"


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"{duration(seconds)} left"


def duration(seconds: float) -> str:
    """Seconds as people say them: "40 s", "12 min", "1 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
