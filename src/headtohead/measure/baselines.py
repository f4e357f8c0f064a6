"""What costs nothing to train, to stand beside every figure: a general compressor and a 5-gram byte model.

Both are scored on the bytes the networks are scored on, and read the training text only. `baselines` gives

"xz": the scored outputs of a region one after another, compressed as one .xz file (LZMA2, preset 9 extreme,
header and checksum counted). It has seen no training text and no input.

"xz after the training text": what the outputs add to the compressed size once the compressor has been through
the training text. With R = size in raw LZMA2 (preset 9 extreme, a dictionary that holds it all), T = training
text, x and y = inputs and outputs in order, it is R(T x1 y1 x2 y2 …) - R(T x1 x2 …). This favours xz: it also
sees all examples before, which the networks don't.

"5-gram": `NGram` of order 5 trained on T, with the input's last bytes as context for the output's first.

Neither can use an input that isn't the text just before the output. In a restoration they are therefore not
shown the input at all: their figure is what the output costs by itself.
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headtohead.errors import UserError

Pairs = Sequence[tuple[str, str]]
"""Inputs and outputs, as text."""

EXTREME = 9 | lzma.PRESET_EXTREME
LARGEST_DICTIONARY = 256 * 2**20
"""Bytes xz looks back at most: it takes about 11 times as much memory."""


def baselines(
    training: Sequence[str], regions: Mapping[str, Pairs], order: int = 5
) -> dict[str, dict[str, float]]:
    """Bits per byte by baseline and region.

    Args:
        training: the training documents, whole.
        regions: region to its scored pairs. Give "" as the input where it isn't the text just before the
        output.

    Raises:
        UserError: a region without a byte to score.
    """
    text = "".join(training).encode()
    encoded = {region: [(x.encode(), y.encode()) for x, y in pairs] for region, pairs in regions.items()}
    outputs = {region: b"".join(y for _, y in pairs) for region, pairs in encoded.items()}
    for region, scored in outputs.items():
        if not scored:
            raise UserError(f"the {region} region holds no byte to score")
    inputs = {region: b"".join(x for x, _ in pairs) for region, pairs in encoded.items()}
    both = {region: b"".join(x + y for x, y in pairs) for region, pairs in encoded.items()}
    # The slow part: each stretch once, though regions may share it, two at a time (lzma lets other threads
    # run).
    stretches = list(dict.fromkeys([*inputs.values(), *both.values()]))
    with ThreadPoolExecutor(max_workers=2) as pool:
        sizes = dict(zip(stretches, pool.map(lambda data: _lzma2_size(text + data), stretches), strict=True))
    model = NGram.train([document.encode() for document in training], order)
    bits: dict[str, dict[str, float]] = {"xz": {}, "xz after the training text": {}, f"{order}-gram": {}}
    for region, pairs in encoded.items():
        bits["xz"][region] = 8 * len(lzma.compress(outputs[region], preset=EXTREME))
        bits["xz after the training text"][region] = 8 * (sizes[both[region]] - sizes[inputs[region]])
        bits[f"{order}-gram"][region] = float(model.bits(pairs).sum())
    return {
        name: {region: value / len(outputs[region]) for region, value in by_region.items()}
        for name, by_region in bits.items()
    }


def _lzma2_size(data: bytes) -> int:
    """Bytes of `data` as raw LZMA2: no header and no checksum, which would not cancel in a difference of
    sizes.
    """
    dictionary = min(LARGEST_DICTIONARY, max(2**20, len(data)))
    method = {"id": lzma.FILTER_LZMA2, "preset": EXTREME, "dict_size": dictionary}
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=[method]))


@dataclass(frozen=True)
class _Counts:
    """n-grams of one order: sorted codes and how often each occurs; sorted contexts with total and
    distinct followers.
    """

    codes: NDArray[np.uint64]
    counts: NDArray[np.float64]
    contexts: NDArray[np.uint64]
    totals: NDArray[np.float64]
    kinds: NDArray[np.float64]


class NGram:
    """Interpolated Witten-Bell over bytes (Witten & Bell 1991; formula as in Chen & Goodman 1998), exact.

    p(b | h) = (c(h b) + N(h) p(b | h')) / (c(h) + N(h)), where h is a context of up to order - 1 bytes, h'
    the same without its first byte, c how often, and N(h) how many different bytes follow h in training.
    Below the empty context stands the uniform 1/256; a context never seen leaves p(b | h') as it is. So
    every byte has a probability above zero, and the 256 of them sum to one. No n-gram reaches across the
    border of two documents.
    """

    def __init__(self, orders: Sequence[_Counts]) -> None:
        self.orders = tuple(orders)

    @classmethod
    def train(cls, documents: Sequence[bytes], order: int = 5) -> NGram:
        """Count n-grams of 1 to `order` bytes (8 at most: they are kept in 64 bits).

        Memory: about 40 times the training text. Raises ValueError for another order.
        """
        if not 1 <= order <= 8:
            raise ValueError(f"an order of {order}: n-grams of 1 to 8 bytes can be counted")
        data, place = _joined(documents)
        code = np.zeros(len(data), np.uint64)
        orders: list[_Counts] = []
        for n in range(1, order + 1):
            code = _longer(code, data, n)
            grams = np.sort(code[place >= n - 1])
            codes, counts = _runs(grams)
            first = np.flatnonzero(_starts(codes >> np.uint64(8)))
            orders.append(
                _Counts(
                    codes,
                    counts.astype(np.float64),
                    codes[first] >> np.uint64(8),
                    np.add.reduceat(counts, first).astype(np.float64) if len(first) else np.zeros(0),
                    np.diff(first, append=len(codes)).astype(np.float64),
                )
            )
        return cls(orders)

    def bits(self, pairs: Sequence[tuple[bytes, bytes]]) -> NDArray[np.float64]:
        """-log2 p of the second of each pair (N,), given the first before it; summed over its bytes."""
        data, place = _joined([x + y for x, y in pairs])
        owner = np.repeat(np.arange(len(pairs)), [len(x) + len(y) for x, y in pairs])
        scored = place >= np.array([len(x) for x, _ in pairs], dtype=np.int64)[owner]
        p = self._probabilities(data, place, np.flatnonzero(scored))
        return np.bincount(owner[scored], weights=-np.log2(p), minlength=len(pairs)).astype(np.float64)

    def distribution(self, context: bytes) -> NDArray[np.float64]:
        """p of each of the 256 bytes after `context`."""
        data, place = _joined([context + bytes([b]) for b in range(256)])
        return self._probabilities(data, place, np.arange(1, 257) * (len(context) + 1) - 1)

    def _probabilities(
        self, data: NDArray[np.uint8], place: NDArray[np.int64], at: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """p of the bytes at the places `at` of `data`, each given those before it in its own text."""
        p = np.full(len(at), 1 / 256)
        code = np.zeros(len(data), np.uint64)
        for n, counts in enumerate(self.orders, start=1):
            code = _longer(code, data, n)
            known = np.flatnonzero(place[at] >= n - 1)
            grams = code[at[known]]
            context, seen = _find(counts.contexts, grams >> np.uint64(8))
            known, grams, context = known[seen], grams[seen], context[seen]
            gram, there = _find(counts.codes, grams)
            count = np.zeros(len(known))
            count[there] = counts.counts[gram[there]]
            kinds = counts.kinds[context]
            p[known] = (count + kinds * p[known]) / (counts.totals[context] + kinds)
        return p


def _joined(texts: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All bytes one after another, and the place of each in its own text."""
    lengths = np.array([len(t) for t in texts], dtype=np.int64)
    starts = np.cumsum(lengths) - lengths
    data = np.frombuffer(b"".join(texts), np.uint8)
    return data, np.arange(len(data)) - np.repeat(starts, lengths)


def _longer(code: NDArray[np.uint64], data: NDArray[np.uint8], n: int) -> NDArray[np.uint64]:
    """Codes of the n-grams that end at each place, from those of n - 1 bytes: one more byte on top.

    The last byte is the lowest, so that a code without its low byte is the code of its context.
    """
    longer = code.copy()
    longer[n - 1 :] |= data[: max(0, len(data) - n + 1)].astype(np.uint64) << np.uint64(8 * (n - 1))
    return longer


def _starts(values: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Where a run of equal values begins."""
    begins = np.ones(len(values), np.bool_)
    begins[1:] = values[1:] != values[:-1]
    return begins


def _runs(values: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The different ones of sorted values, and how often each is there."""
    first = np.flatnonzero(_starts(values))
    return values[first], np.diff(first, append=len(values))


def _find(
    table: NDArray[np.uint64], values: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each value stands in a sorted table, and whether it does."""
    if not len(table):
        return np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)
    at = np.minimum(np.searchsorted(table, values), len(table) - 1)
    return at, table[at] == values
