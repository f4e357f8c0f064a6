"""What a network costs, from its description alone: parameters, FLOPs, cache bytes. Nothing is built.

**Tokens.** A sequence is `input` places of the input part and `output` places of the output part, and these
are what the functions here take; `headtohead budget --input N --output M` passes N and M as they are. The
layouts of `headtohead.data` put one special token before each part (mode, start), so an example of n and m
text tokens is `flops(a, 1 + n, 1 + m)`. Padding costs nothing: a packed row costs the sum of its documents.

**FLOPs** are exact, by visible pairs: an (m × k) by (k × n) matrix product is 2·m·k·n; attention is two
products of 2·d_head for each (query, key, head) triple that is visible, whatever the kernel computes and
masks away; the output head works only at supervised places. Linear attention has no pairs: each key adds
2·d_head² to each key head's sum, each query reads 2·d_head² of it and 2·d_head of the normaliser with each
head. Norms, rotations, biases, softmax, gating and the embeddings' look-up are not counted. Training is three
times the forward pass (backward: one product for the inputs, one for the weights). The literature's round
figures are in `conventions.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, TypedDict

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture, Layer, Stream
from headtohead.model.parts import GATED, Learned, RelativeBias, TwoDimensional
from headtohead.model.visibility import Coordinates, Visibility, sequence

Holds = Literal["input", "output", "both"]
Supervise = Literal["output", "all"] | int

BYTES: dict[str, int] = {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}

PLACES_AT_ONCE = 512
"""Places whose logits are there at a time while the loss is made (`loss.py`)."""


class Parameters(TypedDict):
    """`total` = `embedding` (all tables of rows: tokens, positions, segments, an untied head) +
    `non_embedding`.
    """

    total: int
    embedding: int
    non_embedding: int


class Groups(TypedDict):
    """Parameters by what they are for. `embedding`: of tokens; `positions`: tables of positions and segments,
    T5's biases; `head`: what the tied table is not (a matrix of its own, biases, BERT's transform); `norms`:
    all weights of norms.
    """

    embedding: int
    positions: int
    attention: int
    cross_attention: int
    feed_forward: int
    norms: int
    head: int


class Flops(TypedDict):
    """For one sequence. `forward` = `prefill` + output · `decode_per_token` where only the output is
    supervised.

    prefill: all that depends on the input alone, with its keys and values for every later read, without the
    head. decode_per_token: the mean over the output's places, each with the head; the cache is kept.
    """

    forward: int
    training: int
    prefill: int
    decode_per_token: float


def parameters(a: Architecture) -> Parameters:
    """How many weights the network has; see `parameter_groups` for what they are for."""
    groups = parameter_groups(a)
    total = sum(groups.values())  # type: ignore[arg-type]
    embedding = groups["embedding"] + groups["positions"]
    if not a.embeddings.tied:
        embedding += a.vocabulary * a.width(a.output_stream).d_model
    return {"total": total, "embedding": embedding, "non_embedding": total - embedding}


def parameter_groups(a: Architecture) -> Groups:
    """The weights by what they are for.

    Without biases: embeddings V·d for each table; an attention sublayer d·(queries + out) and d_source·(keys +
    values); a feed-forward 3·d·d_ff with a gate and 2·d·d_ff without; a norm d (LayerNorm with biases 2·d) for
    each sublayer, two where norms are on both sides, one for each stream at the end unless norms come after.
    What a stream shares is counted once; merged reads share their weights.
    """
    found = Groups(embedding=0, positions=0, attention=0, cross_attention=0, feed_forward=0, norms=0, head=0)
    tables = [a.width(s).d_model for s in (a.streams[-1:] if a.embeddings.shared else a.streams)]
    found["embedding"] = a.vocabulary * sum(tables)
    for stream in a.streams:
        d = a.width(stream).d_model
        norm = _norm(a, d)
        found["positions"] += _position_tables(a, stream) + 2 * d * a.embeddings.segments
        found["norms"] += norm * ((a.norms.place != "after") + a.embeddings.norm)
        lent = () if stream.shares is None else a.stream(stream.shares).expanded
        for index, layer in enumerate(stream.expanded):
            for group, count in _layer(a, stream, layer, lent[index] if lent else None).items():
                found[group] += count  # type: ignore[literal-required]
    last = a.width(a.output_stream).d_model
    found["head"] = a.vocabulary * (last * (not a.embeddings.tied) + a.head.bias)
    if a.head.transform:
        found["head"] += last * last + last * a.biases.feed_forward + _norm(a, last)
    return found


def _layer(a: Architecture, stream: Stream, layer: Layer, lender: Layer | None) -> dict[str, int]:
    """The weights of one layer by group, without what it uses of another stream's layer."""
    d = a.width(stream).d_model
    found: dict[str, int] = {"attention": 0, "cross_attention": 0, "feed_forward": 0, "norms": 0}
    around = _norm(a, d) * (2 if a.norms.place == "both" else 1)
    for reads in layer.sublayers[0 if lender is None else len(lender.sublayers) :]:
        group = "attention" if any(r.keys == stream.name for r in reads) else "cross_attention"
        found[group] += _attention(a, stream, reads[0].keys)
        found["norms"] += around + 2 * a.width(stream).d_head * a.norms.query_key_weights
    if lender is None:
        found["feed_forward"] += _matrices(a) * d * layer.d_ff
        found["feed_forward"] += a.biases.feed_forward * ((_matrices(a) - 1) * layer.d_ff + d)
        found["norms"] += around
    return found


def stream_weights(a: Architecture, stream: Stream) -> int:
    """How many weights a pass through a stream's layers reads, those that it shares among them."""
    return sum(sum(_layer(a, stream, layer, None).values()) for layer in stream.expanded)


def _norm(a: Architecture, width: int) -> int:
    return width * (1 + a.norms.bias)


def _matrices(a: Architecture) -> int:
    return 3 if a.feed_forward in GATED else 2


def _position_tables(a: Architecture, stream: Stream) -> int:
    width = a.width(stream)
    match a.positions:
        case Learned(length=length):
            return length * width.d_model
        case TwoDimensional(length=length):
            return 2 * length * width.d_model
        case RelativeBias(buckets=buckets):
            return buckets * width.heads
    return 0


def _attention(a: Architecture, stream: Stream, keys: str) -> int:
    width, source = a.width(stream), a.width(a.stream(keys)).d_model
    matrices = 2 * width.d_model * width.queries + 2 * source * width.keys
    return matrices + a.biases.attention * (width.queries + 2 * width.keys + width.d_model)


def places(stream: Stream, input: int, output: int) -> int:
    """How many tokens of a sequence a stream holds."""
    return {"input": input, "output": output, "both": input + output}[stream.holds]


def visible_pairs(a: Architecture, input: int, output: int) -> int:
    """Visible (query, key, head) triples of one sequence, over all streams, layers and reads; those of linear
    attention too, which never makes them one by one.
    """
    return sum(
        visible(a, stream, read.keys, read.visibility, input, output)
        for stream in a.streams
        for layer in stream.expanded
        for read in layer.reads
    )


def visible(a: Architecture, stream: Stream, keys: str, rule: Visibility, input: int, output: int) -> int:
    """Visible (query, key, head) triples of one read of a layer of `stream`."""
    heads = a.width(stream).heads
    return _visible(rule, heads, stream.holds, a.stream(keys).holds, input, output)


def flops(a: Architecture, input: int, output: int, supervise: Supervise = "output") -> Flops:
    """FLOPs of one sequence of `input` and `output` places; see the module's text for what is counted.

    `supervise`: the head works at the output's places, at every place of the last stream (``"all"``), or at
    that many places.

    Raises:
        UserError: for a negative number of tokens, or none at all.
    """
    check_tokens(input, output)
    supervised = supervise
    if supervised == "output":
        supervised = output
    elif supervised == "all":
        supervised = places(a.output_stream, input, output)
    head = head_flops(a)
    body = _body(a, input, output)
    prefill = _body(a, input, 0)
    forward = body + head * supervised
    per_token = (body - prefill + head * output) / output if output else 0.0
    return {"forward": forward, "training": 3 * forward, "prefill": prefill, "decode_per_token": per_token}


def reading_flops(a: Architecture, input: int, output: int, kept: Mapping[str, int] | None = None) -> int:
    """FLOPs that bring a cache up to a sequence of `input` and `output` places, without the head.

    `kept`: how many of the first places of each stream the cache holds already (`reuse.still_valid`); what is read
    are the places after them, each against all keys that it sees. With nothing kept and no output this is the
    prefill of `flops`.

    Raises:
        UserError: for a negative number of tokens, or none at all.
    """
    check_tokens(input, output)
    return _body(a, input, output, kept or {})


def head_flops(a: Architecture) -> int:
    """FLOPs of the head at one place."""
    d = a.width(a.output_stream).d_model
    return 2 * d * a.vocabulary + 2 * d * d * a.head.transform


def cache_bytes(a: Architecture, input: int, output: int, dtype: str = "bf16") -> int:
    """Bytes of keys and values that decoding keeps once the whole sequence is there, for one sequence.

    Every read of every layer keeps a key and a value of each key head for each token of its key stream, those
    of a window too. Linear attention keeps d_head·(d_head + 1) numbers of fp32 for each head, however long the
    sequence is.

    Raises:
        UserError: for an unknown dtype or a negative number of tokens.
    """
    check_tokens(input, output)
    if dtype not in BYTES:
        raise UserError(f"dtype '{dtype}' is unknown: use one of {', '.join(BYTES)}")
    total = 0
    for stream in a.streams:
        width = a.width(stream)
        for read in (read for layer in stream.expanded for read in layer.reads):
            if read.mixer == "linear":
                total += width.queries * (width.d_head + 1) * BYTES["fp32"]
            else:
                total += places(a.stream(read.keys), input, output) * 2 * width.keys * BYTES[dtype]
    return total


# ------------------------------------------------------------------------------------------------------------


def _body(a: Architecture, input: int, output: int, kept: Mapping[str, int] | None = None) -> int:
    """FLOPs of every stream's layers, without the head. With no output: what needs the input alone. A stream
    that holds the output has no queries then, but its reads of the input are still projected.
    """
    return sum(
        _layer_flops(a, stream, layer, input, output, kept or {})
        for stream in a.streams
        for layer in stream.expanded
    )


def _layer_flops(
    a: Architecture, stream: Stream, layer: Layer, input: int, output: int, kept: Mapping[str, int]
) -> int:
    width, first = a.width(stream), kept.get(stream.name, 0)
    here = places(stream, input, output) - first
    total = 2 * here * _matrices(a) * width.d_model * layer.d_ff
    total += len(layer.sublayers) * 2 * here * 2 * width.d_model * width.queries  # queries and output
    for read in layer.reads:
        source = a.stream(read.keys)
        there = places(source, input, output) - kept.get(source.name, 0)
        total += 2 * there * a.width(source).d_model * 2 * width.keys  # its keys and values
        if read.mixer == "linear":
            total += 2 * there * width.keys * width.d_head + 2 * here * width.queries * (width.d_head + 1)
        else:
            triples = _visible(read.visibility, width.heads, stream.holds, source.holds, input, output, first)
            total += 2 * 2 * width.d_head * triples
    return total


@lru_cache(maxsize=4096)
def _visible(
    rule: Visibility, heads: int, queries: Holds, keys: Holds, input: int, output: int, first: int = 0
) -> int:
    """Visible triples of the queries from number `first` on."""
    whole = sequence(input, output)
    asking = Coordinates(*(axis[first:] for axis in _held(whole, queries, input)))
    return rule.count(asking, _held(whole, keys, input), heads)


def _held(whole: Coordinates, holds: Holds, input: int) -> Coordinates:
    part = {"input": slice(0, input), "output": slice(input, None), "both": slice(None)}[holds]
    return Coordinates(*(array[part] for array in whole))


def check_tokens(input: int, output: int) -> None:
    """Raises UserError for a negative number of tokens, or none at all."""
    if input < 0 or output < 0 or input + output == 0:
        raise UserError(
            f"{input} input and {output} output tokens make no sequence: give whole numbers above 0"
        )
