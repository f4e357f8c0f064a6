"""Small networks of every family that writes, and what a full pass makes of what they wrote."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch

from headtohead.errors import UserError
from headtohead.generate.prompts import Prompt, check_writes, prompt_of, rows_of
from headtohead.model.architecture import Architecture
from headtohead.model.presets import architecture, families
from headtohead.model.reach import sees_its_answer
from headtohead.model.transformer import Transformer

VOCABULARY = 211
ROUNDING = 2e-5
"""Logits that differ by less are a tie in fp32: either token is the likeliest."""


def small(family: str) -> Architecture:
    """A family's smallest laptop size, with few tokens."""
    sizes = list(families()[family].sizes)
    return architecture(f"{family}-{'nano' if 'nano' in sizes else sizes[0]}").resized(vocabulary=VOCABULARY)


@cache
def generative() -> tuple[str, ...]:
    """The families that write token by token."""
    found: list[str] = []
    for family in families():
        a = small(family)
        try:
            check_writes(a, 8, 8)
        except UserError:
            continue
        if not sees_its_answer(a, "output"):
            found.append(family)
    return tuple(found)


@cache
def network(family: str) -> Transformer:
    """Random weights, wide apart, so that what is written is not one token over and over."""
    model = Transformer(small(family), seed=5).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(1.7)
    return model


def ids(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(7, VOCABULARY, (length,), generator=generator).tolist()


def ragged(a: Architecture, rows: int = 7) -> tuple[list[list[int]], list[list[int]], list[Prompt]]:
    """Inputs of different lengths, what begins their outputs, and both as prompts."""
    lengths = [1, 17, 4, 33, 9, 2, 25][:rows]
    given = [ids(n, seed) for seed, n in enumerate(lengths)]
    begun = [[1, *ids(seed % 3, 100 + seed)] for seed in range(rows)]
    return given, begun, [prompt_of(a, n, m) for n, m in zip(given, begun, strict=True)]


def assert_full_pass_agrees(
    model: Transformer, given: Sequence[int], begun: Sequence[int], written: Sequence[int]
) -> None:
    """Each token is the likeliest one after all that came before it, by reading everything anew."""
    a = model.architecture
    streams = rows_of(a, [given], [[*begun, *written[:-1]]])
    h = model.hidden(streams)
    logits = model.next_logits(h[0, h.shape[1] - len(written) :])
    best = logits.argmax(dim=-1)
    for step, token in enumerate(written):
        gap = float(logits[step, best[step]] - logits[step, token])
        assert token == int(best[step]) or gap <= ROUNDING, (
            f"step {step}: {token} is {gap:g} below {best[step]}"
        )
