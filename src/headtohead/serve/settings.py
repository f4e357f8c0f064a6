"""What a server is willing to do: one table of limits."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Self

from headtohead.errors import UserError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Settings:
    """Limits and keys of a server.

    host, port: where it listens. keys: any of them lets a client in; none lets everybody. slots: texts that are
    written at once, for each model; queue: requests that may wait for a slot, for each model, before others are told
    to come again. context: tokens of a prompt and its answer together, in each stream. max_tokens: the most that an
    answer may be asked to have; default_tokens: what it has where nobody asked. request_seconds: the longest that
    it may take. body_bytes, body_seconds: of a request's body, and until it is there. headers, header_bytes: how
    many a request may have, and how long. header_seconds: until the headers are there. send_seconds: how long a
    client may read nothing of what it is sent. connections: open at once. inputs: texts in one request for
    embeddings, or prompts in one for completions. drain_seconds: what is being written may go on for so long when
    the server is stopped.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[str, ...] = ()
    slots: int = 64
    queue: int = 128
    context: int = 1024
    max_tokens: int = 512
    default_tokens: int = 128
    request_seconds: float = 300.0
    body_bytes: int = 1 << 20
    body_seconds: float = 20.0
    headers: int = 100
    header_bytes: int = 32 * 1024
    header_seconds: float = 10.0
    send_seconds: float = 30.0
    connections: int = 512
    inputs: int = 64
    drain_seconds: float = 2.0

    def checked(self) -> Self:
        """Raises UserError for limits that contradict each other, or a port that is none."""
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port {self.port}: a port is a number from 0 (any that is free) to 65535")
        if self.max_tokens >= self.context:
            raise UserError(
                f"--max-tokens {self.max_tokens} leaves no room for a prompt in --context {self.context}: give fewer, "
                "or a longer context"
            )
        if any(not key or not key.isascii() or not key.isprintable() or " " in key for key in self.keys):
            raise UserError("--api-key: a key is printable ASCII without spaces, and not empty")
        return self

    @property
    def most_default(self) -> int:
        """What an answer has where nobody asked, within what may be asked."""
        return min(self.default_tokens, self.max_tokens)

    @property
    def is_open(self) -> bool:
        """Whether other machines can reach it and no key is asked for."""
        return self.host not in LOOPBACK and not self.keys

    def admits(self, authorization: str | None) -> bool:
        """Whether an Authorization header holds one of the keys. Every key is compared, each in constant time, by
        digests, so that neither its length nor its beginning can be learnt from the time it takes.
        """
        if not self.keys:
            return True
        word, _, given = (authorization or "").partition(" ")
        digest = hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).digest()
        found = False
        for key in self.keys:
            found |= hmac.compare_digest(digest, hashlib.sha256(key.encode()).digest())
        return found and word.lower() == "bearer"
