"""What the server adds to a token, and what it makes of many streams at once.

    python benchmarks/serving.py [NAME|RUN] [--new 192] [--streams 1,16,64] [--json]

Starts `headtohead serve` in a process of its own; streams are read by this one, over loopback, as bytes. What it
adds is its time of a token at one stream less the decoding engine's own, measured in a process between two of the
server's rounds. NAME: a preset, whose weights are drawn (default decllm-mini, 17M).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROMPT = [9 + i % 200 for i in range(128)]
ENGINE = """
import statistics, sys
from headtohead.interop.bench.decoding import Ours, Setting
from headtohead.interop.loading import load
ours = Ours(load(sys.argv[1]).network, 1, Setting(prompt=128, new=int(sys.argv[2])))
ours.write()
print(statistics.median(ours.write()[2] for _ in range(5)))
"""


def folder_of(name: str, place: Path) -> Path:
    """The folder of a network: a run's own, or one made of a preset, on bytes."""
    if Path(name).is_dir():
        return Path(name)
    from headtohead.interop.bench.writers import drawn
    from headtohead.interop.folders import write_folder
    from headtohead.model.presets import architecture

    write_folder(place / name, drawn(architecture(name)))
    return place / name


def started(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """The server's process, and its port."""
    command = [sys.executable, "-m", "headtohead", "serve", f"it={folder}", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("http://"):
            return process, line.split()[0].rpartition(":")[2]
    raise SystemExit(f"the server did not start (exit code {process.wait()})")


async def one(port: str, new: int, seed: int) -> tuple[int, float, float]:
    """A stream to its end: tokens that were written, and when the first and the last came."""
    asked = {
        "model": "it", "prompt": [PROMPT[0], *(9 + (x * 7 + seed) % 200 for x in PROMPT[1:])], "max_tokens": new,
        "temperature": 1.0, "seed": seed, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    body = json.dumps(asked).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
    )
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    whole, first, last = b"", 0.0, 0.0
    while piece := await reader.read(1 << 16):
        whole += piece
        last = time.perf_counter()
        if not first and b"data: " in whole:
            first = last
    writer.close()
    told = [line for line in whole.split(b"\n") if line.startswith(b"data: {")]
    return json.loads(told[-1][6:])["usage"]["completion_tokens"], first, last


async def many(port: str, streams: int, new: int, seed: int) -> tuple[float, float]:
    """So many streams at once: tokens a second of all together, and seconds of a token after the first of each."""
    began = time.perf_counter()
    found = await asyncio.gather(*(one(port, new, seed + i) for i in range(streams)))
    took = time.perf_counter() - began
    each = [(last - first) / (tokens - 1) for tokens, first, last in found if tokens > 1]
    return sum(tokens for tokens, _, _ in found) / took, statistics.median(each)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="decllm-mini")
    parser.add_argument("--new", type=int, default=192)
    parser.add_argument("--streams", default="1,16,64")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = folder_of(asked.name, Path(place))
        process, port = started(folder)
        try:
            found: dict[str, Any] = {"network": asked.name, "streams": {}}
            asyncio.run(many(port, 2, 16, 0))  # warms up
            engine: list[float] = []
            tokens: dict[int, list[float]] = {int(n): [] for n in asked.streams.split(",")}
            steps: dict[int, list[float]] = {n: [] for n in tokens}
            for number in range(asked.rounds):
                said = subprocess.run(
                    [sys.executable, "-c", ENGINE, str(folder), str(asked.new)],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                engine.append(float(said.stdout))
                for n in tokens:
                    rate, step = asyncio.run(many(port, n, asked.new, 1000 * number))
                    tokens[n].append(rate)
                    steps[n].append(step)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)
    for n in tokens:
        found["streams"][str(n)] = {
            "tokens_per_second": statistics.median(tokens[n]),
            "milliseconds_per_token": 1e3 * statistics.median(steps[n]),
        }
    found["engine_milliseconds_per_token"] = 1e3 * statistics.median(engine)
    if 1 in tokens:
        alone = found["streams"]["1"]
        found["added_milliseconds_per_token"] = (
            alone["milliseconds_per_token"] - found["engine_milliseconds_per_token"]
        )
        for n in tokens:
            there = found["streams"][str(n)]
            there["times_one_stream"] = there["tokens_per_second"] / alone["tokens_per_second"]
    if asked.json:
        print(json.dumps(found, indent=1))
        return
    for n, there in found["streams"].items():
        more = f", {there['times_one_stream']:.2f} times one" if "times_one_stream" in there else ""
        print(f"{n} streams: {there['tokens_per_second']:,.0f} tokens/s{more}")
    if "added_milliseconds_per_token" in found:
        print(f"the server adds {found['added_milliseconds_per_token']:.2f} ms to a token of one stream")


if __name__ == "__main__":
    main()
