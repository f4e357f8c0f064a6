"""How far long work is, on one line of stderr: the share that is done, and about when it ends."""

from __future__ import annotations

import sys
import time

import typer


class Passing:
    """One line that passes on a terminal; elsewhere one a minute. Nothing for what ends within 2 seconds."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._began = self._shown = time.monotonic()
        self._first: float | None = None

    def __call__(self, share: float, what: str) -> None:
        """Tell that `share` (0 to 1) of the work is done. What was there at the first call is not counted as pace."""
        now = time.monotonic()
        if self._first is None:
            self._first, self._began = share, now
        if now - self._shown < ((0.5 if self._shown > self._began else 2) if self._live else 60):
            return
        self._shown = now
        line = f"{share:.0%}, {what}"
        if share > self._first:
            from headtohead.study.display import duration

            line += f", {duration((now - self._began) / (share - self._first) * (1 - share))} left"
        typer.echo(f"\r\x1b[K{line}" if self._live else line, nl=not self._live, err=True)

    def end(self) -> None:
        """Take the passing line away."""
        if self._live:
            typer.echo("\r\x1b[K", nl=False, err=True)
