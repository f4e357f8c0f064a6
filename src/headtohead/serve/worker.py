"""The one thread that computes: it drives the engines of all models, and tells what they write to those who wait.

The event loop submits and listens; everything that touches a network happens here, one thing at a time. Events of a
step cross over together, in one call.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from headtohead.generate.prompts import Prompt
from headtohead.generate.requests import Event, Sampling
from headtohead.serve.metrics import Metrics
from headtohead.serve.networks import ServedModel
from headtohead.serve.problems import FAILED, Problem

log = logging.getLogger("headtohead.serve")

STOPPING = "the server is stopping"

Answer = tuple[int, Event] | Problem
"""An event with the number of its job in the ticket, or what went wrong."""


@dataclass
class Ticket:
    """A request under way: its jobs (each a prompt and how to write after it), and the events that came.

    `remaining`: choices that have not ended; it is the worker's, as are `numbers`.
    """

    model: ServedModel
    jobs: Sequence[tuple[Prompt, Sampling]]
    loop: asyncio.AbstractEventLoop
    answers: asyncio.Queue[Answer] = field(default_factory=asyncio.Queue)
    began: float = field(default_factory=time.perf_counter)
    numbers: dict[int, int] = field(default_factory=dict)
    remaining: int = 0
    told: bool = False
    over: bool = False


class Worker:
    """`submit`, `cancel` and `compute` may be called from the event loop's thread; `start` and `stop` once each."""

    def __init__(self, models: Sequence[ServedModel], metrics: Metrics, queue_limit: int) -> None:
        self._models = list(models)
        self._metrics = metrics
        self._limit = queue_limit
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tickets: dict[str, dict[int, Ticket]] = {model.name: {} for model in models}
        self._open: dict[str, int] = {model.name: 0 for model in models}
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="headtohead-engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def end(self) -> None:
        """Work no more; who waits is told that the server stops."""
        self._stopping = True
        self._commands.put(None)

    def stop(self, seconds: float = 1.0) -> None:
        """`end`, and wait for it."""
        self.end()
        self._thread.join(seconds)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._stopping

    # --------------------------------------------------------------------------- from the event loop's thread

    def submit(self, model: ServedModel, jobs: Sequence[tuple[Prompt, Sampling]]) -> Ticket:
        """Queue the jobs of a request, all or none.

        Raises:
            Problem: 429, so many are waiting that this one would wait too long; 503, the server is stopping.
        """
        assert model.engine is not None
        if not self.alive:
            raise Problem(503, STOPPING, headers={"Retry-After": "5"})
        if self._open[model.name] >= model.engine.runner.slots + self._limit:
            raise Problem(
                429,
                f"{model.name} is writing all it can, and {self._limit} requests are waiting: come again in a moment",
                code="queue_full",
                headers={"Retry-After": "1"},
            )
        self._open[model.name] += 1
        choices = sum(how.n for _, how in jobs)
        ticket = Ticket(model, jobs, asyncio.get_running_loop(), remaining=choices)
        self._commands.put(lambda: self._add(ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Forget what is left of a request. Nothing happens where it is over."""
        if not ticket.over:
            ticket.over = True
            self._open[ticket.model.name] -= 1
            self._commands.put(lambda: self._drop(ticket))

    def close(self, ticket: Ticket) -> None:
        """Its answers have been read to the end."""
        if not ticket.over:
            ticket.over = True
            self._open[ticket.model.name] -= 1

    async def compute(self, what: Callable[[], Any]) -> Any:
        """Do something else in the worker's thread, between two steps.

        Raises:
            Problem: 503 where the server is stopping; and whatever `what` raises.
        """
        if not self.alive:
            raise Problem(503, STOPPING, headers={"Retry-After": "5"})
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                result = what()
            except Exception as problem:
                _soon(loop, _settle, future, None, problem)
            else:
                _soon(loop, _settle, future, result, None)

        self._commands.put(work)
        return await future

    # --------------------------------------------------------------------------------- in the worker's thread

    def _work(self) -> None:
        while not self._stopping:
            busy = [model for model in self._models if model.engine is not None and model.engine.busy]
            self._take_commands(wait=not busy)
            for model in busy:
                if not self._stopping:
                    self._step(model)
        self._take_commands(wait=False)  # what was submitted last is told with the others
        for held in self._tickets.values():
            self._tell([(ticket, Problem(503, STOPPING)) for ticket in set_of(held.values())])
            held.clear()

    def _take_commands(self, wait: bool) -> None:
        """All that are there; where there is nothing else to do, the next one is waited for."""
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return
            wait = False
            if command is not None:
                try:
                    command()
                except Exception:
                    log.exception("a command of the server failed")

    def _add(self, ticket: Ticket) -> None:
        if ticket.over:
            return
        engine = ticket.model.engine
        assert engine is not None
        try:
            for number, (prompt, how) in enumerate(ticket.jobs):
                added = engine.add(prompt, how)
                ticket.numbers[added] = number
                self._tickets[ticket.model.name][added] = ticket
        except Exception:  # everything was checked before, so this is our own fault
            log.exception("a request could not be queued")
            self._drop(ticket)
            self._tell([(ticket, Problem(500, FAILED))])
        self._gauge(ticket.model)

    def _drop(self, ticket: Ticket) -> None:
        engine = ticket.model.engine
        assert engine is not None
        for number in ticket.numbers:
            engine.cancel(number)
            self._tickets[ticket.model.name].pop(number, None)
        self._gauge(ticket.model)

    def _step(self, model: ServedModel) -> None:
        assert model.engine is not None
        began = time.perf_counter()
        held = self._tickets[model.name]
        try:
            events = model.engine.step()
        except Exception:  # what was being written is lost, the server is not
            log.exception("a step of %s failed", model.name)
            lost = set_of(held.values())
            for ticket in lost:
                self._drop(ticket)
            self._tell([(ticket, Problem(500, FAILED)) for ticket in lost])
            return
        now = time.perf_counter()
        told: list[tuple[Ticket, Answer]] = []
        for event in events:
            ticket = held.get(event.request)
            if ticket is None:
                continue
            if not ticket.told:
                ticket.told = True
                self._metrics.first_token(model.name, now - ticket.began)
            told.append((ticket, (ticket.numbers[event.request], event)))
            if event.finished is not None:
                ticket.remaining -= 1
                if not ticket.remaining:
                    for number in ticket.numbers:
                        held.pop(number, None)
        self._metrics.step(model.name, now - began, sum(len(event.tokens) for event in events))
        self._gauge(model)
        self._tell(told)

    def _gauge(self, model: ServedModel) -> None:
        assert model.engine is not None
        self._metrics.load(model.name, model.engine.running, model.engine.waiting)

    def _tell(self, answers: Sequence[tuple[Ticket, Answer]]) -> None:
        if answers:
            _soon(answers[0][0].loop, _deliver, answers)


def set_of(tickets: Any) -> list[Ticket]:
    """Each ticket once, in order."""
    return list({id(ticket): ticket for ticket in tickets}.values())


def _deliver(answers: Sequence[tuple[Ticket, Answer]]) -> None:
    for ticket, answer in answers:
        ticket.answers.put_nowait(answer)


def _settle(future: asyncio.Future[Any], result: Any, problem: Exception | None) -> None:
    if future.done():
        return
    if problem is None:
        future.set_result(result)
    else:
        future.set_exception(problem)


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: Any) -> None:
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:  # the loop has ended, and nobody waits
        log.debug("an answer came after the end")
