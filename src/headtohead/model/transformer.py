"""The one Transformer: any `Architecture`, as a module.

`hidden` runs the streams in order under their visibilities, with or without a cache; `loss`, `score` and
`logits` are what is asked of it. There is no other network class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headtohead.model.architecture import Architecture, Layer, Read, Stream
from headtohead.model.attention import KeySource, LayerCache, Mask, Recorder
from headtohead.model.batch import Batch, Tokens, wide
from headtohead.model.blocks import Block, HeadTransform, Norm, initialise
from headtohead.model.flex import blocks_of
from headtohead.model.linear import LinearState, extent
from headtohead.model.loss import Chunk, Head, LossSums, chunk_sums, compiled_chunk, cross_entropy_sums
from headtohead.model.parts import Alibi, Learned, RelativeBias, Rope, Sinusoidal, TwoDimensional
from headtohead.model.positions import (
    alibi_bias,
    relative_bias,
    rotation,
    sees_ahead,
    sinusoids,
    standing,
)
from headtohead.model.visibility import Coordinates, Visibility, conjuncts, linear_form, same_document


@dataclass
class Cache:
    """What decoding keeps: the coordinates of every token so far by stream (and where the encoding says that
    they stand), and keys and values by read.

    Masks come from the coordinates, so rows may be ragged and padded: a later token is appended at the end,
    and its position, not its place, says where it stands.
    """

    capacity: Mapping[str, int]
    coordinates: dict[str, Coordinates] = field(default_factory=dict)
    standing: dict[str, Tensor] = field(default_factory=dict)
    reads: dict[tuple[str, int, int, int], LayerCache | LinearState] = field(default_factory=dict)

    def append(self, stream: str, new: Coordinates, standing: Tensor) -> None:
        """Record where new tokens of a stream stand."""
        old = self.coordinates.get(stream)
        if old is not None:
            new = Coordinates(*(torch.cat(pair, dim=1) for pair in zip(old, new, strict=True)))
            standing = torch.cat((self.standing[stream], standing), dim=1)
        self.coordinates[stream], self.standing[stream] = new, standing


class Transformer(nn.Module):
    """The network that `architecture` describes, with weights drawn from `seed`."""

    def __init__(self, architecture: Architecture, seed: int = 0) -> None:
        super().__init__()
        a = architecture
        self.architecture = a
        width = {stream.name: a.width(stream).d_model for stream in a.streams}

        def tables(rows: int) -> nn.ParameterDict:
            return nn.ParameterDict({name: nn.Parameter(torch.empty(rows, d)) for name, d in width.items()})

        last = width[a.output_stream.name]
        if a.embeddings.shared:
            self.embedding = nn.Parameter(torch.empty(a.vocabulary, last))
        else:
            self.embeddings = tables(a.vocabulary)
        if isinstance(a.positions, Learned):
            self.positions = tables(a.positions.length)
        if isinstance(a.positions, TwoDimensional):
            self.anchors, self.steps = tables(a.positions.length), tables(a.positions.length)
        if isinstance(a.positions, RelativeBias):
            buckets = a.positions.buckets
            self.relative = nn.ParameterDict(
                {s.name: nn.Parameter(torch.empty(buckets, a.width(s).heads)) for s in a.streams}
            )
            self._ahead = {stream.name: sees_ahead(a, stream) for stream in a.streams}
        if a.embeddings.segments:
            self.segments = tables(2)
        if a.embeddings.norm:
            self.embedding_norms = nn.ModuleDict({n: Norm(d, a.norms) for n, d in width.items()})
        self.stacks = nn.ModuleDict()
        for stream in a.streams:
            lender = [None] * stream.depth if stream.shares is None else self.stacks[stream.shares]
            self.stacks[stream.name] = nn.ModuleList(
                Block(a, stream, layer, shared)
                for layer, shared in zip(stream.expanded, lender, strict=True)  # type: ignore[arg-type]
            )
        final = a.norms.place != "after"
        self.final_norms = nn.ModuleDict({n: Norm(d, a.norms) for n, d in width.items()} if final else {})
        if not a.embeddings.tied:
            self.matrix = nn.Parameter(torch.empty(a.vocabulary, last))
        self.head_transform = HeadTransform(a, last) if a.head.transform else None
        self.head_bias = nn.Parameter(torch.empty(a.vocabulary)) if a.head.bias else None
        self._run_block: Callable[..., tuple[Tensor, list[Tensor | None]]] = _run_block
        self._run_chunk: Chunk = chunk_sums
        self._in_blocks = False
        if self.device.type != "meta":  # weights without data get theirs once they have a place
            initialise(self, a, seed)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def compile_blocks(self, hooks: bool = False) -> None:
        """Compile one block's forward and backward, and what follows the head's product; equal blocks share the
        graph. With `hooks`, what is hooked to a block (gathering its weights) stays around it, uncompiled.

        On a GPU compiled training attends by FlexAttention, which is itself made of the graph around it.
        """
        self._in_blocks = self.device.type == "cuda"
        self._run_chunk = compiled_chunk()
        if not hooks:
            self._run_block = torch.compile(_run_block, dynamic=False)
            return
        compiled = torch.compile(Block.forward, dynamic=False)
        for block in self.modules():
            if isinstance(block, Block):
                block.forward = partial(compiled, block)

    def recompute_blocks(self) -> None:
        """Keep of a block its input alone for the backward pass, and run it again there. After `compile_blocks`."""
        self._run_block = partial(checkpoint, self._run_block, use_reentrant=False)

    def table(self, stream: Stream) -> Tensor:
        """The token embeddings (V, d) of a stream."""
        return self.embedding if self.architecture.embeddings.shared else self.embeddings[stream.name]

    @property
    def head(self) -> Head:
        """What makes logits of the (transformed) final states."""
        a = self.architecture
        last = a.output_stream
        matrix = self.table(last) if a.embeddings.tied else self.matrix
        scale = a.width(last).d_model ** -0.5 if a.head.scaled else 1.0
        return Head(matrix, self.head_bias, scale, a.head.soft_cap)

    def hidden(
        self,
        streams: Mapping[str, Tokens],
        cache: Cache | None = None,
        recorder: Recorder | None = None,
        reference: bool = False,
        known: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Final states (B, T, d) of the last stream that is given.

        With a cache, `streams` holds only what is new; a stream without new tokens may be left out.
        `recorder` collects attention weights, which takes the reference attention, as does `reference`.
        `known`: final states, by stream, of streams that are not run again.
        """
        plain = reference or recorder is not None
        finals: dict[str, Tensor] = {}
        where = {
            name: standing(self.architecture, self.architecture.stream(name), tokens)
            for name, tokens in streams.items()
        }
        turns = _Turns(where)
        for stream in self.architecture.streams:
            if stream.name not in streams:
                continue
            if cache is not None:
                cache.append(stream.name, streams[stream.name].coordinates, where[stream.name])
            if known is not None and stream.name in known:
                finals[stream.name] = known[stream.name]
                continue
            x = self.embedded(stream, streams[stream.name], where[stream.name])
            # Scoring is eager: without gradients it'd be a second graph to compile for little.
            learning = torch.is_grad_enabled() and cache is None and not plain
            masks = self._masks(stream, streams, where, cache, plain, learning and self._in_blocks)
            for index, (layer, block) in enumerate(zip(stream.expanded, self._blocks(stream), strict=True)):
                turned, sources, own = self._sources(stream, index, layer, finals, turns, cache, x)
                run = self._run_block if learning else _run_block
                x, weights = run(block, x, turned, sources, own, masks[layer.reads], plain)
                if recorder is not None:
                    for sublayer, seen in enumerate(weights):
                        assert seen is not None
                        recorder.weights[stream.name, index, sublayer] = seen
            finals[stream.name] = self.final_norms[stream.name](x) if self.final_norms else x
        return next(reversed(finals.values()))

    def logits(self, batch: Batch) -> Tensor:
        """Logits (B, T, V) in fp32 at every place of the last stream. For looking, not for training."""
        return self.next_logits(self.hidden(batch.streams))

    def next_logits(self, h: Tensor) -> Tensor:
        """Logits (…, V) in fp32 (fp64 of a network in fp64) of final states (…, d)."""
        return wide(self.head.logits(self._transformed(h)))

    def loss(self, batch: Batch, z_loss: float = 0.0) -> LossSums:
        """Sums over the places that carry loss; see `LossSums`."""
        h = self.hidden(batch.streams)
        carries = batch.weights.flatten().nonzero().squeeze(1)
        chosen = self._transformed(h.flatten(0, 1).index_select(0, carries))
        if torch.is_autocast_enabled(h.device.type):
            chosen = chosen.to(torch.get_autocast_dtype(h.device.type))
        targets = batch.targets.flatten()[carries]
        return cross_entropy_sums(chosen, self.head, targets, z_loss, self._run_chunk)

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

    def _transformed(self, h: Tensor) -> Tensor:
        return h if self.head_transform is None else self.head_transform(h)

    def embedded(self, stream: Stream, tokens: Tokens, where: Tensor) -> Tensor:
        """What goes into a stream's first layer: tokens, positions and segments added up, then the norm."""
        a, name = self.architecture, stream.name
        table = self.table(stream)
        x = F.embedding(tokens.ids, table)
        if a.embeddings.scaled:
            x = x * table.shape[1] ** 0.5
        if isinstance(a.positions, Learned):
            x = x + F.embedding(where, self.positions[name])
        if isinstance(a.positions, Sinusoidal):
            x = x + sinusoids(where, table.shape[1], a.positions.base)
        if isinstance(a.positions, TwoDimensional):
            # An output stands where the input's last token does, and counts its own steps.
            anchor = (where - tokens.step).clamp(min=0) if tokens.anchor is None else tokens.anchor
            x = x + F.embedding(anchor, self.anchors[name]) + F.embedding(tokens.step, self.steps[name])
        if a.embeddings.segments:
            x = x + F.embedding(tokens.part, self.segments[name])
        return self.embedding_norms[name](x) if a.embeddings.norm else x

    def _masks(
        self,
        stream: Stream,
        streams: Mapping[str, Tokens],
        where: Mapping[str, Tensor],
        cache: Cache | None,
        plain: bool,
        in_blocks: bool,
    ) -> dict[tuple[Read, ...], list[Mask]]:
        """For each distinct list of reads in the stream, its sublayers' masks: made once a batch."""
        queries = streams[stream.name].coordinates
        heads = self.architecture.width(stream).heads
        made: dict[tuple[str, Visibility], Tensor] = {}
        biases: dict[str, Tensor | None] = {}
        joined: dict[tuple[Read, ...], Mask] = {}

        def mask(keys: str, visibility: Visibility) -> Tensor:
            if (keys, visibility) not in made:
                there = streams[keys].coordinates if cache is None else cache.coordinates[keys]
                made[keys, visibility] = visibility.dense(queries, there, heads)
            return made[keys, visibility]

        def bias(keys: str) -> Tensor | None:
            if keys not in biases:
                there = where[keys] if cache is None else cache.standing[keys]
                biases[keys] = self.position_bias(stream, keys, where[stream.name], there)
            return biases[keys]

        for group in (group for layer in stream.layers for group in layer.sublayers):
            if group in joined:
                continue
            if group[0].mixer == "linear":
                joined[group] = _linear_mask(group[0], queries, mask if plain and cache is None else None)
                continue
            added = _joined_bias(group, bias)
            if in_blocks and added is None:
                reads = [(read.visibility, streams[read.keys].coordinates) for read in group]
                none = queries.document.new_empty(0)
                joined[group] = Mask(none, none, none, blocks=blocks_of(reads, queries, heads))
            else:
                visible = _side_by_side([mask(r.keys, r.visibility) for r in group])
                joined[group] = Mask.of(visible, added)
        return {layer.reads: [joined[group] for group in layer.sublayers] for layer in stream.layers}

    def position_bias(self, stream: Stream, keys: str, q: Tensor, k: Tensor) -> Tensor | None:
        """What positions add to the scores (B, H, Tq, Tk) of a stream's queries for keys of a stream."""
        kind = self.architecture.positions
        if not isinstance(kind, RelativeBias | Alibi) or (keys != stream.name and kind.across == "off"):
            return None
        if isinstance(kind, Alibi):
            return alibi_bias(self.architecture.width(stream).heads, q, k)
        both = kind.directions == "both" or self._ahead[stream.name]
        return relative_bias(self.relative[stream.name], kind, both, q, k)

    def _sources(
        self,
        stream: Stream,
        index: int,
        layer: Layer,
        finals: Mapping[str, Tensor],
        turns: _Turns,
        cache: Cache | None,
        x: Tensor,
    ) -> tuple[list[Tensor | None], list[list[KeySource]], list[list[bool]]]:
        """How the queries of each sublayer are turned, and what each of its reads reads. Its own stream's
        states are normed in the block.
        """
        positions = layer.positions or self.architecture.positions
        d_head = self.architecture.width(stream).d_head
        turned: list[Tensor | None] = []
        sources: list[list[KeySource]] = []
        own: list[list[bool]] = []
        for s, group in enumerate(layer.sublayers):
            across = any(read.keys != stream.name for read in group)
            rope = positions if isinstance(positions, Rope) else None
            if rope is not None and across and rope.across == "off":
                rope = None
            turned.append(turns.of(stream.name, d_head, rope))
            sources.append([])
            own.append([])
            for r, read in enumerate(group):
                kept = None
                if cache is not None:
                    key = (stream.name, index, s, r)
                    if key not in cache.reads:
                        cache.reads[key] = self._empty_cache(stream, read, cache.capacity[read.keys], x)
                    kept = cache.reads[key]
                own[s].append(read.keys == stream.name)
                key_turn = turns.of(read.keys, d_head, rope)
                sources[s].append(KeySource(finals.get(read.keys), key_turn, kept))
        return turned, sources, own

    def _empty_cache(self, stream: Stream, read: Read, capacity: int, x: Tensor) -> LayerCache | LinearState:
        width = self.architecture.width(stream)
        if read.mixer == "linear":
            shape = (x.shape[0], width.heads, width.d_head)
            totals = torch.zeros(shape, dtype=wide(x[:0]).dtype, device=x.device)
            return LinearState(totals.new_zeros(*shape, width.d_head), totals)
        dtype = (
            torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        )
        shape = (x.shape[0], width.key_heads or width.heads, capacity, width.d_head)
        return LayerCache(
            torch.zeros(shape, dtype=dtype, device=x.device), torch.zeros(shape, dtype=dtype, device=x.device)
        )


class _Turns:
    """Rotations of the streams' positions, each made once a batch."""

    def __init__(self, where: Mapping[str, Tensor]) -> None:
        self._where = where
        self._made: dict[tuple[str, int, float], Tensor] = {}

    def of(self, stream: str, d_head: int, rope: Rope | None) -> Tensor | None:
        """None without RoPE, or for a stream without new tokens."""
        if rope is None or stream not in self._where:
            return None
        key = (stream, d_head, rope.base)
        if key not in self._made:
            self._made[key] = rotation(self._where[stream], d_head, rope.base)
        return self._made[key]


def _run_block(
    block: nn.Module,
    x: Tensor,
    turned: list[Tensor | None],
    sources: list[list[KeySource]],
    own: list[list[bool]],
    masks: list[Mask],
    reference: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    return block(x, turned, sources, own, masks, reference)


def _linear_mask(read: Read, queries: Coordinates, mask: Callable[[str, Visibility], Tensor] | None) -> Mask:
    """The mask of a linear sublayer: its extent, and pairs only where the reference wants them."""
    form = linear_form(read.visibility)
    assert form is not None
    apart = same_document in conjuncts(read.visibility)
    found = extent(form, apart, queries.document, queries.part)
    none = queries.document.new_empty(0)
    return Mask(none if mask is None else mask(read.keys, read.visibility), none, none, extent=found)


def _joined_bias(group: tuple[Read, ...], bias: Callable[[str], Tensor | None]) -> Tensor | None:
    """The biases of a sublayer's reads side by side; all reads have one or none has."""
    found = [bias(read.keys) for read in group]
    there = [one for one in found if one is not None]
    if not there:
        return None
    assert len(there) == len(found)
    return there[0] if len(there) == 1 else torch.cat(there, dim=-1)


def _side_by_side(masks: list[Tensor]) -> Tensor:
    if len(masks) == 1:
        return masks[0]
    heads = max(mask.shape[1] for mask in masks)
    return torch.cat([mask.expand(-1, heads, -1, -1) for mask in masks], dim=-1)
