"""What a network is, before anything is built: streams of tokens, and who reads whom.

A network is one or two **streams**. Each layer of a stream lists its **reads**: attention to a key stream
(its own, or an earlier one's final states) under a visibility, in a softmax of its own or merged with the
read before it. Causal and prefix decoders, encoder-decoders with any encoder, merged attention (T5Gemma 2)
and block double decoders are all descriptions of this one form; none of them is a class.

A description is frozen, refuses unknown keys, and is what a run writes down and is built from again.
"""

from __future__ import annotations

from itertools import cycle, islice
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    PositiveInt,
    WithJsonSchema,
    model_validator,
)

from headtohead.errors import UserError
from headtohead.model.parts import (
    Alibi,
    Biases,
    Embeddings,
    FeedForward,
    Frozen,
    Head,
    LayerPositions,
    Learned,
    Listed,
    NoPositions,
    Norms,
    Positions,
    RelativeBias,
    Rope,
    Scores,
    TwoDimensional,
    Width,
)
from headtohead.model.visibility import Visibility, linear_form


def _visibility(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return Visibility.parse(value)
    except UserError as error:
        # The error of a key shows its value already.
        raise ValueError(str(error).removeprefix(f"visibility '{value}'").lstrip(": ")) from error


VisibilityField = Annotated[
    Visibility,
    BeforeValidator(_visibility),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string"}),
]


class Read(Frozen):
    """One attention: the stream whose tokens are keys and values, and who of them is seen.

    `merged`: in one softmax with the read before it in the same layer, with that read's weights (T5Gemma 2),
    instead of a sublayer of its own. `mixer`: softmax, or linear attention with the features elu(x) + 1
    (Katharopoulos et al., arXiv 2006.16236).
    """

    keys: str
    visibility: VisibilityField
    merged: bool = False
    mixer: Literal["softmax", "linear"] = "softmax"


class Layer(Frozen):
    """Attention sublayers, one for each read that is not merged, then a feed-forward of width `d_ff`.

    `positions`: of this layer, where they differ from the network's (local and global layers of one network
    turn at different speeds).
    """

    reads: Listed[Read] = Field(min_length=1)
    d_ff: PositiveInt
    repeat: PositiveInt = 1
    positions: LayerPositions | None = None

    @property
    def sublayers(self) -> tuple[tuple[Read, ...], ...]:
        """The reads grouped by softmax."""
        groups: list[list[Read]] = []
        for read in self.reads:
            if read.merged:
                groups[-1].append(read)
            else:
                groups.append([read])
        return tuple(map(tuple, groups))


class Stream(Frozen):
    """A sequence of tokens with a stack of layers. It holds the input, the output, or both in one row.

    `cycle_to`: layers in all, the list over and over until there are so many (left out: the list once).
    `width`: where it differs from the network's. `shares`: an earlier stream whose weights this one uses too:
    layer by layer the feed-forward and, in order, the attention sublayers that both have.
    """

    name: str
    holds: Literal["input", "output", "both"]
    layers: Listed[Layer] = Field(min_length=1)
    cycle_to: PositiveInt | None = None
    width: Width | None = None
    shares: str | None = None

    @property
    def expanded(self) -> tuple[Layer, ...]:
        """One entry for each layer, repeats written out."""
        once = tuple(layer for layer in self.layers for _ in range(layer.repeat))
        return once if self.cycle_to is None else tuple(islice(cycle(once), self.cycle_to))

    @property
    def depth(self) -> int:
        return len(self.expanded)


class Architecture(Frozen):
    """A network's description: see the module's text. What it costs is in `budget.py`."""

    name: str
    d_model: PositiveInt
    heads: PositiveInt
    d_head: PositiveInt
    vocabulary: PositiveInt
    key_heads: PositiveInt | None = None
    positions: Positions = Rope()
    norms: Norms = Norms()
    feed_forward: FeedForward = "swiglu"
    scores: Scores = Scores()
    biases: Biases = Biases()
    embeddings: Embeddings = Embeddings()
    head: Head = Head()
    streams: Listed[Stream] = Field(min_length=1, max_length=2)

    @model_validator(mode="before")
    @classmethod
    def _as_first_written(cls, data: Any) -> Any:
        """Results of version 0.1 say `rope_base` beside `positions`; they stay readable."""
        if isinstance(data, dict) and "rope_base" in data and isinstance(data.get("positions"), str):
            rest = {name: value for name, value in data.items() if name not in ("rope_base", "positions")}
            base = {"base": data["rope_base"]} if data["positions"] == "rope" else {}
            return {**rest, "positions": {"kind": data["positions"], **base}}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        seen: list[str] = []
        for stream in self.streams:
            if stream.name in seen:
                raise ValueError(f"two streams are called '{stream.name}': give each a name of its own")
            seen.append(stream.name)
            self._check_width(stream)
            for layer in stream.layers:
                _check_layer(layer, stream.name, seen)
                self._check_reads(layer, stream)
            if stream.shares is not None:
                self._check_shared(stream, seen[:-1])
        if self.streams[-1].holds == "input":
            raise ValueError("the last stream predicts, so it must hold the output or both")
        if len(self.streams) == 1 and self.streams[0].holds != "both":
            raise ValueError(
                f"a single stream must hold both input and output, not '{self.streams[0].holds}'"
            )
        if len(self.streams) == 2 and not any(
            read.keys == self.streams[0].name for layer in self.streams[1].layers for read in layer.reads
        ):
            raise ValueError(f"stream '{self.streams[1].name}' never reads stream '{self.streams[0].name}'")
        widths = {self.width(stream).d_model for stream in self.streams}
        if self.embeddings.shared and len(widths) > 1:
            raise ValueError(
                f"streams of widths {' and '.join(map(str, sorted(widths)))} can't share one table of embeddings: "
                "set embeddings.shared = false"
            )
        return self

    def _check_width(self, stream: Stream) -> None:
        width = self.width(stream)
        kinds = [self.positions, *(layer.positions for layer in stream.layers)]
        if any(isinstance(kind, Rope) for kind in kinds) and width.d_head % 2:
            raise ValueError(f"d_head is {width.d_head}: RoPE rotates pairs, so it must be even")
        if width.key_heads is not None and width.heads % width.key_heads:
            raise ValueError(
                f"{width.heads} heads can't be parted among {width.key_heads} key heads: the one must be a "
                "multiple of the other"
            )

    def _check_reads(self, layer: Layer, stream: Stream) -> None:
        width = self.width(stream)
        positions = layer.positions or self.positions
        if layer.positions is not None and not isinstance(self.positions, Rope | NoPositions):
            raise ValueError(
                f"stream '{stream.name}': layers may have positions of their own where the network's are 'rope' "
                f"or 'none', not '{self.positions.kind}'"
            )
        for read in layer.reads:
            if read.visibility.shares > width.heads:
                raise ValueError(
                    f"stream '{stream.name}': '{read.visibility}' parts {width.heads} heads among "
                    f"{read.visibility.shares} rules: each needs a head at least"
                )
            if read.mixer == "linear":
                if read.keys != stream.name:
                    raise ValueError(
                        f"stream '{stream.name}': linear attention reads its own stream, not '{read.keys}'"
                    )
                _check_linear(read, stream.name, positions, self.scores)
        for group in layer.sublayers:
            sources = {self.width(self.stream(read.keys)).d_model for read in group}
            if len(group) > 1 and len(sources) > 1:
                raise ValueError(
                    f"stream '{stream.name}' merges reads of streams of different widths: they share their weights"
                )
            if len({read.mixer for read in group}) > 1 or (len(group) > 1 and group[0].mixer == "linear"):
                raise ValueError(f"stream '{stream.name}': only reads by softmax can be merged")
            across = any(read.keys != stream.name for read in group)
            if len(group) > 1 and across and getattr(positions, "across", None) == "off":
                raise ValueError(
                    f"stream '{stream.name}': merged reads share their queries, so their positions can't be 'off' "
                    "across streams: 'continuous' or 'restarted'"
                )

    def _check_shared(self, stream: Stream, earlier: list[str]) -> None:
        if stream.shares not in earlier:
            raise ValueError(
                f"stream '{stream.name}' shares the weights of '{stream.shares}', which is no earlier stream"
            )
        other = self.stream(stream.shares)
        if other.depth != stream.depth or self.width(other) != self.width(stream):
            raise ValueError(
                f"stream '{stream.name}' shares the weights of '{stream.shares}': both must have equal depth and width"
            )
        if any(x.d_ff != y.d_ff for x, y in zip(stream.expanded, other.expanded, strict=True)):
            raise ValueError(
                f"stream '{stream.name}' shares the weights of '{stream.shares}': their d_ff must be equal"
            )

    @property
    def output_stream(self) -> Stream:
        """The last stream: the one that predicts."""
        return self.streams[-1]

    @property
    def two_streams(self) -> bool:
        return len(self.streams) == 2

    @property
    def depths(self) -> tuple[int, ...]:
        return tuple(stream.depth for stream in self.streams)

    @property
    def context(self) -> int | None:
        """Positions that there are vectors for, where they are learned; None where there is no end."""
        if isinstance(self.positions, Learned | TwoDimensional):
            return self.positions.length
        return None

    def stream(self, name: str) -> Stream:
        """The stream of that name."""
        return next(stream for stream in self.streams if stream.name == name)

    def width(self, stream: Stream) -> Width:
        """How wide a stream's layers are: its own width, or the network's."""
        if stream.width is not None:
            return stream.width
        return Width(d_model=self.d_model, heads=self.heads, d_head=self.d_head, key_heads=self.key_heads)

    def resized(self, **sizes: Any) -> Architecture:
        """The same network with other fields, by name; `d_ff` and `depths` too.

        `d_ff` is that of the last stream's first layer, `depths` has one for each stream. What had another
        width than the network keeps its proportion to it.

        Raises:
            ValueError: not a network, or a proportion that comes out at no whole number.
        """
        streams = list(sizes.pop("streams", self.streams))
        if "depths" in sizes:
            if len(sizes["depths"]) != len(streams):
                names = " and ".join(stream.name for stream in streams)
                raise ValueError(
                    f"depths = {list(sizes['depths'])}: it should have one for each stream, {names}"
                )
            streams = [_with_depth(s, n) for s, n in zip(streams, sizes.pop("depths"), strict=True)]
        if "d_ff" in sizes:
            d_ff, old = sizes.pop("d_ff"), streams[-1].layers[0].d_ff
            streams = [
                _with(s, layers=[_with(x, d_ff=_scaled("d_ff", x.d_ff, d_ff, old)) for x in s.layers])
                for s in streams
            ]
        streams = [
            s if s.width is None else _with(s, width=self._width_in_proportion(s.width, sizes))
            for s in streams
        ]
        return _with(self, streams=streams, **sizes)

    def _width_in_proportion(self, width: Width, sizes: dict[str, Any]) -> Width:
        names = ("d_model", "heads", "d_head")
        changed = {
            name: _scaled(
                name, getattr(width, name), sizes.get(name, getattr(self, name)), getattr(self, name)
            )
            for name in names
        }
        keys = width.key_heads
        if keys is not None and self.key_heads is not None:
            keys = _scaled(
                "key_heads", keys, sizes.get("key_heads", self.key_heads) or changed["heads"], self.key_heads
            )
        return Width(**changed, key_heads=keys)


F = TypeVar("F", bound=Frozen)


def _with(thing: F, **changes: Any) -> F:
    """Built anew, not copied: a copy is not validated."""
    return type(thing)(**{**{name: getattr(thing, name) for name in type(thing).model_fields}, **changes})


def _scaled(name: str, value: int, new: int, old: int) -> int:
    """`value`, which stood to `old`, in the same proportion to `new`."""
    if value * new % old:
        raise ValueError(
            f"{name} = {new}: a stream's {name} is {value}/{old} of it, which is no whole number"
        )
    return value * new // old


def _check_layer(layer: Layer, stream: str, known: list[str]) -> None:
    if layer.reads[0].merged:
        raise ValueError(f"stream '{stream}': the first read of a layer has none before it to be merged with")
    for read in layer.reads:
        if read.keys not in known:
            raise ValueError(
                f"stream '{stream}' reads '{read.keys}': a stream reads itself or an earlier one "
                f"({', '.join(known)})"
            )


def _check_linear(read: Read, stream: str, positions: Any, scores: Scores) -> None:
    if linear_form(read.visibility) is None:
        raise ValueError(
            f"stream '{stream}': linear attention sums over what is seen, in one pass; it can be 'causal', "
            f"'anticausal', 'full' or 'prefix' (with '& same_document'), not '{read.visibility}'"
        )
    if isinstance(positions, RelativeBias | Alibi):
        raise ValueError(
            f"stream '{stream}': linear attention has no scores to add positions '{positions.kind}' to"
        )
    if scores.soft_cap is not None:
        raise ValueError(f"stream '{stream}': linear attention has no scores to cap (scores.soft_cap)")


def _with_depth(stream: Stream, depth: int) -> Stream:
    if len(stream.layers) > 1:
        return _with(stream, cycle_to=depth)
    return _with(stream, layers=[_with(layer, repeat=depth) for layer in stream.layers], cycle_to=None)


# ------------------------------------------------------------------------------------------------------------
# Families: the shapes of description that presets are made of.


def one_stack(name: str, visibility: str, *, depth: int, d_ff: int, **sizes: Any) -> Architecture:
    """One stream that holds input and output, under one visibility in every layer."""
    read = Read.model_validate({"keys": "text", "visibility": f"{visibility} & same_document"})
    layer = Layer(reads=(read,), d_ff=d_ff, repeat=depth)
    return Architecture(name=name, streams=(Stream(name="text", holds="both", layers=(layer,)),), **sizes)


def two_stacks(name: str, encoder: str, *, depths: tuple[int, int], d_ff: int, **sizes: Any) -> Architecture:
    """An encoder under the visibility `encoder`, and a causal decoder that reads all of its final states."""

    def read(keys: str, visibility: str) -> Read:
        return Read.model_validate({"keys": keys, "visibility": f"{visibility} & same_document"})

    encoding = Layer(reads=(read("input", encoder),), d_ff=d_ff, repeat=depths[0])
    decoding = Layer(reads=(read("output", "causal"), read("input", "full")), d_ff=d_ff, repeat=depths[1])
    streams = (
        Stream(name="input", holds="input", layers=(encoding,)),
        Stream(name="output", holds="output", layers=(decoding,)),
    )
    return Architecture(name=name, streams=streams, **sizes)
