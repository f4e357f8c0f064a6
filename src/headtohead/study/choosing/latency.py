"""How long an answer takes on this machine: measured, with the network's weights as they are drawn."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from headtohead.data.shards import SPECIALS
from headtohead.generate.engine import Engine
from headtohead.generate.prompts import prompt_of
from headtohead.generate.requests import Sampling
from headtohead.generate.runners import make_runner
from headtohead.model.architecture import Architecture
from headtohead.model.transformer import Transformer

REPEATS = 5


def milliseconds(networks: Mapping[str, Architecture], given: int, written: int) -> dict[str, float]:
    """For each network the shortest of five times to read `given` tokens and write `written`, one request at a time,
    as `headtohead serve` does it; they take turns, so that they share what else the machine does.
    """
    engines = {name: _engine(a, given + written) for name, a in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(1 + REPEATS):
        for name, engine in engines.items():
            began = time.perf_counter()
            _answer(engine, given, written)
            if turn:  # the first of each warms up
                times[name].append(1e3 * (time.perf_counter() - began))
    return {name: min(some) for name, some in times.items()}


def _engine(a: Architecture, tokens: int) -> Engine:
    room = {stream.name: tokens + 2 for stream in a.streams}
    return Engine(make_runner(Transformer(a).eval(), 1, room))


def _answer(engine: Engine, given: int, written: int) -> None:
    a = engine.runner.architecture
    ids = np.resize(np.arange(len(SPECIALS), a.vocabulary), given).tolist()
    prompt = prompt_of(a, ids, [1] if a.two_streams else [])
    engine.write([prompt], Sampling(max_tokens=written))
