"""A run that is asked to end: after the step it is at, and with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from headtohead.train.parallel import Team


class Stopped(Exception):
    """The run was asked to end (SIGTERM, Ctrl-C) and did, after a checkpoint of the step it had reached."""

    def __init__(self, step: int, signal_number: int) -> None:
        self.step, self.signal_number = step, signal_number
        name = signal.Signals(signal_number).name
        super().__init__(f"stopped by {name} after step {step}, checkpoint written")


@contextmanager
def stop_signals(team: Team) -> Iterator[Callable[[], int | None]]:
    """A first SIGTERM or Ctrl-C, as an answer between steps; a second Ctrl-C ends the run at once.

    Not that of a team: to its ranks torchrun passes the one Ctrl-C on that they had themselves.
    """
    received: list[int] = []

    def receive(number: int, frame: object) -> None:
        if received and number == signal.SIGINT and team.size == 1:
            raise KeyboardInterrupt
        received.append(number)

    former: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # only there may Python set handlers
        former = {number: signal.signal(number, receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
