"""The one Transformer: any `Architecture`, as a module.

`hidden` runs the streams in order under their visibilities, with or without a cache; `loss`, `score` and
`logits` are what is asked of it. There is no other network class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headtohead.model.architecture import Architecture, Layer, Read, Stream
from headtohead.model.attention import KeySource, LayerCache, Mask, Recorder
from headtohead.model.batch import Batch, Tokens
from headtohead.model.blocks import Block, RMSNorm, initialise
from headtohead.model.loss import LossSums, cross_entropy_sums
from headtohead.model.parts import Rope
from headtohead.model.positions import rotation
from headtohead.model.visibility import Coordinates, Visibility


@dataclass
class Cache:
    """What decoding keeps: the coordinates of every token so far by stream, and keys and values by read.

    Masks come from the coordinates, so rows may be ragged and padded: a later token is appended at the end,
    and its position, not its place, says where it stands.
    """

    capacity: Mapping[str, int]
    coordinates: dict[str, Coordinates] = field(default_factory=dict)
    reads: dict[tuple[str, int, int, int], LayerCache] = field(default_factory=dict)

    def append(self, stream: str, new: Coordinates) -> None:
        """Record where new tokens of a stream stand."""
        old = self.coordinates.get(stream)
        if old is not None:
            new = Coordinates(*(torch.cat(pair, dim=1) for pair in zip(old, new, strict=True)))
        self.coordinates[stream] = new


class Transformer(nn.Module):
    """The network that `architecture` describes, with weights drawn from `seed`."""

    def __init__(self, architecture: Architecture, seed: int = 0) -> None:
        super().__init__()
        self.architecture = architecture
        self.embedding = nn.Parameter(torch.empty(architecture.vocabulary, architecture.d_model))
        self.stacks = nn.ModuleDict(
            {
                stream.name: nn.ModuleList(Block(architecture, layer) for layer in stream.expanded)
                for stream in architecture.streams
            }
        )
        self.final_norms = nn.ModuleDict(
            {s.name: RMSNorm(architecture.d_model) for s in architecture.streams}
        )
        self._run_block: Callable[..., tuple[Tensor, list[Tensor | None]]] = _run_block
        initialise(self, architecture, seed)

    def compile_blocks(self) -> None:
        """Compile one block's forward and backward; equal blocks share the graph."""
        self._run_block = torch.compile(_run_block, dynamic=False)

    def hidden(
        self,
        streams: Mapping[str, Tokens],
        cache: Cache | None = None,
        recorder: Recorder | None = None,
        reference: bool = False,
    ) -> Tensor:
        """Final states (B, T, d) of the last stream.

        With a cache, `streams` holds only what is new; a stream without new tokens may be left out.
        `recorder` collects attention weights, which takes the reference attention, as does `reference`.
        """
        finals: dict[str, Tensor] = {}
        turns = {name: self._rotation(tokens.position) for name, tokens in streams.items()}
        for stream in self.architecture.streams:
            if stream.name not in streams:
                continue
            if cache is not None:
                cache.append(stream.name, streams[stream.name].coordinates)
            x = F.embedding(streams[stream.name].ids, self.embedding)
            masks = self._masks(stream, streams, cache)
            for index, (layer, block) in enumerate(zip(stream.expanded, self._blocks(stream), strict=True)):
                sources, own = self._sources(stream, index, layer, finals, turns, cache, x)
                # Scoring is eager: without gradients it'd be a second graph to compile for little.
                learning = torch.is_grad_enabled() and cache is None and recorder is None and not reference
                run = self._run_block if learning else _run_block
                x, weights = run(
                    block,
                    x,
                    turns[stream.name],
                    sources,
                    own,
                    masks[layer.reads],
                    reference or recorder is not None,
                )
                if recorder is not None:
                    for sublayer, seen in enumerate(weights):
                        assert seen is not None
                        recorder.weights[stream.name, index, sublayer] = seen
            finals[stream.name] = self.final_norms[stream.name](x)
        return finals[self.architecture.output_stream.name]

    def logits(self, batch: Batch) -> Tensor:
        """Logits (B, T, V) in fp32 at every place of the last stream. For looking, not for training."""
        return self.next_logits(self.hidden(batch.streams))

    def next_logits(self, h: Tensor) -> Tensor:
        """Logits (…, V) in fp32 of final states (…, d)."""
        return (h @ self.embedding.to(h.dtype).T).float()

    def loss(self, batch: Batch, z_loss: float = 0.0) -> LossSums:
        """Sums over the places that carry loss; see `LossSums`."""
        h = self.hidden(batch.streams)
        carries = batch.weights.flatten().nonzero().squeeze(1)
        chosen = h.flatten(0, 1).index_select(0, carries)
        if torch.is_autocast_enabled(h.device.type):
            chosen = chosen.to(torch.get_autocast_dtype(h.device.type))
        return cross_entropy_sums(chosen, self.embedding, batch.targets.flatten()[carries], z_loss)

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        """-ln p(target) in nats (B, T) at every place that carries loss, 0 elsewhere; fp32."""
        h = self.hidden(batch.streams).flatten(0, 1)
        carries = batch.weights.flatten().nonzero().squeeze(1)
        nats = torch.zeros(h.shape[0], device=h.device)
        for places in carries.split(1024):
            logits = self.next_logits(h[places])
            nats[places] = F.cross_entropy(logits, batch.targets.flatten()[places], reduction="none")
        return nats.view(batch.targets.shape)

    def attention_weights(self, batch: Batch) -> dict[tuple[str, int, int], Tensor]:
        """Weights (B, H, Tq, Tk) by (stream, layer, sublayer), from the reference attention."""
        recorder = Recorder()
        self.hidden(batch.streams, recorder=recorder)
        return recorder.weights

    def start_cache(self, capacity: Mapping[str, int]) -> Cache:
        """An empty cache with room for `capacity` tokens in each stream."""
        return Cache(capacity)

    # --------------------------------------------------------------------------------------------------------

    def _blocks(self, stream: Stream) -> nn.ModuleList:
        stack = self.stacks[stream.name]
        assert isinstance(stack, nn.ModuleList)
        return stack

    def _rotation(self, position: Tensor) -> Tensor | None:
        a = self.architecture
        return rotation(position, a.d_head, a.positions.base) if isinstance(a.positions, Rope) else None

    def _masks(
        self, stream: Stream, streams: Mapping[str, Tokens], cache: Cache | None
    ) -> dict[tuple[Read, ...], list[Mask]]:
        """For each distinct list of reads in the stream, its sublayers' masks: made once a batch."""
        queries = streams[stream.name].coordinates
        made: dict[tuple[str, Visibility], Tensor] = {}
        joined: dict[tuple[Read, ...], Mask] = {}

        def mask(keys: str, visibility: Visibility) -> Tensor:
            if (keys, visibility) not in made:
                where = streams[keys].coordinates if cache is None else cache.coordinates[keys]
                made[keys, visibility] = visibility.dense(queries, where, self.architecture.heads)
            return made[keys, visibility]

        for group in (group for layer in stream.layers for group in layer.sublayers):
            if group not in joined:
                joined[group] = Mask.of(_side_by_side([mask(r.keys, r.visibility) for r in group]))
        return {layer.reads: [joined[group] for group in layer.sublayers] for layer in stream.layers}

    def _sources(
        self,
        stream: Stream,
        index: int,
        layer: Layer,
        finals: Mapping[str, Tensor],
        turns: Mapping[str, Tensor | None],
        cache: Cache | None,
        x: Tensor,
    ) -> tuple[list[list[KeySource]], list[list[bool]]]:
        """What each read of a layer reads. Its own stream's states are normed in the block."""
        sources: list[list[KeySource]] = []
        own: list[list[bool]] = []
        for s, group in enumerate(layer.sublayers):
            sources.append([])
            own.append([])
            for r, read in enumerate(group):
                kept = None
                if cache is not None:
                    key = (stream.name, index, s, r)
                    if key not in cache.reads:
                        cache.reads[key] = self._empty_cache(cache.capacity[read.keys], x)
                    kept = cache.reads[key]
                own[s].append(read.keys == stream.name)
                sources[s].append(KeySource(finals.get(read.keys), turns.get(read.keys), kept))
        return sources, own

    def _empty_cache(self, capacity: int, x: Tensor) -> LayerCache:
        a = self.architecture
        dtype = (
            torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        )
        shape = (x.shape[0], a.heads, capacity, a.d_head)
        return LayerCache(
            torch.zeros(shape, dtype=dtype, device=x.device), torch.zeros(shape, dtype=dtype, device=x.device)
        )


def _run_block(
    block: nn.Module,
    x: Tensor,
    turned: Tensor | None,
    sources: list[list[KeySource]],
    own: list[list[bool]],
    masks: list[Mask],
    reference: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    return block(x, turned, sources, own, masks, reference)


def _side_by_side(masks: list[Tensor]) -> Tensor:
    if len(masks) == 1:
        return masks[0]
    heads = max(mask.shape[1] for mask in masks)
    return torch.cat([mask.expand(-1, heads, -1, -1) for mask in masks], dim=-1)
