"""What training takes of a device's memory, by part and by how it is sharded, in closed form. Imports no torch.

`train.memory` counts what autograd really saves, on a CPU, where attention keeps its weights. Here are the same
tensors written down, so that attention can be counted as a fused kernel does it, which keeps none; the tests hold
the closed form against the count. Eager training is meant; compiled it keeps no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture, Layer, Stream
from headtohead.model.budget import PLACES_AT_ONCE, parameters, places
from headtohead.model.parts import GATED

Sharding = Literal["none", "ddp", "fsdp2"]
MOMENTS = {"adamw": 2, "adafactor": 1}
"""Numbers of fp32 an optimizer keeps for each parameter (Adafactor: without factorisation, no momentum)."""
WIDTH = {"bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class Activations:
    """Bytes kept for the backward pass: `each` for a row, `once` whatever the rows (weights cast to bf16)."""

    attention: int
    feed_forward: int
    rest: int
    once: int

    @property
    def each(self) -> int:
        return self.attention + self.feed_forward + self.rest


def activations(
    a: Architecture, input: int, output: int, precision: str, scores: bool = False
) -> Activations:
    """Of one row of `input` and `output` places; with `scores`, attention keeps its weights, as on a CPU.

    Raises:
        UserError: linear attention, which keeps sums by chunk and isn't counted here.
    """
    attention = feed_forward = rest = once = 0
    for stream in a.streams:
        for layer in stream.expanded:
            found = layer_activations(a, stream, layer, input, output, precision, scores)
            attention, feed_forward = attention + found.attention, feed_forward + found.feed_forward
            rest, once = rest + found.rest, once + found.once
        if a.norms.place != "after":
            rest += _norm(a, stream, places(stream, input, output))
    return Activations(attention, feed_forward, rest, once)


def layer_activations(
    a: Architecture, stream: Stream, layer: Layer, input: int, output: int, precision: str, scores: bool
) -> Activations:
    """The same of one layer.

    An attention sublayer keeps its input (in bf16 once for the queries and once for keys and values, which cast it
    apart), queries, keys and values as projected where they are normed (in fp32) and as they are multiplied, and the
    heads' output. A feed-forward keeps its input, what the matrices up made, what the activation made, and their
    product where there is a gate (ReLU only what it made). An RMS norm keeps its input and what it made, in fp32.
    """
    w, width = WIDTH[precision], a.width(stream)
    here = places(stream, input, output)
    cast = 2 if precision == "bf16" else 1
    attention = 0
    matrices = (3 if a.feed_forward in GATED else 2) * width.d_model * layer.d_ff
    for reads in layer.sublayers:
        if reads[0].mixer == "linear":
            raise UserError(f"{a.name} has linear attention, whose memory has no closed form here")
        source = a.width(a.stream(reads[0].keys)).d_model
        matrices += 2 * width.d_model * width.queries + 2 * source * width.keys
        own = all(read.keys == stream.name for read in reads)
        attention += here * w * width.d_model
        normed_query = 4 * a.norms.query_key
        attention += here * width.queries * (w + normed_query)  # queries
        attention += here * width.queries * (w + 4 * a.norms.output)  # the heads' output
        if not scores:  # the kernel's output in its own order, and the logarithm of each row's sum
            attention += here * (w * width.queries + 4 * width.heads)
        for read in reads:
            there = places(a.stream(read.keys), input, output)
            if cast == 2 or not own:
                attention += there * w * a.width(a.stream(read.keys)).d_model * (cast == 2)
            attention += there * width.keys * (2 * w + normed_query + 4 * a.norms.value)
            if scores:
                attention += here * there * width.heads * (6 if precision == "bf16" else 4)
    gates = 4 if a.feed_forward in GATED else 1 if a.feed_forward == "relu" else 2
    feed_forward = here * w * (width.d_model + gates * layer.d_ff)
    norms = (len(layer.sublayers) + 1) * (2 if a.norms.place == "both" else 1)
    rest = norms * _norm(a, stream, here)
    return Activations(attention, feed_forward, rest, 2 * matrices if precision == "bf16" else 0)


def _norm(a: Architecture, stream: Stream, here: int) -> int:
    layer = a.norms.kind == "layer"  # keeps its input, a mean and a spread; RMSNorm what it made as well
    return here * 4 * (a.width(stream).d_model + 2 if layer else 2 * a.width(stream).d_model + 1)


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by part. `working`: what sharding gathers for a moment; `masks`: who sees whom, dense."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    masks: float
    logits: float
    working: float

    @property
    def total(self) -> float:
        return sum(vars(self).values())


def memory(
    a: Architecture,
    rows: int,
    input: int,
    output: int,
    precision: str,
    sharding: Sharding = "none",
    devices: int = 1,
    checkpointing: bool = False,
    optimizer: str = "adamw",
    supervised: int | None = None,
    scores: bool = False,
) -> Memory:
    """Of a micro-batch of `rows` on each device. Weights, gradients and the optimizer's moments are fp32.

    DDP copies all of it to every device; its buckets are views of the gradients. FSDP2 (`fully_shard` of each block)
    shares weights, gradients and moments out evenly, and gathers two blocks' weights at a time in fp32, with one
    block's gradients; what bf16 autocast made of weights stays for the backward pass. Activation checkpointing
    keeps each block's input, in fp32, and makes one block's activations again at a time.
    `supervised`: places with loss in a row; the output's if left out. `scores`: see `activations`.
    """
    count, w = parameters(a)["total"], WIDTH[precision]
    parts = devices if sharding == "fsdp2" else 1
    biggest = max(
        (layer_activations(a, s, x, input, output, precision, scores) for s in a.streams for x in s.layers),
        key=lambda found: found.each * rows + found.once,
    )
    whole = activations(a, input, output, precision, scores)
    if checkpointing:
        inputs = sum(s.depth * places(s, input, output) * a.width(s).d_model * 4 for s in a.streams)
        kept = rows * (inputs + biggest.each) + biggest.once
    else:
        kept = rows * whole.each + whole.once
    last = a.width(a.output_stream).d_model
    places_ = rows * (output if supervised is None else supervised)
    logits = (
        min(PLACES_AT_ONCE, places_) * a.vocabulary * 12 + a.vocabulary * last * (4 + w) + places_ * last * w
    )
    working = 12.0 * _block_parameters(a) if sharding == "fsdp2" else 0.0
    return Memory(
        4 * count / parts,
        4 * count / parts,
        4 * MOMENTS[optimizer] * count / parts,
        kept,
        rows * _mask_bytes(a, input, output),
        logits,
        working,
    )


def _block_parameters(a: Architecture) -> float:
    return max(layer_activations(a, s, x, 1, 1, "bf16", False).once / 2 for s in a.streams for x in s.layers)


def _mask_bytes(a: Architecture, input: int, output: int) -> int:
    """A Boolean and an fp32 for each pair of places, for each rule that is different."""
    found = 0
    for stream in a.streams:
        rules = {(r.keys, str(r.visibility)) for layer in stream.layers for r in layer.reads}
        here = places(stream, input, output)
        found += sum(here * places(a.stream(keys), input, output) * 5 for keys, _ in rules)
    return found


def largest_rows(room: float, most: int, take: Callable[[int], Memory]) -> int:
    """The most rows up to `most` whose memory (`take(rows).total`) is within `room`; 0 when one is too many."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if take(middle).total <= room:
            low = middle
        else:
            high = middle - 1
    return low
