"""How far long work is, on one line of stderr."""

from __future__ import annotations

import sys
import time

import typer


class Line:
    """One line of stderr that passes on a terminal (`live`); elsewhere each stays."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Put it in the place of what stood there."""
        typer.echo(f"\r\x1b[K{text}" if self.live else text, nl=not self.live, err=True)

    def end(self) -> None:
        """Take the passing line away."""
        if self.live:
            typer.echo("\r\x1b[K", nl=False, err=True)


class Passing(Line):
    """The share that is done, and about when it ends: one line a minute where it doesn't pass. Nothing for what ends
    within 2 seconds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._began = self._shown = time.monotonic()
        self._first: float | None = None

    def __call__(self, share: float, what: str) -> None:
        """Tell that `share` (0 to 1) of the work is done. What was there at the first call is not counted as pace."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._began = share, now
        if now - self._shown < ((0.5 if self._shown > self._began else 2) if self.live else 60):
            return
        self._shown = now
        line = f"{share:.0%}, {what}"
        if share > self._first:
            from headtohead.study.display import duration

            line += f", {duration((now - self._began) / (share - self._first) * (1 - share))} left"
        self.show(line)
