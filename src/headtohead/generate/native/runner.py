"""The `Runner` over the kernel: fp32, bf16 or int8 weights, packed once; keys and values in place."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headtohead.generate.native import structs
from headtohead.generate.native.building import Unavailable, library
from headtohead.generate.native.packing import Quantized, Store
from headtohead.generate.native.plan import LANES, HeadPlan, StreamPlan, kind_of, unsupported
from headtohead.generate.prompts import Prompt
from headtohead.generate.reuse import split_of, stretches
from headtohead.generate.running import Precision, Standing, new_part
from headtohead.model.architecture import Stream
from headtohead.model.batch import Tokens
from headtohead.model.positions import standing
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import OUTPUT, Coordinates

AHEAD = 64
"""Steps for which it is worked out at once what each will see."""

Numbers = npt.NDArray[np.int32]


@dataclass
class _Rows:
    """New tokens of one stream, for the kernel: (rows,) each; `x` (rows, d) goes in and final states come out."""

    x: Tensor
    slot: Numbers
    place: Numbers
    standing: Numbers


class NativeRunner:
    """Slots on a CPU. What a row gets is the same, to the bit, whatever else is in the batch.

    Raises:
        Unavailable: the network has a part that the kernel hasn't, or there is no compiler.
    """

    def __init__(
        self,
        model: Transformer,
        slots: int,
        capacity: Mapping[str, int],
        precision: Precision = "bf16",
        quantized: Quantized | None = None,
        threads: int | None = None,
    ) -> None:
        a = self.architecture = model.architecture
        if model.device.type != "cpu":
            raise Unavailable("the network is not on a CPU")
        if (reason := unsupported(a)) is not None:
            raise Unavailable(f"{a.name}: {reason}")
        self._library = library()
        self.model, self.slots = model, slots
        self.capacity: Mapping[str, int] = dict(capacity)
        self.threads = threads or torch.get_num_threads()
        self._room = {name: -(-n // LANES) * LANES for name, n in capacity.items()}
        self._store = Store(kind_of(precision, quantized or {}))
        self._plans = {
            s.name: StreamPlan(model, s, self._store, quantized or {}, slots, self._room) for s in a.streams
        }
        self._head = HeadPlan(model, self._store, quantized or {})
        self._standing = Standing(a, slots)
        self._filled = {name: np.zeros(slots, np.int64) for name in self._room}
        self._stands = {name: np.zeros((slots, n), np.int32) for name, n in self._room.items()}
        self._beginning = {name: np.zeros(slots, np.int64) for name in self._room}
        self._split = np.zeros(slots, np.int64)
        self._from = np.zeros(slots, np.int64)
        self._ahead: dict[tuple[str, int], Numbers] = {}

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed matrices, all of which a step reads."""
        return self._store.bytes

    @property
    def cache_bytes(self) -> int:
        """Bytes of keys and values that were set aside."""
        kept = (t for plan in self._plans.values() for _, *pair in plan.kept for t in pair)
        return sum(t.numel() * t.element_size() for t in kept)

    @torch.no_grad()
    def prefill(self, slot: int, prompt: Prompt, kept: Mapping[str, int] | None = None) -> Tensor:
        """See `Runner`."""
        kept, a = kept or {}, self.architecture
        new = new_part(prompt, kept)
        self._split[slot] = split_of(*prompt.values())
        for name, tokens in prompt.items():
            n = tokens.ids.shape[1]
            if n:
                position = tokens.position[0].numpy()
                self._beginning[name][slot] = position[0]
                if not (np.diff(position) == 1).all():
                    raise ValueError(f"the positions of stream '{name}' don't follow one another")
            self._filled[name][slot] = n
        states: dict[str, _Rows] = {}
        for stream in a.streams:
            if stream.name not in new:
                continue
            tokens = new[stream.name]
            first, end = kept.get(stream.name, 0), prompt[stream.name].ids.shape[1]
            stood = standing(a, stream, tokens)
            self._stands[stream.name][slot, first:end] = stood[0].numpy()
            place = np.arange(first, end, dtype=np.int32)
            rows = _Rows(
                self._embedded(stream, tokens, stood),
                np.full(end - first, slot, np.int32),
                place,
                np.ascontiguousarray(self._stands[stream.name][slot, first:end]),
            )
            where = Coordinates(
                *(axis[0].numpy() for axis in (tokens.position, tokens.document, tokens.part))
            )
            masks = [
                self._seen(stream, number, slot, where, self._end(keys, slot))
                for number, (keys, _) in enumerate(self._plans[stream.name].masks)
            ]
            self._run(stream, rows, masks, states)
            states[stream.name] = rows
        self._standing.begin(slot, prompt)
        self._look_ahead(slot)
        return self._logits(states[a.output_stream.name].x[-1:])[0]

    @torch.no_grad()
    def step(self, slots: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """See `Runner`."""
        some = np.array(slots, np.int32)
        a, count = self.architecture, len(some)
        fields = np.zeros((5, 1, count), np.int64)
        fields[0, 0], fields[1, 0] = tokens, self._standing.position[some]
        fields[3], fields[4, 0] = OUTPUT, self._standing.step[some]
        new = Tokens(*torch.from_numpy(fields).unbind())
        last = self._standing.growing[-1]
        offset = self._filled[last][some] - self._from[some]
        if (offset >= AHEAD).any():
            for slot in some[offset >= AHEAD].tolist():
                self._look_ahead(slot)
            offset = self._filled[last][some] - self._from[some]
        states: dict[str, _Rows] = {}
        for name in self._standing.growing:
            stream = a.stream(name)
            stood = standing(a, stream, new)
            place = self._filled[name][some].astype(np.int32)
            here = stood[0].numpy().astype(np.int32)
            self._stands[name][some, place] = here
            self._filled[name][some] += 1
            rows = _Rows(self._embedded(stream, new, stood), some, place, here)
            masks = [
                self._ahead[name, number][some, offset] for number in range(len(self._plans[name].masks))
            ]
            self._run(stream, rows, masks, states)
            states[name] = rows
        self._standing.advance(slots)
        return self._logits(states[last].x)

    def copy(self, source: int, target: int) -> None:
        """See `Runner`."""
        for name in self._room:
            for array in (self._filled, self._stands, self._beginning):
                array[name][target] = array[name][source]
        for array in (self._split, self._from, *self._ahead.values()):
            array[target] = array[source]
        self._standing.copy(source, target)
        for plan in self._plans.values():
            for keys_of, keys, values in plan.kept:
                used = int(self._filled[keys_of][source])
                blocks = -(-used // LANES)
                keys[target, :, :blocks] = keys[source, :, :blocks]
                values[target, :, :used] = values[source, :, :used]

    def release(self, slot: int) -> None:
        """See `Runner`."""
        for filled in self._filled.values():
            filled[slot] = 0

    def lengths(self, slot: int) -> dict[str, int]:
        """See `Runner`."""
        return {name: int(filled[slot]) for name, filled in self._filled.items()}

    # --------------------------------------------------------------------------------------------------------

    def _embedded(self, stream: Stream, tokens: Tokens, stood: Tensor) -> Tensor:
        return self.model.embedded(stream, tokens, stood)[0].float().contiguous()

    def _end(self, keys: str, slot: int) -> int:
        """The position after the last token of a slot's stream."""
        return int(self._beginning[keys][slot] + self._filled[keys][slot])

    def _seen(self, stream: Stream, number: int, slot: int, where: Coordinates, end: Any) -> Numbers:
        """What some queries of a slot see under one of the stream's masks: (queries, 1 or heads, stretches, 2)."""
        keys, rule = self._plans[stream.name].masks[number]
        heads = self.architecture.width(stream).heads
        beginning = int(self._beginning[keys][slot])
        found = [
            stretches(rule, head, heads, where, int(self._split[slot]), beginning, end)
            for head in (range(heads) if rule.differs_by_head else (0,))
        ]
        made = np.zeros((len(where.position), len(found), max(x.shape[1] for x in found), 2), np.int32)
        for head, x in enumerate(found):
            made[:, head, : x.shape[1]] = x.transpose(2, 1, 0)
        return made

    def _look_ahead(self, slot: int) -> None:
        """Work out what the next tokens of a slot will see."""
        last = self._standing.growing[-1]
        self._from[slot] = self._filled[last][slot]
        position = self._standing.position[slot] + np.arange(AHEAD)
        where = Coordinates(position, np.zeros_like(position), np.full_like(position, OUTPUT))
        for name in self._standing.growing:
            stream = self.architecture.stream(name)
            for number, (keys, _) in enumerate(self._plans[name].masks):
                grows = self.architecture.stream(keys).holds != "input"
                end = self._end(keys, slot) + (np.arange(1, AHEAD + 1) if grows else 0)
                found = self._seen(stream, number, slot, where, end)
                key = (name, number)
                if key not in self._ahead:
                    self._ahead[key] = np.zeros((self.slots, *found.shape), np.int32)
                self._ahead[key][slot] = found

    def _run(
        self, stream: Stream, rows: _Rows, masks: Sequence[Numbers], states: Mapping[str, _Rows]
    ) -> None:
        """One stream over new rows, with the new final states of the stream that it reads, if there are any."""
        plan = self._plans[stream.name]
        other = next((keys for keys, _ in plan.masks if keys != stream.name), None)
        read = states.get(other) if other is not None else None
        table = (structs.Mask * len(masks))(
            *(structs.Mask(m.ctypes.data, m.shape[2], m.shape[1]) for m in masks)
        )
        own_stands = self._stands[stream.name]
        read_stands = own_stands if other is None else self._stands[other]
        call = structs.Call(
            rows.x.data_ptr(),
            rows.slot.ctypes.data,
            rows.place.ctypes.data,
            rows.standing.ctypes.data,
            None if read is None else read.x.data_ptr(),
            None if read is None else read.slot.ctypes.data,
            None if read is None else read.place.ctypes.data,
            None if read is None else read.standing.ctypes.data,
            table,
            own_stands.ctypes.data,
            read_stands.ctypes.data,
            len(rows.slot),
            0 if read is None else len(read.slot),
            own_stands.shape[1],
            read_stands.shape[1],
            self.threads,
            structs.TYPES[self._store.kind],
        )
        if self._library.run_stream(ctypes.byref(plan.struct), ctypes.byref(call)):
            raise MemoryError("no memory for decoding")

    def _logits(self, h: Tensor) -> Tensor:
        h = h.contiguous()
        found = torch.empty(len(h), self.architecture.vocabulary)
        if self._library.run_head(
            ctypes.byref(self._head.struct),
            ctypes.c_void_p(h.data_ptr()),
            len(h),
            ctypes.c_void_p(found.data_ptr()),
            self.threads,
            structs.TYPES[self._store.kind],
        ):
            raise MemoryError("no memory for decoding")
        return found
