"""What the server did, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "Metrics"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters, gauges and histograms of one server; for several threads."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        model = ("model",)
        self._requests = Counter(
            "headtohead_requests",
            "Requests that were answered, by route and status.",
            ("route", "status"),
            registry=own,
        )
        self._whole = Histogram(
            "headtohead_request_seconds",
            "Time until a request was answered whole.",
            ("route",),
            registry=own,
            buckets=SECONDS,
        )
        self._cancelled = Counter(
            "headtohead_cancelled", "Requests whose client went away.", model, registry=own
        )
        self._given = Counter(
            "headtohead_prompt_tokens", "Tokens of prompts that were accepted.", model, registry=own
        )
        self._written = Counter(
            "headtohead_completion_tokens", "Tokens that were written.", model, registry=own
        )
        self._first = Histogram(
            "headtohead_time_to_first_token_seconds",
            "Time from a request's queueing to its first token.",
            model,
            registry=own,
            buckets=SECONDS,
        )
        self._step = Histogram(
            "headtohead_step_seconds",
            "Time of a step: one token for every text that is being written.",
            model,
            registry=own,
            buckets=SECONDS,
        )
        self._running = Gauge(
            "headtohead_requests_running", "Requests that are being written.", model, registry=own
        )
        self._waiting = Gauge(
            "headtohead_requests_waiting", "Requests that wait for a slot.", model, registry=own
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered. `route` is one of the server's own paths, or "other"."""
        self._requests.labels(route, status).inc()
        self._whole.labels(route).observe(seconds)

    def cancelled(self, model: str) -> None:
        """A client went away before its answer was whole."""
        self._cancelled.labels(model).inc()

    def prompt(self, model: str, tokens: int) -> None:
        """A prompt was accepted."""
        self._given.labels(model).inc(tokens)

    def first_token(self, model: str, seconds: float) -> None:
        """The first token of a request came so long after it was queued."""
        self._first.labels(model).observe(seconds)

    def step(self, model: str, seconds: float, tokens: int) -> None:
        """The engine made a step, in which so many tokens were written."""
        self._written.labels(model).inc(tokens)
        self._step.labels(model).observe(seconds)

    def load(self, model: str, running: int, waiting: int) -> None:
        """How many requests are being written, and how many wait."""
        self._running.labels(model).set(running)
        self._waiting.labels(model).set(waiting)

    def text(self) -> str:
        """Everything, as /metrics gives it."""
        return generate_latest(self._registry).decode()
