"""A server under many clients for minutes, some of whom misbehave: are the others served, and does memory stay?

    python benchmarks/soak.py RUN [RUN …] --minutes 10 --clients 64 --misbehaving 0.1 [--json]

Starts `headtohead serve` in a process of its own. Well-behaved clients stream and complete over and over, check that
what they get is whole and, where they give a seed, that it is what the same request gave before. Misbehaving ones send
what is no request, vanish in the middle, read nothing, send half a header, a body of 100 MB or a flood of headers. Any
answer to a well-behaved client that is no success is an error (429, come again, is none if it succeeds at last). The
server's memory is read from the system once a second: the median of the last tenth of the time against the second's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import httpx

TEXT = "the people of this nation have given to their government a great trust and we must keep it with honor"
WORDS = TEXT.split()
ERRORS_SHOWN = 10


@dataclass
class Tally:
    """What was seen."""

    done: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    refused: int = 0
    first: list[float] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    same: dict[str, str] = field(default_factory=dict)


def started(runs: list[str], extra: list[str]) -> tuple[subprocess.Popen[str], str]:
    """The server's process and its address."""
    command = [sys.executable, "-m", "headtohead", "serve", *runs, "--port", "0", *extra]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        print(line, end="", file=sys.stderr)
        if line.startswith("http://"):
            return process, line.split()[0]
    raise SystemExit(f"the server did not start (exit code {process.wait()})")


def memory_of(pid: int) -> int:
    """Bytes of memory that a process holds now."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


# ------------------------------------------------------------------------------------------ the well-behaved


async def behave(client: httpx.AsyncClient, models: list[str], tally: Tally, end: float, seed: int) -> None:
    """Ask and read, until `end`."""
    chance = random.Random(seed)
    while time.monotonic() < end:
        kind = chance.choice(("stream", "whole", "chat", "seeded"))
        number = chance.randrange(8)
        asked: dict[str, Any] = {"model": chance.choice(models), "max_tokens": chance.randint(4, 48)}
        text = " ".join(chance.choices(WORDS, k=chance.randint(1, 24)))
        try:
            if kind == "seeded":
                prompt = " ".join(WORDS[:number])
                asked |= {"prompt": prompt, "seed": number, "max_tokens": 24, "temperature": 1.0}
                found = await whole(client, asked, tally)
                key = f"{asked['model']} {number}"
                if tally.same.setdefault(key, found) != found:
                    raise ValueError(f"seed {number} gave another text than before")
            elif kind == "whole":
                await whole(client, {**asked, "prompt": [text, "and"], "n": 2}, tally)
            else:
                messages = [{"role": "user", "content": text}]
                await stream(client, {**asked, "messages": messages, "stream": True}, tally)
            tally.done[kind] += 1
        except Exception as problem:  # whatever it is, a client that behaves must not see it
            tally.errors.append(f"{kind}: {type(problem).__name__}: {problem}"[:300])
        await asyncio.sleep(chance.random() * 0.05)


async def whole(client: httpx.AsyncClient, asked: dict[str, Any], tally: Tally) -> str:
    """A whole answer's text."""
    while True:
        answer = await client.post("/v1/completions", json=asked)
        if answer.status_code != 429:
            break
        tally.refused += 1
        await asyncio.sleep(float(answer.headers["retry-after"]))
    answer.raise_for_status()
    found = answer.json()
    tally.tokens += found["usage"]["completion_tokens"]
    if any(choice["finish_reason"] not in ("stop", "length") for choice in found["choices"]):
        raise ValueError("an answer without an end")
    return "".join(choice["text"] for choice in found["choices"])


async def stream(client: httpx.AsyncClient, asked: dict[str, Any], tally: Tally) -> None:
    """A streamed answer, to its end."""
    while True:
        began, ended, pieces = time.monotonic(), False, 0
        async with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
            if answer.status_code != 429:
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    if line == "data: [DONE]":
                        ended = True
                    elif line:
                        found = json.loads(line.removeprefix("data: "))
                        if "error" in found:
                            raise ValueError(found["error"]["message"])
                        if found["choices"][0]["delta"].get("content"):
                            if not pieces:
                                tally.first.append(time.monotonic() - began)
                            pieces += 1
                tally.tokens += pieces
                if not ended:
                    raise ValueError("a stream without an end")
                return
            await answer.aread()
        tally.refused += 1
        await asyncio.sleep(1)


# ------------------------------------------------------------------------------------------- the misbehaving


async def misbehave(url: str, models: list[str], tally: Tally, end: float, seed: int) -> None:
    """One ill-mannered thing after another, until `end`."""
    chance = random.Random(seed)
    host, port = url.removeprefix("http://").split(":")
    while time.monotonic() < end:
        deed = chance.choice(DEEDS)
        try:
            async with asyncio.timeout(30):
                reader, writer = await asyncio.open_connection(host, int(port))
                try:
                    await deed(reader, writer, chance.choice(models), chance)
                finally:
                    writer.transport.abort()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass
        tally.done[f"({deed.__name__})"] += 1
        await asyncio.sleep(chance.random() * 0.2)


def _request(body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {size}\r\n\r\n".encode() + body


def _stream(model: str) -> bytes:
    asked = {"model": model, "prompt": "the people", "max_tokens": 400, "stream": True, "n": 2}
    return _request(json.dumps(asked).encode())


Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
Chance: TypeAlias = random.Random


async def no_request(r: Reader, w: Writer, model: str, chance: Chance) -> None:
    """Nonsense."""
    bodies = (
        b"{",
        b'{"model": 5}',
        b'{"prompt": "\xff"}',
        b"[" * 5000,
        b'{"model": "nobody", "prompt": "a"}',
        b"",
    )
    w.write(_request(chance.choice(bodies)))
    await r.read(1000)


async def too_much(r: Reader, w: Writer, model: str, chance: Chance) -> None:
    """A body of 100 MB."""
    w.write(_request(b"", length=100 << 20))
    for _ in range(100):
        w.write(b"a" * (1 << 20))
        await w.drain()


async def half_a_header(r: Reader, w: Writer, model: str, chance: Chance) -> None:
    """Headers that don't end."""
    w.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-")
    await asyncio.sleep(chance.random() * 12)


async def half_a_body(r: Reader, w: Writer, model: str, chance: Chance) -> None:
    """A body that doesn't end."""
    w.write(_request(b'{"model": ', length=500))
    await asyncio.sleep(chance.random() * 4)


async def many_headers(r: Reader, w: Writer, model: str, chance: Chance) -> None:
    """Twenty thousand of them."""
    flood = b"".join(b"X-%d: a\r\n" % n for n in range(20_000))
    w.write(b"GET /health HTTP/1.1\r\nHost: x\r\n" + flood + b"\r\n")
    await r.read(1000)


async def vanish(r: Reader, w: Writer, model: str, chance: Chance) -> None:
    """Gone in the middle of a stream."""
    w.write(_stream(model))
    await r.read(100)
    await asyncio.sleep(chance.random())


async def read_nothing(r: Reader, w: Writer, model: str, chance: Chance) -> None:
    """A stream that nobody reads."""
    w.write(_stream(model))
    await asyncio.sleep(chance.random() * 5)


async def tricks(r: Reader, w: Writer, model: str, chance: Chance) -> None:
    """Paths that are none."""
    paths = ("/../../etc/passwd", "/%2e%2e/x", "//x", "/v1/models/" + "a" * 3000, "/\x7f")
    w.write(f"GET {chance.choice(paths)} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1"))
    await r.read(1000)


DEEDS = (no_request, too_much, half_a_header, half_a_body, many_headers, vanish, read_nothing, tricks)


# ------------------------------------------------------------------------------------------------------- all


async def watch(pid: int, tally: Tally, end: float, began: float) -> None:
    """Read the server's memory once a second, and say how it goes."""
    told = began
    while time.monotonic() < end:
        tally.memory.append((time.monotonic() - began, memory_of(pid)))
        if time.monotonic() - told > 15:
            told = time.monotonic()
            print(
                f"{told - began:5.0f} s, {end - told:4.0f} s left: {sum(tally.done.values()):,} done, "
                f"{tally.tokens:,} tokens, {len(tally.errors)} errors, {tally.memory[-1][1] / 1e6:.0f} MB",
                file=sys.stderr,
            )
        await asyncio.sleep(1)


async def soak(url: str, pid: int, clients: int, misbehaving: int, seconds: float) -> Tally:
    """All clients at once."""
    tally = Tally()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        models = [one["id"] for one in listed if one["headtohead"]["writes"]]
        began = time.monotonic()
        end = began + seconds
        await asyncio.gather(
            watch(pid, tally, end, began),
            *(behave(client, models, tally, end, n) for n in range(clients - misbehaving)),
            *(misbehave(url, models, tally, end, -1 - n) for n in range(misbehaving)),
        )
    return tally


def growth(memory: list[tuple[float, int]]) -> tuple[float, float, float]:
    """Medians of the second tenth of the time (slots and caches are warm then) and of the last; their ratio - 1."""
    tenth = max(1, len(memory) // 10)
    early = statistics.median(size for _, size in memory[tenth : 2 * tenth] or memory)
    late = statistics.median(size for _, size in memory[-tenth:])
    return early, late, late / early - 1


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="what is served")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--misbehaving", type=float, default=0.1, help="their share")
    parser.add_argument("--serve", default="", help="more words for headtohead serve")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    bad = max(1, round(given.clients * given.misbehaving)) if given.misbehaving else 0
    process, url = started(given.runs, given.serve.split())
    try:
        tally = asyncio.run(soak(url, process.pid, given.clients, bad, 60 * given.minutes))
        with httpx.Client(base_url=url, timeout=60) as client:
            client.get("/health").raise_for_status()
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        code = process.wait(20)
        stopped = time.monotonic() - began
    finally:
        process.kill()
    early, late, grown = growth(tally.memory)
    first = sorted(tally.first)
    found = {
        "minutes": given.minutes,
        "clients": given.clients,
        "misbehaving": bad,
        "done": dict(sorted(tally.done.items())),
        "tokens_per_second": tally.tokens / (60 * given.minutes),
        "time_to_first_token_seconds": {
            "median": statistics.median(first) if first else None,
            "p99": first[int(0.99 * len(first))] if first else None,
        },
        "refused_and_retried": tally.refused,
        "errors": len(tally.errors),
        "first_errors": tally.errors[:ERRORS_SHOWN],
        "memory_bytes": {"early": early, "late": late, "growth": grown},
        "stopped_in_seconds": stopped,
        "exit_code": code,
    }
    passed = not tally.errors and grown <= 0.05 and code == 0 and stopped < 5
    if given.json:
        print(json.dumps({**found, "passed": passed}, indent=1))
    else:
        for name, value in found.items():
            print(f"{name}: {value}")
        print("passed" if passed else "FAILED")
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
