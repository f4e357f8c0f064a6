"""Runs a network over slots: reads prompts into them, and writes one token into some of them at a time.

`Runner` is what the loop (`engine`) asks of it; `EagerRunner` is PyTorch as it is, on any device and for any network;
`native.NativeRunner` is the fast one for CPUs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from headtohead.generate.prompts import Prompt
from headtohead.model.architecture import Architecture
from headtohead.model.batch import Tokens
from headtohead.model.linear import LinearState
from headtohead.model.slots import SlotCache
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import OUTPUT, PADDING

Precision = Literal["fp32", "bf16"]


class Runner(Protocol):
    """Slots 0 … `slots` - 1, each with room for `capacity` tokens in each stream."""

    slots: int
    capacity: Mapping[str, int]
    architecture: Architecture

    def prefill(self, slot: int, prompt: Prompt, kept: Mapping[str, int] | None = None) -> Tensor:
        """Read a prompt into a slot; logits (V,) in fp32 after its last token. `kept`: the slot's first tokens of
        each stream that are there already and are the prompt's (`reuse.still_valid`); the last stream's last token
        is never among them.
        """
        ...

    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """Write one token into each of some slots; logits (len(slots), V) in fp32 after it."""
        ...

    def copy(self, source: int, target: int) -> None:
        """Make a slot what another is."""
        ...

    def release(self, slot: int) -> None:
        """Forget what a slot holds."""
        ...

    def lengths(self, slot: int) -> dict[str, int]:
        """Tokens that a slot holds, by stream."""
        ...


class Standing:
    """Where the next token of each slot stands: its position, and its place in the output."""

    def __init__(self, a: Architecture, slots: int) -> None:
        self.growing = [stream.name for stream in a.streams if stream.holds != "input"]
        self._last = a.output_stream.name
        self.position = np.zeros(slots, np.int64)
        self.step = np.zeros(slots, np.int64)

    def begin(self, slot: int, prompt: Prompt) -> None:
        """After a prompt."""
        tokens = prompt[self._last]
        self.position[slot] = int(tokens.position[0, -1]) + 1
        self.step[slot] = int(tokens.step[0, -1]) + 1

    def advance(self, slots: Sequence[int]) -> None:
        """After one more token."""
        some = list(slots)
        self.position[some] += 1
        self.step[some] += 1

    def copy(self, source: int, target: int) -> None:
        """Make a slot what another is."""
        self.position[target], self.step[target] = self.position[source], self.step[source]


def new_part(prompt: Prompt, kept: Mapping[str, int]) -> dict[str, Tokens]:
    """The tokens of each stream after those that are kept; streams without any are left out."""
    found: dict[str, Tokens] = {}
    for name, tokens in prompt.items():
        first = kept.get(name, 0)
        if first < tokens.ids.shape[1]:
            found[name] = tokens.map(lambda field, n=first: field[:, n:])
    return found


class EagerRunner:
    """PyTorch without a compiler, on the network's own device. All slots are in every step, so shapes are few; the
    cache is that of `model.slots`.

    In bf16 the network's matrices are converted in place, and everything computes under autocast.
    """

    def __init__(
        self,
        model: Transformer,
        slots: int,
        capacity: Mapping[str, int],
        precision: Precision = "fp32",
    ) -> None:
        self.model, self.slots = model, slots
        self.capacity: Mapping[str, int] = dict(capacity)
        self.architecture = model.architecture
        self._half = precision == "bf16"
        if self._half:
            halve(model)
        dtype = torch.bfloat16 if self._half else next(model.parameters()).dtype
        self._cache = SlotCache(self.architecture, slots, capacity, dtype, model.device)
        self._standing = Standing(self.architecture, slots)

    def _computing(self) -> AbstractContextManager[object]:
        return torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=self._half)

    @torch.no_grad()
    def prefill(self, slot: int, prompt: Prompt, kept: Mapping[str, int] | None = None) -> Tensor:
        """See `Runner`."""
        kept = kept or {}
        prompt = {n: t.map(lambda field: field.to(self.model.device)) for n, t in prompt.items()}
        one = self._cache.row(slot, kept)
        with self._computing():
            h = self.model.hidden(new_part(prompt, kept), one)
            logits = self.model.next_logits(h[0, -1])
        self._cache.store(slot, one)
        self._standing.begin(slot, prompt)
        return logits

    @torch.no_grad()
    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """See `Runner`."""
        some = list(slots)
        fields = np.zeros((5, self.slots, 1), np.int64)
        fields[2] = PADDING
        fields[0, some, 0], fields[2, some], fields[3, some] = tokens, 0, OUTPUT
        fields[1, some, 0], fields[4, some, 0] = self._standing.position[some], self._standing.step[some]
        new = Tokens(*torch.from_numpy(fields).to(self.model.device).unbind())
        with self._computing():
            h = self.model.hidden(dict.fromkeys(self._standing.growing, new), self._cache)
            logits = self.model.next_logits(h[some, 0])
        self._standing.advance(some)
        return logits

    def copy(self, source: int, target: int) -> None:
        """See `Runner`."""
        self._cache.copy(source, target)
        self._standing.copy(source, target)

    def release(self, slot: int) -> None:
        """See `Runner`."""
        self._cache.release(slot)

    def lengths(self, slot: int) -> dict[str, int]:
        """See `Runner`."""
        return {name: int(filled.lengths[slot]) for name, filled in self._cache.filling.items()}

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that were set aside."""
        kept = self._cache.reads.values()
        parts = ((k.sums, k.totals) if isinstance(k, LinearState) else (k.keys, k.values) for k in kept)
        return sum(t.numel() * t.element_size() for pair in parts for t in pair)


def halve(model: Transformer) -> None:
    """Matrices in bf16, in place; norms and biases stay as they are."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.bfloat16()
