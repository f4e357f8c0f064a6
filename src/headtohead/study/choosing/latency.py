"""How long an answer takes on this machine: measured, with the network's weights as they are drawn."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch

from headtohead.data.layouts import Layout
from headtohead.data.shards import CONTINUE, SPECIALS, Example
from headtohead.generate.decoding import written_after
from headtohead.generate.prompts import prompts
from headtohead.model.architecture import Architecture
from headtohead.model.transformer import Transformer

REPEATS = 5


def milliseconds(networks: Mapping[str, Architecture], given: int, written: int) -> dict[str, float]:
    """For each network the shortest of five times to read `given` tokens and write `written`, one request at a time,
    with all cores; they take turns, so that they share what else the machine does.
    """
    models = {name: Transformer(a) for name, a in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(1 + REPEATS):
        for name, model in models.items():
            began = time.perf_counter()
            _answer(model, given, written)
            if turn:  # the first of each warms up
                times[name].append(1e3 * (time.perf_counter() - began))
    return {name: min(some) for name, some in times.items()}


@torch.no_grad()
def _answer(model: Transformer, given: int, written: int) -> None:
    a = model.architecture
    layout = Layout(a, "output", row=given + written, side=max(given, written))
    ids = np.resize(np.arange(len(SPECIALS), a.vocabulary, dtype=np.int32), given - 1)
    example = Example(ids, np.empty(0, np.int32), CONTINUE, False, 0, "continuation", 0)
    written_after(model, prompts(layout, [example]), written, ends=())
