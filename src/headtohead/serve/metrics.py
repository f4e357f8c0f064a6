"""What the server did, as Prometheus reads it (text format 0.0.4)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[tuple[str, str], ...]


@dataclass
class Histogram:
    """Counts of values up to each bound, and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    total: float = 0.0

    def add(self, value: float) -> None:
        """One more value, in seconds."""
        self.counts[bisect_left(SECONDS, value)] += 1
        self.total += value


class Metrics:
    """Counters, gauges and histograms; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._gauges: dict[str, dict[Labels, float]] = defaultdict(dict)
        self._histograms: dict[str, dict[Labels, Histogram]] = defaultdict(dict)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered. `route` is one of the server's own paths, or "other"."""
        with self._lock:
            self._counters["headtohead_requests_total"][(("route", route), ("status", str(status)))] += 1
            self._time("headtohead_request_seconds", (("route", route),), seconds)

    def cancelled(self, model: str) -> None:
        """A client went away before its answer was whole."""
        with self._lock:
            self._counters["headtohead_cancelled_total"][(("model", model),)] += 1

    def prompt(self, model: str, tokens: int) -> None:
        """A prompt was accepted."""
        with self._lock:
            self._counters["headtohead_prompt_tokens_total"][(("model", model),)] += tokens

    def first_token(self, model: str, seconds: float) -> None:
        """The first token of a request came so long after it was queued."""
        with self._lock:
            self._time("headtohead_time_to_first_token_seconds", (("model", model),), seconds)

    def step(self, model: str, seconds: float, tokens: int) -> None:
        """The engine made a step, in which so many tokens were written."""
        with self._lock:
            self._counters["headtohead_completion_tokens_total"][(("model", model),)] += tokens
            self._time("headtohead_step_seconds", (("model", model),), seconds)

    def load(self, model: str, running: int, waiting: int) -> None:
        """How many requests are being written, and how many wait."""
        with self._lock:
            self._gauges["headtohead_requests_running"][(("model", model),)] = running
            self._gauges["headtohead_requests_waiting"][(("model", model),)] = waiting

    def _time(self, name: str, labels: Labels, seconds: float) -> None:
        self._histograms[name].setdefault(labels, Histogram()).add(seconds)

    def text(self) -> str:
        """Everything, as /metrics gives it."""
        with self._lock:
            return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        for kind, tables in (("counter", self._counters), ("gauge", self._gauges)):
            for name, values in sorted(tables.items()):
                yield from _head(name, kind)
                for labels, value in sorted(values.items()):
                    yield (
                        f"{name}{_braced(labels)} {value:g}"
                        if value < 1e6
                        else f"{name}{_braced(labels)} {value:.0f}"
                    )
        for name, histograms in sorted(self._histograms.items()):
            yield from _head(name, "histogram")
            for labels, histogram in sorted(histograms.items(), key=lambda item: item[0]):
                reached = 0
                for bound, count in zip((*map(str, SECONDS), "+Inf"), histogram.counts, strict=True):
                    reached += count
                    yield f"{name}_bucket{_braced((*labels, ('le', bound)))} {reached}"
                yield f"{name}_sum{_braced(labels)} {histogram.total:.6f}"
                yield f"{name}_count{_braced(labels)} {reached}"


HELP = {
    "headtohead_requests_total": "Requests that were answered, by route and status.",
    "headtohead_request_seconds": "Time until a request was answered whole.",
    "headtohead_cancelled_total": "Requests whose client went away.",
    "headtohead_prompt_tokens_total": "Tokens of prompts that were accepted.",
    "headtohead_completion_tokens_total": "Tokens that were written.",
    "headtohead_time_to_first_token_seconds": "Time from a request's queueing to its first token.",
    "headtohead_step_seconds": "Time of a step: one token for every text that is being written.",
    "headtohead_requests_running": "Requests that are being written.",
    "headtohead_requests_waiting": "Requests that wait for a slot.",
}


def _head(name: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {HELP[name]}"
    yield f"# TYPE {name} {kind}"


def _braced(labels: Sequence[tuple[str, str]]) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels) + "}"
