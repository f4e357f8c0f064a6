"""How a network does beyond the length it was trained on: bits per byte by total length and by position, and how local
its attention is there.

The same bytes are scored at every length. A document is cut in blocks of the longest length, and the second half of a
block is scored: at a shorter length L, in pieces of L / 2, each after the L / 2 bytes before it, which are given. So a
figure at 8 times the training length differs from that at 1 by what is before a byte, and how far it stands from the
beginning, not by which byte it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headtohead.data.objectives.base import Manner
from headtohead.data.objectives.windows import cut_at, windows
from headtohead.data.shards import START
from headtohead.data.tokenizers import Tokenizer
from headtohead.errors import UserError
from headtohead.generate.prompts import rows_of
from headtohead.measure.likelihood import Array, Likelihood, Row, token_nats
from headtohead.measure.scoring import over_documents
from headtohead.model.architecture import Architecture, Stream
from headtohead.model.attention import Recorder
from headtohead.model.batch import Tokens
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import INPUT, PADDING

TIMES = (1, 2, 4, 8)
NEAR = 5
"""Locality is the weight on so many last tokens, the query's own among them."""
LONGEST_PAIRS = 2048
"""Tokens of an example whose attention weights are looked at: all heads' weights of a layer are held at once."""
TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class Reader:
    """How a network is asked. row: what it is given of an input and an output, as ids. nats: -ln p of each token of
    each output after its input, so many rows at once. token_bytes: the bytes that each token of an output is.
    """

    network: Transformer
    row: Callable[[str, str], Row]
    nats: Callable[[Sequence[str], Sequence[str], int], list[Array]]
    token_bytes: Callable[[str], NDArray[np.int64]]
    likelihood: Likelihood = "exact"


def reader_of(network: Transformer, tokenizer: Tokenizer, manner: Manner) -> Reader:
    """How a network that was trained here is asked: as its objective taught it to see an input and an output."""

    def row(given: str, output: str) -> Row:
        shown, begun = manner.framed(tokenizer.encode(given))
        return Row([manner.mode, *shown], [START, *begun], tokenizer.encode(output))

    def nats(inputs: Sequence[str], outputs: Sequence[str], batch_size: int) -> list[Array]:
        rows = [row(*pair) for pair in zip(inputs, outputs, strict=True)]
        return token_nats(network, rows, batch_size=batch_size)

    return Reader(
        network, row, nats, lambda text: tokenizer.sizes[np.array(tokenizer.encode(text), np.int64)]
    )


@dataclass(frozen=True)
class Stretch:
    """Bits per byte of what stands from byte `first` to `last` of its example."""

    first: int
    last: int
    bits_per_byte: float


@dataclass(frozen=True)
class Attention:
    """Shares of the attention weight of the places that predict the output, from 0 to 1, means over places and heads.

    local: of what a place sees of its own stream, on the last `NEAR` tokens, its own among them; by_layer the same for
    each layer that reads its own stream. cross_local: of attention to the input's stream, on its last `NEAR` tokens;
    None where nothing reads another stream in a softmax of its own. input: on tokens of the input, over all
    softmaxes, each counting alike (a cross-attention's own softmax is on the input with all of its weight).
    """

    local: float | None
    cross_local: float | None
    input: float | None
    by_layer: tuple[float | None, ...]


@dataclass(frozen=True)
class AtLength:
    """One total length. bytes: input and output together. tokens: the mean of both, as the network holds them. rise:
    bits per byte more than at the first length, paired block by block, with its standard error. refused: why there are
    no figures.
    """

    times: float
    bytes: int
    tokens: float = math.nan
    bits_per_byte: float = math.nan
    standard_error: float = math.nan
    rise: float = math.nan
    rise_error: float = math.nan
    by_position: tuple[Stretch, ...] = ()
    attention: Attention | None = None
    refused: str | None = None
    bits: Array = field(default_factory=lambda: np.zeros(0))
    """By block, in the order of the blocks."""


def blocks_of(texts: Sequence[str], size: int, most: int) -> list[tuple[int, str]]:
    """At most `most` stretches of `size` bytes, evenly over all that there are in the texts, each with the place of its
    text.

    Raises:
        UserError: no text is that long.
    """
    found: list[tuple[int, int]] = []
    encoded = [text.encode() for text in texts]
    for number, data in enumerate(encoded):
        found += [(number, at) for at in range(0, len(data) - size + 1, size)]
    if not found:
        longest = max(map(len, encoded), default=0)
        raise UserError(
            f"no text is {size} bytes long, which the longest length asks for (the longest has {longest}): give longer "
            "texts, or less --up-to"
        )
    places = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))
    blocks = []
    for number, at in (found[i] for i in places):
        start, end = (cut_at(encoded[number], place) if place else 0 for place in (at, at + size))
        blocks.append((number, encoded[number][start:end].decode()))
    return blocks


def pieces_of(block: str, length: int) -> list[tuple[str, str]]:
    """The second half of a block, in pieces of half a length, each after the half length before it."""
    data = block.encode()
    at = cut_at(data, len(data) // 2)
    found: list[tuple[str, str]] = []
    for piece in windows(data[at:].decode(), max(4, length // 2)):
        before = cut_at(data, at - length // 2) if at > length // 2 else 0
        found.append((data[before:at].decode(), piece))
        at += len(piece.encode())
    return found


def at_lengths(
    reader: Reader,
    blocks: Sequence[str],
    trained_bytes: int,
    times: Sequence[float] = TIMES,
    *,
    attention: bool = True,
    on_progress: Callable[[float], None] | None = None,
) -> list[AtLength]:
    """A network's figures on blocks (`blocks_of`, of the longest length) at each multiple of the length it was trained
    on, in bytes of input and output.

    Lengths beyond a table of learned positions are refused, in the result: there is no such position to look up.
    """
    found: list[AtLength] = []
    cost = sum(times) if attention else len(times)
    done = 0.0
    for each in times:
        at = _at(reader, blocks, round(trained_bytes * each), trained_bytes, each, attention)
        first = next((one for one in found if one.refused is None), None)
        if at.refused is None and first is not None:
            sizes = _sizes(blocks)
            rise, error = over_documents(at.bits - first.bits, sizes)
            at = _with_rise(at, rise, error)
        found.append(at)
        done += each if attention else 1
        if on_progress is not None:
            on_progress(done / cost)
    return found


def _sizes(blocks: Sequence[str]) -> NDArray[np.int64]:
    return np.array(
        [sum(len(piece.encode()) for _, piece in pieces_of(block, len(block))) for block in blocks]
    )


def _with_rise(at: AtLength, rise: float, error: float) -> AtLength:
    return AtLength(**{**vars(at), "rise": rise, "rise_error": error})


def _at(
    reader: Reader, blocks: Sequence[str], length: int, trained: int, times: float, attention: bool
) -> AtLength:
    a = reader.network.architecture
    pairs = [(number, *pair) for number, block in enumerate(blocks) for pair in pieces_of(block, length)]
    rows = [reader.row(before, piece) for _, before, piece in pairs]
    longest = max(map(len, rows))
    if a.context is not None and longest > a.context:
        return AtLength(
            times,
            length,
            refused=f"its positions are a table of {a.context} tokens, and this needs {longest}",
        )
    batch_size = max(1, min(16, TOKENS_AT_ONCE // longest))
    by_token = reader.nats([p[1] for p in pairs], [p[2] for p in pairs], batch_size)
    bits, sizes = np.zeros(len(blocks)), np.zeros(len(blocks))
    # Stretches of half the training length, so that those of one length go on where a shorter one's end.
    step = max(1, trained // 2)
    of_stretch: dict[int, list[float]] = {}
    for (number, before, piece), nats in zip(pairs, by_token, strict=True):
        own = reader.token_bytes(piece)
        starts = len(before.encode()) + np.concatenate([[0], np.cumsum(own)[:-1]])
        bits[number] += nats.sum() / math.log(2)
        sizes[number] += own.sum()
        for place, value, size in zip(starts // step, nats / math.log(2), own, strict=True):
            total = of_stretch.setdefault(int(place), [0.0, 0.0])
            total[0] += float(value)
            total[1] += float(size)
    ratio, error = over_documents(bits, sizes.astype(np.int64))
    # A sliver at either end, where a cut was moved to a space, is no stretch.
    stretches = tuple(
        Stretch(place * step, (place + 1) * step, b / s)
        for place, (b, s) in sorted(of_stretch.items())
        if s >= step * len(pairs) / 4
    )
    looked = None
    if attention and longest <= LONGEST_PAIRS:
        looked = attention_of(reader.network, rows, batch_size)
    return AtLength(
        times,
        length,
        float(np.mean([len(row) for row in rows])),
        ratio,
        error,
        0.0,
        0.0,
        stretches,
        looked,
        None,
        bits,
    )


# ------------------------------------------------------------------------------------------------------------ attention


@dataclass
class _Sums:
    """Weight and places, of one sublayer."""

    near: float = 0.0
    own: float = 0.0
    on_input: float = 0.0
    places: float = 0.0


class _Reducing(MutableMapping[tuple[str, int, int], Tensor]):
    """Takes each sublayer's weights as they are made, adds up what is asked of them, and lets them go."""

    def __init__(self, a: Architecture, streams: Mapping[str, Tokens], asked: Tensor, sums: dict) -> None:
        self.a, self.streams, self.asked, self.sums = a, streams, asked, sums

    def __setitem__(self, key: tuple[str, int, int], weights: Tensor) -> None:
        name, layer, sublayer = key
        stream = self.a.stream(name)
        if stream is not self.a.output_stream:
            return
        group = stream.expanded[layer].sublayers[sublayer]
        if group[0].mixer == "linear":  # its weights may be below 0: no shares
            return
        keys = [self.streams[read.keys] for read in group]
        position = torch.cat([k.position for k in keys], dim=1)
        real = torch.cat([k.document for k in keys], dim=1) != PADDING
        given = torch.cat([k.part for k in keys], dim=1) == INPUT
        same = torch.cat(
            [torch.full_like(k.part, read.keys == name) for read, k in zip(group, keys, strict=True)], 1
        )
        across = group[0].keys != name
        here = self.streams[name].position
        if across:  # the last tokens of what is read
            last = torch.where(real, position, -1).amax(dim=1)[:, None, None]
            near = position[:, None, :] > last - NEAR
        else:
            behind = here[:, :, None] - position[:, None, :]
            near = (behind >= 0) & (behind < NEAR) & same.bool()[:, None, :]
        # (B, Tq, Tk), the mean over heads, at the places that predict.
        shares = weights.float().mean(dim=1) * real[:, None, :]
        own = shares * (same.bool()[:, None, :] | across)
        asked = self.asked.float()
        total = self.sums.setdefault((layer, sublayer, across), _Sums())
        total.near += float(((shares * near).sum(-1) * asked).sum())
        total.own += float((own.sum(-1) * asked).sum())
        total.on_input += float(((shares * given[:, None, :]).sum(-1) * asked).sum())
        total.places += float(asked.sum())

    def __getitem__(self, key: tuple[str, int, int]) -> Tensor:
        raise KeyError(key)

    def __delitem__(self, key: tuple[str, int, int]) -> None:
        raise KeyError(key)

    def __iter__(self) -> Iterator[tuple[str, int, int]]:
        return iter(())

    def __len__(self) -> int:
        return 0


@torch.no_grad()
def attention_of(network: Transformer, rows: Sequence[Row], batch_size: int = 4) -> Attention:
    """Where the places that predict the rows' outputs look, by the reference attention; see `Attention`."""
    a = network.architecture
    stream = a.output_stream
    sums: dict[tuple[int, int, bool], _Sums] = {}
    training = network.training
    network.eval()
    try:
        for at in range(0, len(rows), batch_size):
            some = rows[at : at + batch_size]
            parts = [list(row.shown) for row in some], [[*row.begun, *row.asked] for row in some]
            streams = rows_of(a, *parts, 0, network.device)
            tokens = streams[stream.name]
            reducing: Any = _Reducing(a, streams, _predicting(tokens, stream, some), sums)
            network.hidden(streams, recorder=Recorder(reducing))
    finally:
        network.train(training)
    own = {key: one for key, one in sums.items() if not key[2]}
    cross = [one for key, one in sums.items() if key[2]]

    def share(top: float, bottom: float) -> float | None:
        return top / bottom if bottom else None

    by_layer = []
    for layer in range(stream.depth):
        of_layer = [one for key, one in own.items() if key[0] == layer]
        by_layer.append(share(sum(one.near for one in of_layer), sum(one.own for one in of_layer)))
    return Attention(
        share(sum(one.near for one in own.values()), sum(one.own for one in own.values())),
        share(sum(one.near for one in cross), sum(one.own for one in cross)),
        share(sum(one.on_input for one in sums.values()), sum(one.places for one in sums.values())),
        tuple(by_layer),
    )


def _predicting(tokens: Tokens, stream: Stream, rows: Sequence[Row]) -> Tensor:
    """Which places (B, T) of the last stream predict what is asked."""
    found = torch.zeros(tokens.ids.shape, dtype=torch.bool, device=tokens.ids.device)
    for number, row in enumerate(rows):
        first = len(row.begun) - 1 + (0 if stream.holds == "output" else len(row.shown))
        found[number, first : first + len(row.asked)] = True
    assert bool((found <= (tokens.document != PADDING)).all())
    return found


def as_json(found: Sequence[AtLength]) -> list[dict[str, Any]]:
    """The figures as JSON can hold them, without the blocks'."""

    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and math.isnan(value) else value

    told = []
    for at in found:
        one: dict[str, Any] = {"times": at.times, "bytes": at.bytes}
        if at.refused is not None:
            told.append({**one, "refused": at.refused})
            continue
        for name in ("tokens", "bits_per_byte", "standard_error", "rise", "rise_error"):
            one[name] = plain(getattr(at, name))
        one["by_position"] = [vars(stretch) for stretch in at.by_position]
        if at.attention is not None:
            one["attention"] = {**vars(at.attention), "by_layer": list(at.attention.by_layer)}
        told.append(one)
    return told
