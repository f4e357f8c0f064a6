"""The key-value cache of `Transformer` as transformers' `generate` wants it: without a length known beforehand, and
with rows that are repeated and reordered.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from headtohead.model.attention import LayerCache
from headtohead.model.linear import LinearState
from headtohead.model.transformer import Cache, Transformer
from headtohead.model.visibility import PADDING, Coordinates

ROOM = 64
"""Tokens that there is room for beyond those that are there, when there is too little."""


class GrowingCache:
    """A `Cache` that makes room for itself."""

    is_compileable = False
    is_croppable = False

    def __init__(self, network: Transformer) -> None:
        self.cache: Cache = network.start_cache({})
        self._architecture = network.architecture
        self._output = network.architecture.output_stream.name

    def __len__(self) -> int:
        return self.get_seq_length()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Places of the output stream that are kept, padding among them."""
        return self._length(self._output)

    def _length(self, stream: str) -> int:
        there = self.cache.coordinates.get(stream)
        return 0 if there is None else there.position.shape[1]

    def real(self, stream: str) -> Tensor | None:
        """Whether a place holds a token (B, T), of those of a stream; None where there are none."""
        there = self.cache.coordinates.get(stream)
        return None if there is None else there.document != PADDING

    def part(self, stream: str) -> Tensor:
        """Which part the tokens of a stream are of (B, T)."""
        return self.cache.coordinates[stream].part

    def make_room(self, new: dict[str, int]) -> None:
        """Room for so many more tokens of each stream."""
        room = {**self.cache.capacity}
        for name, count in new.items():
            needed = self._length(name) + count
            if needed > room.get(name, 0):
                room[name] = needed + max(ROOM, needed // 2)
        self.cache.capacity = room
        for (stream, layer, sublayer, read), kept in self.cache.reads.items():
            keys = self._architecture.stream(stream).expanded[layer].sublayers[sublayer][read].keys
            if isinstance(kept, LayerCache) and kept.keys.shape[2] < room[keys]:
                self.cache.reads[stream, layer, sublayer, read] = _grown(kept, room[keys])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i becomes what row beam_idx[i] is."""
        cache = self.cache
        cache.coordinates = {
            name: Coordinates(*(axis.index_select(0, beam_idx) for axis in where))
            for name, where in cache.coordinates.items()
        }
        cache.standing = {name: where.index_select(0, beam_idx) for name, where in cache.standing.items()}
        for key, kept in cache.reads.items():
            if isinstance(kept, LinearState):
                cache.reads[key] = replace(
                    kept,
                    sums=kept.sums.index_select(0, beam_idx),
                    totals=kept.totals.index_select(0, beam_idx),
                )
            else:
                cache.reads[key] = replace(
                    kept,
                    keys=kept.keys.index_select(0, beam_idx),
                    values=kept.values.index_select(0, beam_idx),
                )

    batch_select_indices = reorder_cache

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row, so many times."""
        rows = len(next(iter(self.cache.standing.values())))
        where = torch.arange(rows, device=next(iter(self.cache.standing.values())).device)
        self.reorder_cache(where.repeat_interleave(repeats))


def _grown(kept: LayerCache, capacity: int) -> LayerCache:
    def longer(x: Tensor) -> Tensor:
        made = x.new_zeros(*x.shape[:2], capacity, x.shape[3])
        made[:, :, : kept.length] = x[:, :, : kept.length]
        return made

    return LayerCache(longer(kept.keys), longer(kept.values), kept.length)
