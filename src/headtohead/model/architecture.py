"""What a network is, before anything is built: streams of tokens, and who reads whom.

A network is one or two **streams**. Each layer of a stream lists its **reads**: attention to a key stream
(its own, or an earlier one's final states) under a visibility, in a softmax of its own or merged with the
read before it. Causal and prefix decoders, encoder-decoders with any encoder, merged attention (T5Gemma 2)
and block double decoders are all descriptions of this one form; none of them is a class.

A description is frozen, refuses unknown keys, and is what a run writes down and is built from again.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PositiveInt,
    WithJsonSchema,
    model_validator,
)

from headtohead.errors import UserError
from headtohead.model.visibility import Visibility


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


T = TypeVar("T")
Listed = Annotated[tuple[T, ...], Field(strict=False)]
"""A list of a file, as the tuple of a frozen description."""


class Frozen(BaseModel):
    """A description: immutable, and any key it doesn't know is an error."""

    # Strict: a count of true or in quotes is a slip to be told, not to be repaired in silence.
    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, strict=True, allow_inf_nan=False
    )


class Norms(Frozen):
    """The parameter-free RMS norms that the reference recipe adds to the RMSNorm before each sublayer.

    `query_key` and `value` normalise over the head dimension (bounding the attention logits to ±√d_head);
    `output` normalises, over the model width, the concatenated heads before the output projection.
    """

    query_key: bool = True
    value: bool = True
    output: bool = False


class Read(Frozen):
    """One attention: the stream whose tokens are keys and values, and who of them is seen.

    `merged`: in one softmax with the read before it in the same layer, with that read's weights (T5Gemma 2),
    instead of a sublayer of its own.
    """

    keys: str
    visibility: VisibilityField
    merged: bool = False


class Layer(Frozen):
    """Attention sublayers, one for each read that is not merged, then a feed-forward of width `d_ff`."""

    reads: Listed[Read] = Field(min_length=1)
    d_ff: PositiveInt
    repeat: PositiveInt = 1

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
    """A sequence of tokens with a stack of layers. It holds the input, the output, or both in one row."""

    name: str
    holds: Literal["input", "output", "both"]
    layers: Listed[Layer] = Field(min_length=1)

    @property
    def expanded(self) -> tuple[Layer, ...]:
        """One entry for each layer, repeats written out."""
        return tuple(layer for layer in self.layers for _ in range(layer.repeat))

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
    positions: Literal["rope", "none"] = "rope"
    rope_base: float = Field(default=10_000.0, gt=1)
    norms: Norms = Norms()
    streams: Listed[Stream] = Field(min_length=1, max_length=2)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.positions == "rope" and self.d_head % 2:
            raise ValueError(f"d_head is {self.d_head}: RoPE rotates pairs, so it must be even")
        seen: list[str] = []
        for stream in self.streams:
            if stream.name in seen:
                raise ValueError(f"two streams are called '{stream.name}': give each a name of its own")
            seen.append(stream.name)
            for layer in stream.layers:
                _check_layer(layer, stream.name, seen)
                self._check_heads(layer, stream.name)
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
        return self

    def _check_heads(self, layer: Layer, stream: str) -> None:
        for read in layer.reads:
            if read.visibility.shares > self.heads:
                raise ValueError(
                    f"stream '{stream}': '{read.visibility}' parts {self.heads} heads among "
                    f"{read.visibility.shares} rules: each needs a head at least"
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

    def stream(self, name: str) -> Stream:
        """The stream of that name."""
        return next(stream for stream in self.streams if stream.name == name)

    def resized(self, **sizes: Any) -> Architecture:
        """The same network at other sizes, by name; `d_ff` is every layer's, `depths` the repeats."""
        streams = list(self.streams)
        if "depths" in sizes:
            if len(sizes["depths"]) != len(streams):
                names = " and ".join(stream.name for stream in streams)
                raise ValueError(
                    f"depths = {list(sizes['depths'])}: it should have one for each stream, {names}"
                )
            streams = [_with_depth(s, n) for s, n in zip(streams, sizes.pop("depths"), strict=True)]
        if "d_ff" in sizes:
            d_ff = sizes.pop("d_ff")
            streams = [
                _with_layers(s, [Layer(reads=x.reads, d_ff=d_ff, repeat=x.repeat) for x in s.layers])
                for s in streams
            ]
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return Architecture(**{**fields, "streams": tuple(streams), **sizes})


def _check_layer(layer: Layer, stream: str, known: list[str]) -> None:
    if layer.reads[0].merged:
        raise ValueError(f"stream '{stream}': the first read of a layer has none before it to be merged with")
    for read in layer.reads:
        if read.keys not in known:
            raise ValueError(
                f"stream '{stream}' reads '{read.keys}': a stream reads itself or an earlier one "
                f"({', '.join(known)})"
            )


def _with_depth(stream: Stream, depth: int) -> Stream:
    if len(stream.layers) != 1:
        raise ValueError(
            f"stream '{stream.name}' has a pattern of {len(stream.layers)} layers: its depth can't be set"
        )
    (layer,) = stream.layers
    return _with_layers(stream, [Layer(reads=layer.reads, d_ff=layer.d_ff, repeat=depth)])


def _with_layers(stream: Stream, layers: list[Layer]) -> Stream:
    """Built anew, not copied: a copy is not validated."""
    return Stream(name=stream.name, holds=stream.holds, layers=tuple(layers))


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


# ------------------------------------------------------------------------------------------------------------
# Presets: the published table (RedLLM, arXiv 2510.26622, Table 1) and laptop sizes in the same proportions.

DECLLM_NORMS = Norms(query_key=True, value=True, output=False)
REDLLM_NORMS = Norms(query_key=True, value=True, output=True)

#         d_model  d_ff  heads  d_head  vocabulary  one stack  two stacks
SIZES: dict[str, tuple[int, int, int, int, int, int, tuple[int, int]]] = {
    "nano": (128, 512, 4, 32, 1024, 3, (1, 1)),
    "micro": (256, 1024, 4, 64, 4096, 3, (1, 1)),
    "mini": (384, 1536, 6, 64, 8192, 6, (2, 3)),
    "150m": (1024, 4096, 8, 128, 32768, 8, (3, 3)),
    "1b": (2048, 8192, 16, 128, 32768, 16, (7, 7)),
    "2b": (2560, 10240, 20, 128, 32768, 20, (9, 9)),
    "4b": (3072, 12288, 24, 128, 32768, 24, (10, 10)),
    "8b": (4096, 16384, 32, 128, 32768, 32, (14, 14)),
}
ONE_STACK: dict[str, tuple[str, Norms]] = {
    "decllm": ("causal", DECLLM_NORMS),
    "causal": ("causal", REDLLM_NORMS),
    "prefix": ("prefix", REDLLM_NORMS),
}
TWO_STACKS: dict[str, tuple[str, Norms]] = {
    "redllm": ("full", REDLLM_NORMS),
    "redllm-causal-encoder": ("causal", REDLLM_NORMS),
}


def preset_names() -> list[str]:
    """Every name that `architecture` knows, families in order, sizes ascending."""
    return [f"{family}-{size}" for family in (*ONE_STACK, *TWO_STACKS) for size in SIZES]


def architecture(name: str) -> Architecture:
    """The preset of that name: a family and a size, such as ``redllm-150m``.

    Raises:
        UserError: for an unknown name, with the nearest ones.
    """
    family, _, size = name.rpartition("-")
    if size not in SIZES or family not in {*ONE_STACK, *TWO_STACKS}:
        near = difflib.get_close_matches(name, preset_names(), n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "see 'headtohead budget --help' for the names"
        raise UserError(f"no architecture is called '{name}': {hint}")
    d_model, d_ff, heads, d_head, vocabulary, depth, depths = SIZES[size]
    sizes: dict[str, Any] = {"d_model": d_model, "heads": heads, "d_head": d_head, "vocabulary": vocabulary}
    if family in ONE_STACK:
        visibility, norms = ONE_STACK[family]
        return one_stack(name, visibility, depth=depth, d_ff=d_ff, norms=norms, **sizes)
    visibility, norms = TWO_STACKS[family]
    return two_stacks(name, visibility, depths=depths, d_ff=d_ff, norms=norms, **sizes)
