"""A `Transformer` as the kernel's structures: its description and packed weights, with memory for the cache."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from headtohead.generate.native import structs
from headtohead.generate.native.packing import Part, Quantized, Store, Type
from headtohead.model.architecture import Architecture, Layer, Read, Stream
from headtohead.model.attention import Attention
from headtohead.model.blocks import MLP, Block, Norm
from headtohead.model.parts import GATED, Alibi, Norms, RelativeBias, Rope
from headtohead.model.positions import rotation
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import Visibility

LANES = 16
WIDEST_HEAD = 1024


def unsupported(a: Architecture) -> str | None:
    """Why the kernel can't run a network, or None."""
    for stream in a.streams:
        for layer in stream.layers:
            if any(read.mixer == "linear" for read in layer.reads):
                return "it has linear attention"
            if any(len(group) > 2 for group in layer.sublayers):
                return "a softmax merges more than two reads"
        if a.width(stream).d_head > WIDEST_HEAD:
            return f"its heads are wider than {WIDEST_HEAD}"
    return None


class StreamPlan:
    """One stream for the kernel. `masks`: the reads' key streams and rules, by the number that the kernel has for
    them. `kept`: keys and values of each read.
    """

    def __init__(
        self,
        model: Transformer,
        stream: Stream,
        store: Store,
        quantized: Quantized,
        slots: int,
        room: Mapping[str, int],
    ) -> None:
        self.model, self.stream, self.store, self.quantized = model, stream, store, quantized
        self.slots, self.room = slots, room
        self.masks: list[tuple[str, Visibility]] = []
        self.kept: list[tuple[str, Tensor, Tensor]] = []
        a = self.a = model.architecture
        self.far = sum(room.values())
        self._turns: dict[float, tuple[int, int]] = {}
        self._biases: dict[str, int | None] = {}
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        blocks = model.stacks[stream.name]
        assert isinstance(blocks, nn.ModuleList)
        self._layers = (structs.Layer * stream.depth)(
            *(self._layer(layer, block) for layer, block in zip(stream.expanded, blocks, strict=True))
        )
        final = model.final_norms[stream.name] if len(model.final_norms) else None
        self.struct = structs.Stream(
            ctypes.cast(self._layers, ctypes.POINTER(structs.Layer)),
            self._norm(final),
            stream.depth,
            a.width(stream).d_model,
            structs.PLACES[a.norms.place],
            self.far,
        )

    def _norm(self, norm: nn.Module | None) -> structs.Norm:
        if norm is None:
            return structs.Norm()
        assert isinstance(norm, Norm)
        point = self.store.point
        return structs.Norm(point(norm.weight), point(norm.bias), 1, norm.centred, norm.epsilon, 0)

    def _part(self, linear: nn.Linear) -> Part:
        return part_of(self._names[id(linear.weight)], linear.weight, linear.bias, self.quantized)

    def _layer(self, layer: Layer, block: nn.Module) -> structs.Layer:
        assert isinstance(block, Block)
        a = self.a
        made: list[structs.Sublayer] = []
        for s, (group, attention) in enumerate(zip(layer.sublayers, block.attentions, strict=True)):
            assert isinstance(attention, Attention)
            after = block.attention_norms[s] if a.norms.place == "after" else None
            if a.norms.place == "both":
                after = block.attention_after_norms[s]
            made.append(self._sublayer(layer, group, attention, block.attention_norms[s], after))
        sublayers = (structs.Sublayer * len(made))(*made)
        self.store.keep(sublayers)
        mlp = block.feed_forward
        assert isinstance(mlp, MLP)
        if mlp.gated:
            both = self._part(mlp.gate_up)
            half = both.values.shape[0] // 2
            parts = [both.rows(slice(0, half)), both.rows(slice(half, None))]
        else:
            parts = [self._part(mlp.up)]
        after = block.feed_forward_norm if a.norms.place == "after" else None
        if a.norms.place == "both":
            after = block.feed_forward_after_norm
        return structs.Layer(
            ctypes.cast(sublayers, ctypes.POINTER(structs.Sublayer)),
            self._norm(block.feed_forward_norm),
            self._norm(after),
            self.store.matrix(("up", id(mlp)), parts, interleaved=mlp.gated),
            self.store.matrix(("down", id(mlp)), [self._part(mlp.down)]),
            len(made),
            layer.d_ff,
            a.feed_forward in GATED,
            structs.ACTIVATIONS[a.feed_forward],
        )

    def _sublayer(
        self,
        layer: Layer,
        group: tuple[Read, ...],
        attention: Attention,
        before: nn.Module,
        after: nn.Module | None,
    ) -> structs.Sublayer:
        a, store, name = self.a, self.store, self.stream.name
        own = [read.keys == name for read in group]
        query, key_value = self._part(attention.query), self._part(attention.key_value)
        fused = any(own)
        key = ("query", id(attention), fused)
        positions = layer.positions or a.positions
        rope = positions if isinstance(positions, Rope) else None
        if rope is not None and not all(own) and rope.across == "off":
            rope = None
        cosines, sines = (None, None) if rope is None else self._turn(rope, attention.d_head)
        norms: Norms = a.norms
        return structs.Sublayer(
            self._norm(before),
            self._norm(after),
            store.matrix(key, [query, key_value] if fused else [query]),
            structs.Matrix() if all(own) else store.matrix(("key_value", id(attention)), [key_value]),
            store.matrix(("out", id(attention)), [self._part(attention.out)]),
            store.point(attention.query_norm),
            store.point(attention.key_norm),
            cosines,
            sines,
            attention.heads,
            attention.key_heads,
            attention.d_head,
            fused,
            len(group),
            norms.query_key,
            norms.value,
            norms.output,
            norms.epsilon,
            attention.scoring.scale,
            attention.scoring.soft_cap or 0.0,
            0,
            (structs.Read * 2)(*(self._read(read, attention) for read in group)),
        )

    def _read(self, read: Read, attention: Attention) -> structs.Read:
        rule = (read.keys, read.visibility)
        if rule not in self.masks:
            self.masks.append(rule)
        room, d = self.room[read.keys], attention.d_head
        wide = -(-d // LANES) * LANES
        kind = torch.float32 if self.store.kind == "fp32" else torch.bfloat16
        keys = torch.zeros(self.slots, attention.key_heads, room // LANES, d, LANES, dtype=kind)
        values = torch.zeros(self.slots, attention.key_heads, room, wide, dtype=kind)
        self.kept.append((read.keys, keys, values))
        return structs.Read(
            keys.data_ptr(),
            values.data_ptr(),
            read.keys == self.stream.name,
            self.masks.index(rule),
            room,
            0,
            self._bias(read.keys),
        )

    def _turn(self, rope: Rope, d_head: int) -> tuple[int, int]:
        """Cosines and sines (far + 1, d_head / 2) of all positions."""
        if rope.base not in self._turns:
            angles = rotation(torch.arange(self.far + 1)[None], d_head, rope.base)[:, 0, 0]
            cosines, sines = angles.unbind()
            self._turns[rope.base] = (
                self.store.hold(cosines.contiguous()),
                self.store.hold(sines.contiguous()),
            )
        return self._turns[rope.base]

    def _bias(self, keys: str) -> int | None:
        """What positions add to the scores, by distance (heads, 2 · far + 1)."""
        if not isinstance(self.a.positions, RelativeBias | Alibi):
            return None
        if keys not in self._biases:
            distances = torch.arange(-self.far, self.far + 1)[None]
            found = self.model.position_bias(
                self.stream, keys, torch.zeros(1, 1, dtype=torch.long), distances
            )
            self._biases[keys] = None if found is None else self.store.point(found[0, :, 0])
        return self._biases[keys]


def part_of(name: str, weight: Tensor, bias: Tensor | None, quantized: Quantized) -> Part:
    """A parameter as a part of a product, in int8 where it is quantized."""
    if name in quantized:
        values, scale = quantized[name]
        return Part(values, scale, None if bias is None else bias.detach().float())
    return Part(weight.detach().float(), None, None if bias is None else bias.detach().float())


class HeadPlan:
    """From final states to logits."""

    def __init__(self, model: Transformer, store: Store, quantized: Quantized) -> None:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        head = model.head
        matrix = part_of(names[id(head.matrix)], head.matrix, head.bias, quantized)
        if head.bias is not None and head.scale != 1.0:
            # The kernel scales after the bias, the head before it.
            matrix = Part(matrix.values, matrix.scale, head.bias.detach().float() / head.scale)
        transform, norm = structs.Matrix(), structs.Norm()
        if model.head_transform is not None:
            dense, made = model.head_transform.dense, model.head_transform.norm
            part = part_of(names[id(dense.weight)], dense.weight, dense.bias, quantized)
            transform = store.matrix(("transform",), [part])
            norm = structs.Norm(
                store.point(made.weight), store.point(made.bias), 1, made.centred, made.epsilon, 0
            )
        self.struct = structs.Head(
            transform,
            store.matrix(("head", id(head.matrix)), [matrix]),
            norm,
            head.scale,
            head.soft_cap or 0.0,
            model.head_transform is not None,
            0,
        )


def kind_of(precision: str, quantized: Quantized) -> Type:
    """The type of the packed weights."""
    return "int8" if quantized else "bf16" if precision == "bf16" else "fp32"
