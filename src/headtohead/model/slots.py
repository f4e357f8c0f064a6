"""A cache of slots: rows that come and go, each with a length of its own, in memory that is there from the start.

A row is read into its slot alone (`SlotCache.row`, an ordinary `Cache` over the slot's memory); a step then writes one
token into every slot at once. A slot that holds nothing is padding, which neither sees nor is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headtohead.model.architecture import Architecture
from headtohead.model.attention import LayerCache
from headtohead.model.batch import wide
from headtohead.model.linear import LinearState
from headtohead.model.transformer import Cache
from headtohead.model.visibility import PADDING, Coordinates

AT_ONCE = 64
"""Places by which what a step looks at grows, so that shapes are few."""


@dataclass
class Filled:
    """How full the slots of one stream are: `lengths` (S,), and during a step where its tokens go (S, 1) and how
    many places are looked at.
    """

    lengths: Tensor
    places: Tensor
    used: int = 0


@dataclass
class SlotLayerCache(LayerCache):
    """Keys and values (S, H, capacity + 1, d_head) of one read; what a slot without a token writes goes to the last
    place, which is never seen.
    """

    filling: Filled = field(kw_only=True)

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write one new key and value in each slot; returns all that is looked at."""
        rows = torch.arange(k.shape[0], device=k.device)[:, None]
        self.keys[rows, :, self.filling.places] = k.transpose(1, 2)
        self.values[rows, :, self.filling.places] = v.transpose(1, 2)
        return self.filled

    @property
    def filled(self) -> tuple[Tensor, Tensor]:
        return self.keys[:, :, : self.filling.used], self.values[:, :, : self.filling.used]


class SlotCache(Cache):
    """`slots` rows with room for `capacity` tokens in each stream, on a device, in a type."""

    def __init__(
        self,
        architecture: Architecture,
        slots: int,
        capacity: Mapping[str, int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(dict(capacity))
        a = self.architecture = architecture
        self.slots = slots
        self.filling: dict[str, Filled] = {}
        self._all: dict[str, tuple[Coordinates, Tensor]] = {}
        for stream in a.streams:
            room = (slots, capacity[stream.name] + 1)
            lengths = torch.zeros(slots, dtype=torch.long, device=device)
            self.filling[stream.name] = Filled(lengths, lengths[:, None].clone())
            zeros = torch.zeros(room, dtype=torch.long, device=device)
            where = Coordinates(zeros, torch.full_like(zeros, PADDING), zeros.clone())
            self._all[stream.name] = (where, zeros.clone())
        for stream in a.streams:
            width = a.width(stream)
            for index, layer in enumerate(stream.expanded):
                for s, group in enumerate(layer.sublayers):
                    for r, read in enumerate(group):
                        if read.mixer == "linear":
                            totals = torch.zeros(
                                slots,
                                width.heads,
                                width.d_head,
                                dtype=wide(torch.empty(0, dtype=dtype)).dtype,
                                device=device,
                            )
                            made = LinearState(totals.new_zeros(*totals.shape, width.d_head), totals)
                        else:
                            shape = (
                                slots,
                                width.key_heads or width.heads,
                                capacity[read.keys] + 1,
                                width.d_head,
                            )
                            k, v = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
                            made = SlotLayerCache(k, v, filling=self.filling[read.keys])
                        self.reads[stream.name, index, s, r] = made

    def append(self, stream: str, new: Coordinates, standing: Tensor) -> None:
        """Record where one new token (S, 1) of each slot stands; a slot whose document is `PADDING` gets none."""
        filling, (where, stood) = self.filling[stream], self._all[stream]
        real = new.document != PADDING
        last = where.position.shape[1] - 1
        filling.places = torch.where(real, filling.lengths[:, None], last)
        for whole, part in zip((*where, stood), (*new, standing), strict=True):
            whole.scatter_(1, filling.places, part)
        where.document[:, last] = PADDING
        filling.lengths += real[:, 0]
        self._look(stream)

    def _look(self, stream: str) -> None:
        """Look at as many places as the fullest slot has tokens, rounded up."""
        filling, (where, stood) = self.filling[stream], self._all[stream]
        longest = int(filling.lengths.max())
        filling.used = min(-(-max(longest, 1) // AT_ONCE) * AT_ONCE, where.position.shape[1])
        self.coordinates[stream] = Coordinates(*(axis[:, : filling.used] for axis in where))
        self.standing[stream] = stood[:, : filling.used]

    def row(self, slot: int, kept: Mapping[str, int]) -> Cache:
        """An ordinary cache of one row over a slot's memory that holds its first `kept` tokens of each stream, to
        be read into; `store` it afterwards.
        """
        one = Cache(dict(self.capacity))
        for stream, (where, stood) in self._all.items():
            if kept.get(stream, 0):
                some = (slice(slot, slot + 1), slice(0, kept[stream]))
                one.coordinates[stream] = Coordinates(*(axis[some] for axis in where))
                one.standing[stream] = stood[some]
        for key, whole in self.reads.items():
            stream, layer, sublayer, read = key
            keys = self.architecture.stream(stream).expanded[layer].sublayers[sublayer][read].keys
            if isinstance(whole, LinearState):
                if kept.get(keys, 0):
                    one.reads[key] = LinearState(
                        whole.sums[slot : slot + 1].clone(), whole.totals[slot : slot + 1].clone(), kept[keys]
                    )
            else:
                some = (slice(slot, slot + 1), slice(None), slice(0, self.capacity[keys]))
                one.reads[key] = LayerCache(whole.keys[some], whole.values[some], kept.get(keys, 0))
        return one

    def store(self, slot: int, one: Cache) -> None:
        """Take what was read into a slot by `row`."""
        for stream, (where, stood) in self._all.items():
            where.document[slot] = PADDING
            found = one.coordinates.get(stream)
            length = 0 if found is None else found.position.shape[1]
            self.filling[stream].lengths[slot] = length
            if found is not None:
                for whole, part in zip((*where, stood), (*found, one.standing[stream]), strict=True):
                    whole[slot, :length] = part[0]
            self._look(stream)
        for key, whole in self.reads.items():
            state = one.reads.get(key)
            if isinstance(whole, LinearState) and isinstance(state, LinearState):
                whole.sums[slot], whole.totals[slot] = state.sums[0], state.totals[0]
                whole.length = max(whole.length, state.length)

    def copy(self, source: int, target: int) -> None:
        """Make a slot what another is."""
        for stream, (where, stood) in self._all.items():
            lengths = self.filling[stream].lengths
            lengths[target] = lengths[source]
            for whole in (*where, stood):
                whole[target] = whole[source]
        for kept in self.reads.values():
            for whole in kept_tensors(kept):
                whole[target] = whole[source]

    def release(self, slot: int) -> None:
        """Empty a slot."""
        for stream, (where, _) in self._all.items():
            where.document[slot] = PADDING
            self.filling[stream].lengths[slot] = 0
        for kept in self.reads.values():
            if isinstance(kept, LinearState):
                kept.sums[slot], kept.totals[slot] = 0, 0


def kept_tensors(kept: LayerCache | LinearState) -> tuple[Tensor, Tensor]:
    """The two tensors of a read, whose first axis is the slots."""
    return (kept.keys, kept.values) if isinstance(kept, LayerCache) else (kept.sums, kept.totals)
