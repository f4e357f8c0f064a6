"""A dialogue, timed: the turns of `measure.cost` through the decoding engine's own sessions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from headtohead.errors import UserError
from headtohead.generate.engine import Engine
from headtohead.generate.requests import Sampling
from headtohead.generate.runners import make_runner
from headtohead.generate.running import Runner
from headtohead.generate.session import Session
from headtohead.measure.cost import Dialogue, Machine
from headtohead.measure.limits import matmul_peak, read_bandwidth
from headtohead.model.architecture import Architecture
from headtohead.model.transformer import Transformer

TYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
Report = Callable[[str], None]


@dataclass(frozen=True)
class Timed:
    """One turn as it went: milliseconds, and how many tokens of each stream were kept and read."""

    milliseconds: float
    kept: Mapping[str, int]
    read: Mapping[str, int]


def measured_machine(dtype: str) -> Machine:
    """What this machine does at most, with the threads that torch has now."""
    return Machine(matmul_peak(_type(dtype)), read_bandwidth())


def timed_rounds(
    networks: Sequence[Architecture], dialogue: Dialogue, rounds: int, report: Report
) -> list[list[list[Timed]]]:
    """Of each round each network's turns. Networks take turns, so that a slow minute of the machine falls on all of
    them; weights are drawn, tokens too, and no token ends an answer.

    Raises:
        UserError: a dtype that isn't computed in, or a network that can't write token by token.
    """
    _type(dialogue.dtype)
    runners = [_runner(a, dialogue) for a in networks]
    found: list[list[list[Timed]]] = []
    for number in range(rounds + 1):
        turns: list[list[Timed]] = []
        for a, runner in zip(networks, runners, strict=True):
            report(f"{a.name}: {'warming up' if not number else f'round {number} of {rounds}'}")
            # Compilers and allocators are done after two turns.
            turns.append(_dialogue(a, runner, dialogue, dialogue.turns if number else min(2, dialogue.turns)))
        if number:
            found.append(turns)
    return found


def time_dialogues(
    networks: Sequence[Architecture], dialogue: Dialogue, rounds: int, report: Report
) -> list[list[Timed]]:
    """The turns of each network's dialogue: of each turn the fastest of `rounds`.

    Raises:
        UserError: as `timed_rounds`.
    """
    by_network = zip(*timed_rounds(networks, dialogue, rounds, report), strict=True)
    return [
        [min(same, key=lambda turn: turn.milliseconds) for same in zip(*all_rounds, strict=True)]
        for all_rounds in by_network
    ]


def _type(dtype: str) -> torch.dtype:
    if dtype not in TYPES:
        raise UserError(f"--measure computes in {' or '.join(TYPES)}, not in {dtype}")
    return TYPES[dtype]


def _runner(a: Architecture, dialogue: Dialogue) -> Runner:
    room = dialogue.turns * dialogue.grows_by + 1
    model = Transformer(a, seed=0).eval()
    kind = "bf16" if dialogue.dtype == "bf16" else "fp32"
    return make_runner(
        model, 1, {s.name: room for s in a.streams}, precision=kind, threads=torch.get_num_threads()
    )


def _dialogue(a: Architecture, runner: Runner, dialogue: Dialogue, turns: int) -> list[Timed]:
    generator = torch.Generator().manual_seed(0)
    found: list[Timed] = []
    with Session(Engine(runner)) as session:
        for _ in range(turns):
            said = torch.randint(0, a.vocabulary, (dialogue.input + 1,), generator=generator).tolist()
            how = Sampling(max_tokens=dialogue.output)
            began = time.perf_counter()
            written = sum(len(event.tokens) for event in session.ask(said[1:], said[:1], how))
            took = 1e3 * (time.perf_counter() - began)
            assert written == dialogue.output
            found.append(Timed(took, dict(session.kept), dict(session.read)))
    return found
