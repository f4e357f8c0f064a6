"""What held-out text costs a network, in nats and in bits per byte: the same bytes, given the same input,
for every arm.

Scores are taken in fp32 whatever the training's precision was, over the text of the output alone: no
<end>, no mode token, no input. An example's score does not depend on what it is batched with (tested to
1e-4 nats).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headtohead.data.layouts import Layout
from headtohead.data.packing import check_fit
from headtohead.data.shards import Example
from headtohead.model.batch import Batch
from headtohead.model.transformer import Transformer

Nats = NDArray[np.float64]


def score_examples(
    model: Transformer, layout: Layout, examples: Sequence[Example], rows_per_batch: int
) -> Nats:
    """-ln p(output | input) of each example (N,), in nats, in the order given; tokens of the region only.

    The sum over an example's output tokens; neither an <end> nor, for arms trained on every token, the
    input counts.

    Raises:
        UserError: an example that fits in no row of the layout.
    """
    nats = np.zeros(len(examples))
    for numbers, batch, scores in _scored(model, layout, examples, rows_per_batch):
        _add(nats, numbers, batch, scores, batch.scored)
    return nats


def all_token_nats(
    model: Transformer, layout: Layout, examples: Sequence[Example], rows_per_batch: int
) -> Nats:
    """-ln p of input and output text of each example (N,), for an arm that learnt to predict both
    (`supervise = "all"`).

    What the mode token and <start> cost is nobody's: they are given. <end> is left out, as it is no text.

    Raises:
        ValueError: a layout that supervises the output alone.
        UserError: an example that fits in no row of the layout.
    """
    if layout.supervise != "all":
        raise ValueError(
            "only an arm that learnt from every token has a figure for every token (supervise = 'all')"
        )
    nats = np.zeros(len(examples))
    for numbers, batch, scores in _scored(model, layout, examples, rows_per_batch):
        # A supervised place is text unless it is an example's <end>: the one after its last scored place.
        after_text = torch.zeros_like(batch.scored)
        after_text[:, 1:] = batch.scored[:, :-1] & (batch.example[:, 1:] == batch.example[:, :-1])
        _add(nats, numbers, batch, scores, (batch.weights > 0) & (batch.scored | ~after_text))
    return nats


def _scored(
    model: Transformer, layout: Layout, examples: Sequence[Example], rows_per_batch: int
) -> Iterator[tuple[list[int], Batch, Tensor]]:
    """Examples in batches: their numbers in the batch's order, the batch, nats (B, T).

    An example is a row of its own beside others of about its length, and a batch has no more places than
    `rows_per_batch` rows of the layout. Packed rows of one shape took 1.2 to 1.4 times as long: half of the pairs
    that their queries and keys make are hidden, and an eager network needn't have one shape.
    """
    inputs, outputs = ([example.held[side] for example in examples] for side in (0, 1))
    order = sorted(range(len(examples)), key=lambda i: inputs[i] + outputs[i])
    check_fit(inputs, outputs, order, row=layout.row, side=layout.side)
    device = model.device
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            while order:
                longest = 2 + inputs[order[-1]] + outputs[order[-1]]
                many = max(1, rows_per_batch * layout.row // longest)
                numbers, order = order[-many:], order[:-many]
                batch = layout.batch([[examples[i]] for i in numbers]).trimmed().to(device)
                yield numbers, batch, model.score(batch)
    finally:
        model.train(training)


def _add(nats: Nats, numbers: Sequence[int], batch: Batch, scores: Tensor, counted: Tensor) -> None:
    """Add the counted places' nats to their examples', summed in fp64."""
    of_batch = torch.zeros(len(numbers), dtype=torch.float64, device=scores.device)
    of_batch.index_add_(0, batch.example[counted], scores[counted].double())
    nats[numbers] += of_batch.cpu().numpy()


def bits_per_byte(examples: Sequence[Example], nats: Nats, region: str) -> float:
    """All bits of a region's outputs over all their UTF-8 bytes; NaN for a region without examples."""
    own = [i for i, e in enumerate(examples) if e.region == region]
    if not own:
        return math.nan
    return float(nats[own].sum()) / math.log(2) / sum(examples[i].output_bytes for i in own)


@dataclass(frozen=True)
class ByDocument:
    """One region's outputs by document: the documents' numbers (ascending), their bytes and their bits."""

    documents: tuple[int, ...]
    bytes: tuple[int, ...]
    bits: tuple[float, ...]


def by_document(examples: Sequence[Example], nats: Nats, region: str) -> ByDocument:
    """Bits and bytes of a region, summed within each document: what `statistics` takes as given."""
    bits: dict[int, float] = {}
    sizes: dict[int, int] = {}
    for example, value in zip(examples, nats, strict=True):
        if example.region == region:
            bits[example.document] = bits.get(example.document, 0.0) + float(value) / math.log(2)
            sizes[example.document] = sizes.get(example.document, 0) + example.output_bytes
    order = sorted(bits)
    return ByDocument(tuple(order), tuple(sizes[d] for d in order), tuple(bits[d] for d in order))


def over_documents(
    bits: Sequence[float] | NDArray[np.float64], sizes: Sequence[int] | NDArray[np.int64]
) -> tuple[float, float]:
    """Bits per byte of documents taken together, and its standard error over documents (NaN for one).

    All bits over all bytes, r = Σb / Σs, is a ratio of two sums; its standard error is that of Σ(b - r s) over Σs, with
    the documents taken as drawn at random (Cochran, Sampling Techniques, 1977, 6.4).
    """
    b, s = np.asarray(bits, np.float64), np.asarray(sizes, np.float64)
    if not s.sum():
        return math.nan, math.nan
    ratio, n = float(b.sum() / s.sum()), len(b)
    if n < 2:
        return ratio, math.nan
    return ratio, math.sqrt(n / (n - 1) * float(np.square(b - ratio * s).sum())) / float(s.sum())


def value_of_input(
    model: Transformer,
    layout: Layout,
    examples: Sequence[Example],
    wrong: Sequence[Example],
    nats: Nats,
    regions: Sequence[str],
    rows_per_batch: int,
) -> dict[str, float]:
    """Bits per byte with a wrong input minus bits per byte with the right one (`nats`), by region.

    `wrong`: the examples with the input of another document's example of the same kind and nearly the same
    length (`data.objectives.wrong_inputs`).
    """
    astray = score_examples(model, layout, wrong, rows_per_batch)
    return {
        region: bits_per_byte(wrong, astray, region) - bits_per_byte(examples, nats, region)
        for region in regions
    }
