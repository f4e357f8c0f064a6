"""Connections that must not be held: what HTTP/1.1 asks for beyond uvicorn's own care."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from headtohead.serve.problems import Problem
from headtohead.serve.settings import Settings


def protocol(settings: Settings) -> type[H11Protocol]:
    """The class of connections under some limits."""

    class Guarded(H11Protocol):
        """uvicorn's connection that is given up where headers don't come in time, or where the client reads nothing of
        what it is sent; and whose own errors have OpenAI's shape.
        """

        _late: asyncio.TimerHandle | None = None
        _stuck: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait_for_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._wait_for_headers()
            else:
                self._late = _cancelled(self._late)

        def connection_lost(self, exc: Exception | None) -> None:
            self._late, self._stuck = _cancelled(self._late), _cancelled(self._stuck)
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._stuck is None:
                self._stuck = self.loop.call_later(settings.send_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            self._stuck = _cancelled(self._stuck)
            super().resume_writing()

        def send_400_response(self, msg: str) -> None:
            problem = Problem(400, "this is not a valid HTTP request, or its headers are too long")
            body = json.dumps(problem.body).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            try:
                for event in (
                    h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                    h11.Data(data=body),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event) or b"")
            except h11.LocalProtocolError:  # an answer is on its way already
                pass
            self.transport.close()

        def _wait_for_headers(self) -> None:
            if self._late is None:
                self._late = self.loop.call_later(settings.header_seconds, self._give_up)

        def _give_up(self) -> None:
            self._late = None
            if not self.transport.is_closing():
                self.transport.abort()

    return Guarded


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
