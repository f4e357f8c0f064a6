"""What stands around the application: keys, limits of headers and bodies, and an answer for whatever was not foreseen.

Plain ASGI, so that bodies are counted as they come and nothing is held that is not wanted.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headtohead.serve.metrics import Metrics
from headtohead.serve.problems import FAILED, Problem
from headtohead.serve.settings import Settings

log = logging.getLogger("headtohead.serve")

OPEN = ("/", "/health")
"""Paths that need no key: the page asks for one, and whoever watches the server has none."""

SECURITY: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


class Guard:
    """Lets a request through to `app` with its body whole, or answers it."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, routes: Iterable[str]) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._routes = frozenset(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        began, status, begun = time.perf_counter(), 500, False

        async def told(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                begun, status = True, message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *SECURITY]}
            await send(message)

        try:
            self._admit(scope)
            body = await self._body(scope, receive)
            await self._app(scope, _after(body, receive), told)
        except Problem as problem:
            if not begun:
                await answer(told, problem)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if begun:
                raise  # the server closes the connection: half an answer is told to be one
            await answer(told, Problem(500, FAILED))
        finally:
            path = scope["path"]
            route = path if path in self._routes else "other"
            self._metrics.request(route, status, time.perf_counter() - began)

    def _admit(self, scope: Scope) -> None:
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if len(scope["headers"]) > self._settings.headers or size > self._settings.header_bytes:
            raise Problem(
                431,
                f"more than {self._settings.headers} headers, or {self._settings.header_bytes:,} bytes of them",
                headers={"Connection": "close"},
            )
        if scope["path"] in OPEN:
            return
        found = [value for name, value in scope["headers"] if name == b"authorization"]
        given = found[0].decode("latin-1") if len(found) == 1 else None
        if not self._settings.admits(given):
            raise Problem(
                401,
                "this server wants an API key: send it as Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, within its limits.

        Raises:
            Problem: 413, too large; 408, too slow.
        """
        limit = self._settings.body_bytes
        large = Problem(
            413,
            f"the body is larger than the {limit:,} bytes that may be sent",
            code="body_too_large",
            headers={"Connection": "close"},
        )
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or len(value) > 18 or int(value) > limit):
                raise large
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Problem(499, "the client has gone")
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size > limit:
                        raise large
                    chunks.append(chunk)
                    if not message.get("more_body"):
                        return b"".join(chunks)
        except TimeoutError:
            raise Problem(
                408,
                f"the body was not there within {self._settings.body_seconds:g} s",
                code="timeout",
                headers={"Connection": "close"},
            ) from None


def _after(body: bytes, receive: Receive) -> Receive:
    """`receive` for the application: the body at once, then what comes (that the client has gone)."""
    given = False

    async def next_message() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return next_message


async def answer(send: Send, problem: Problem) -> None:
    """Send a problem as an answer."""
    body = json.dumps(problem.body).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **problem.headers}
    listed = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": listed})
    await send({"type": "http.response.body", "body": body})
