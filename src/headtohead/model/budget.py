"""What a network costs, from its description alone: parameters, FLOPs, cache bytes. Nothing is built.

**Tokens.** A sequence is `input` places of the input part and `output` places of the output part, and these
are what the functions here take; `headtohead budget --input N --output M` passes N and M as they are. The
layouts of `headtohead.data` put one special token before each part (mode, start), so an example of n and m
text tokens is `flops(a, 1 + n, 1 + m)`. Padding costs nothing: a packed row costs the sum of its documents.

**FLOPs** are exact, by visible pairs: an (m × k) by (k × n) matrix product is 2·m·k·n; attention is two
products of 2·d_head for each (query, key, head) triple that is visible, whatever the kernel computes and
masks away; the output head works only at supervised places. Norms, rotations, softmax, gating and the
embedding's look-up are not counted. Training is three times the forward pass (backward: one product for the
inputs, one for the weights).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, TypedDict

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture, Layer, Stream
from headtohead.model.visibility import Coordinates, Visibility, sequence

Holds = Literal["input", "output", "both"]
Supervise = Literal["output", "all"] | int

BYTES: dict[str, int] = {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}


class Parameters(TypedDict):
    """`total` = `embedding` (tied, counted once) + `non_embedding`."""

    total: int
    embedding: int
    non_embedding: int


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
    """How many weights the network has.

    Embeddings V·d once; each attention sublayer 4·d·(heads·d_head) and a norm d (reads that are merged share
    their weights); each feed-forward 3·d·d_ff and a norm d; a final norm d for each stream; no biases.
    """
    d = a.d_model
    embedding = a.vocabulary * d
    rest = sum(d + sum(_layer_parameters(a, layer) * layer.repeat for layer in s.layers) for s in a.streams)
    return {"total": embedding + rest, "embedding": embedding, "non_embedding": rest}


def _layer_parameters(a: Architecture, layer: Layer) -> int:
    d, width = a.d_model, a.heads * a.d_head
    return len(layer.sublayers) * (4 * d * width + d) + 3 * d * layer.d_ff + d


def places(stream: Stream, input: int, output: int) -> int:
    """How many tokens of a sequence a stream holds."""
    return {"input": input, "output": output, "both": input + output}[stream.holds]


def visible_pairs(a: Architecture, input: int, output: int) -> int:
    """Visible (query, key, head) triples of one sequence, over all streams, layers and reads."""
    return sum(
        layer.repeat
        * _visible(read.visibility, a.heads, stream.holds, a.stream(read.keys).holds, input, output)
        for stream in a.streams
        for layer in stream.layers
        for read in layer.reads
    )


def flops(a: Architecture, input: int, output: int, supervise: Supervise = "output") -> Flops:
    """FLOPs of one sequence of `input` and `output` places; see the module's text for what is counted.

    `supervise`: the head works at the output's places, at every place of the last stream (``"all"``), or at
    that many places.

    Raises:
        UserError: for a negative number of tokens, or none at all.
    """
    _check(input, output)
    supervised = supervise
    if supervised == "output":
        supervised = output
    elif supervised == "all":
        supervised = places(a.output_stream, input, output)
    head = 2 * a.d_model * a.vocabulary
    body = _body(a, input, output)
    prefill = _prefill(a, input)
    forward = body + head * supervised
    per_token = (body - prefill + head * output) / output if output else 0.0
    return {"forward": forward, "training": 3 * forward, "prefill": prefill, "decode_per_token": per_token}


def named_conventions(a: Architecture, input: int, output: int) -> dict[str, int]:
    """The literature's round figures for one sequence: 2·N·D forward and 6·N·D training, D = input + output.

    N leaves out the embeddings (Kaplan et al., arXiv 2001.08361) or has them (``_total``; Hoffmann et al.,
    arXiv 2203.15556). They charge every token for every weight, which for two streams is about twice what is
    computed.
    """
    n, tokens = parameters(a), input + output
    return {
        "2N": 2 * n["non_embedding"] * tokens,
        "6N": 6 * n["non_embedding"] * tokens,
        "2N_total": 2 * n["total"] * tokens,
        "6N_total": 6 * n["total"] * tokens,
    }


def cache_bytes(a: Architecture, input: int, output: int, dtype: str = "bf16") -> int:
    """Bytes of keys and values that decoding keeps once the whole sequence is there, for one sequence.

    Every read of every layer keeps a key and a value, heads·d_head wide, of each token of its key stream.

    Raises:
        UserError: for an unknown dtype or a negative number of tokens.
    """
    _check(input, output)
    if dtype not in BYTES:
        raise UserError(f"dtype '{dtype}' is unknown: use one of {', '.join(BYTES)}")
    kept = sum(
        layer.repeat * places(a.stream(read.keys), input, output)
        for stream in a.streams
        for layer in stream.layers
        for read in layer.reads
    )
    return kept * 2 * a.heads * a.d_head * BYTES[dtype]


# ------------------------------------------------------------------------------------------------------------


def _body(a: Architecture, input: int, output: int) -> int:
    """FLOPs of every stream's layers, without the head."""
    return sum(
        layer.repeat * _layer_flops(a, stream, layer, input, output)
        for stream in a.streams
        for layer in stream.layers
    )


def _layer_flops(a: Architecture, stream: Stream, layer: Layer, input: int, output: int) -> int:
    d, width = a.d_model, a.heads * a.d_head
    here = places(stream, input, output)
    total = 2 * here * 3 * d * layer.d_ff
    total += len(layer.sublayers) * 2 * here * 2 * d * width  # query and output projections
    for read in layer.reads:
        source = a.stream(read.keys)
        total += 2 * places(source, input, output) * d * 2 * width  # its keys and values
        triples = _visible(read.visibility, a.heads, stream.holds, source.holds, input, output)
        total += 2 * 2 * a.d_head * triples
    return total


def _prefill(a: Architecture, input: int) -> int:
    """FLOPs that need the input alone: its places in every stream, its keys and values for every read.

    With no output, a stream that holds the output has no queries, but its reads of the input are still
    projected.
    """
    return _body(a, input, 0)


@lru_cache(maxsize=4096)
def _visible(rule: Visibility, heads: int, queries: Holds, keys: Holds, input: int, output: int) -> int:
    whole = sequence(input, output)
    return rule.count(_held(whole, queries, input), _held(whole, keys, input), heads)


def _held(whole: Coordinates, holds: Holds, input: int) -> Coordinates:
    part = {"input": slice(0, input), "output": slice(input, None), "both": slice(None)}[holds]
    return Coordinates(*(array[part] for array in whole))


def _check(input: int, output: int) -> None:
    if input < 0 or output < 0 or input + output == 0:
        raise UserError(
            f"{input} input and {output} output tokens make no sequence: give whole numbers above 0"
        )
