"""What an output's tokens cost a network after an input, from rows of ids: exactly, or as a pseudo-likelihood.

A network that never sees a later token of its output gives each of them a probability after all that came before
it, and their product is the output's probability: the score is *exact*. A network that fills holes has no such
product. Each token is hidden in turn and told from the others; the sum of -ln p is a *pseudo*-log-likelihood
(Salazar et al. 2020, arXiv 1910.14659): of no distribution over texts, a bound on none, and for comparisons among
such networks alone. A token whose word goes on would give itself away by the rest of its word, so the tokens of its
word after it are hidden too (PLL-word-l2r, Kauf and Ivanova 2023, arXiv 2305.10588).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from headtohead.errors import UserError
from headtohead.generate.prompts import rows_of
from headtohead.model.architecture import Architecture
from headtohead.model.batch import Batch, Tokens
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import PADDING

Likelihood = Literal["exact", "pseudo"]
Array = NDArray[np.float64]
ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Scored:
    """-ln p(output | input) of pairs, in nats: of the outputs' text alone, never of their end.

    nats (N,); tokens (N,) and bytes (N,) of the outputs, the tokens as this network's tokenizer has them.
    likelihood: "pseudo" figures are never to be compared with "exact" ones.
    """

    nats: Array
    tokens: NDArray[np.int64]
    bytes: NDArray[np.int64]
    likelihood: Likelihood

    @property
    def bits_per_byte(self) -> float:
        """All bits over all UTF-8 bytes; NaN without a byte."""
        return _over(float(self.nats.sum()) / math.log(2), int(self.bytes.sum()))

    @property
    def nats_per_token(self) -> float:
        """All nats over all tokens; NaN without a token."""
        return _over(float(self.nats.sum()), int(self.tokens.sum()))


def _over(total: float, amount: int) -> float:
    return total / amount if amount else math.nan


@dataclass(frozen=True)
class Row:
    """What a network that writes is given of a pair, as ids: `shown` in the input part, `begun` of the output part,
    and `asked`, the output's text, which is scored.
    """

    shown: Sequence[int]
    begun: Sequence[int]
    asked: Sequence[int]

    def __len__(self) -> int:
        return len(self.shown) + len(self.begun) + len(self.asked)


@dataclass(frozen=True)
class Filled:
    """What a network that fills holes is given: `ids`, of which those from `first` on are scored, one for each of
    `words`: the number of the word that the token belongs to.
    """

    ids: Sequence[int]
    first: int
    words: Sequence[int]

    def __len__(self) -> int:
        return len(self.ids)


def token_nats(
    network: Transformer,
    rows: Sequence[Row],
    *,
    batch_size: int = ROWS_AT_ONCE,
    pad: int = 0,
    left: bool = False,
    on_progress: Callable[[int], None] | None = None,
    best: list[bool] | None = None,
) -> list[Array]:
    """-ln p of each asked token (n,) of each row, in the order given, in fp32.

    What a row is batched with changes nothing (tested to 1e-4 nats). `left`: rows are padded on the left; positions
    are coordinates, so that changes nothing either. `on_progress` gets the number of rows done. `best`, if given, is
    filled with whether each row's tokens are all the most probable ones.

    Raises:
        UserError: nothing stands before a row's first asked token; more tokens than learned positions.
    """
    a = network.architecture
    apart = a.output_stream.holds == "output"
    for row in rows:
        if row.asked and not (row.begun if apart else [*row.shown, *row.begun]):
            raise UserError(
                f"{a.name} has no token that begins a text, so it can't score an output after an empty input: "
                "give an input"
            )
    found: list[Array] = [np.zeros(0)] * len(rows)
    if best is not None:
        best[:] = [True] * len(rows)

    def batch_of(numbers: Sequence[int]) -> tuple[Batch, list[tuple[int, int]]]:
        some = [rows[i] for i in numbers]
        parts = [list(r.shown) for r in some], [[*r.begun, *r.asked] for r in some]
        streams = rows_of(a, *parts, pad, network.device, left=left)
        firsts = [len(row.begun) - 1 + (0 if apart else len(row.shown)) for row in some]
        return _asking(
            streams, a, [(first, row.asked) for first, row in zip(firsts, some, strict=True)], left
        )

    lengths = list(map(len, rows))
    for numbers, nats, gaps, places in _batches(
        network, lengths, batch_size, batch_of, on_progress, best is not None
    ):
        for row, (number, (first, count)) in enumerate(zip(numbers, places, strict=True)):
            found[number] = nats[row, first : first + count]
            if best is not None:
                best[number] = not gaps[row, first : first + count].any()
    return found


def pseudo_nats(
    network: Transformer,
    texts: Sequence[Filled],
    mask: int,
    *,
    batch_size: int = ROWS_AT_ONCE,
    pad: int = 0,
    left: bool = False,
    on_progress: Callable[[int], None] | None = None,
    best: list[bool] | None = None,
) -> list[Array]:
    """-ln p of each scored token of each text, with it and the later tokens of its word hidden by `mask`.

    Everything stands in the input part. One pass for each token, so it costs as many times a likelihood as there are
    tokens. Otherwise as `token_nats`.
    """
    a = network.architecture
    found = [np.zeros(len(text.words)) for text in texts]
    if best is not None:
        best[:] = [True] * len(texts)
    holes = [(number, place) for number, text in enumerate(texts) for place in range(len(text.words))]

    def hidden(number: int, place: int) -> list[int]:
        """The text with a token, and those of its word after it, hidden."""
        text = texts[number]
        ids = list(text.ids)
        for later in range(place, len(text.words)):
            if text.words[later] == text.words[place]:
                ids[text.first + later] = mask
        return ids

    def batch_of(numbers: Sequence[int]) -> tuple[Batch, list[tuple[int, int]]]:
        some = [holes[i] for i in numbers]
        shown = [hidden(*hole) for hole in some]
        streams = rows_of(a, shown, [[] for _ in some], pad, network.device, left=left)
        at = [(texts[number].first + place, texts[number].ids) for number, place in some]
        return _asking(streams, a, [(place, [ids[place]]) for place, ids in at], left)

    lengths = [len(texts[number]) for number, _ in holes]
    for numbers, nats, gaps, places in _batches(
        network, lengths, batch_size, batch_of, on_progress, best is not None
    ):
        for row, (at, (place, _)) in enumerate(zip(numbers, places, strict=True)):
            number, token = holes[at]
            found[number][token] = nats[row, place]
            if best is not None:
                best[number] &= not gaps[row, place]
    return found


def _batches(
    network: Transformer,
    lengths: Sequence[int],
    batch_size: int,
    batch_of: Callable[[Sequence[int]], tuple[Batch, list[tuple[int, int]]]],
    on_progress: Callable[[int], None] | None,
    gaps: bool,
) -> Iterator[tuple[list[int], Array, Array, list[tuple[int, int]]]]:
    """Rows by length, so that few places are padding: their numbers, nats (B, T), the places that are asked, and with
    `gaps` how many nats the most probable token costs less (else 0).
    """
    if batch_size < 1:
        raise UserError(f"batch_size = {batch_size}: give a whole number from 1 up")
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), torch.autocast(network.device.type, enabled=False):
            for at in range(0, len(order), batch_size):
                numbers = order[at : at + batch_size]
                batch, places = batch_of(numbers)
                nats = network.score(batch).double().cpu().numpy()
                yield numbers, nats, _gaps(network, batch) if gaps else np.zeros_like(nats), places
                if on_progress is not None:
                    on_progress(at + len(numbers))
    finally:
        network.train(training)


def _gaps(network: Transformer, batch: Batch) -> Array:
    """By how much another token's logit is above the target's (B, T), where one is asked; 0 elsewhere."""
    h = network.hidden(batch.streams).flatten(0, 1)
    carries = batch.weights.flatten().nonzero().squeeze(1)
    found = torch.zeros(h.shape[0], device=h.device)
    for places in carries.split(1024):
        logits = network.next_logits(h[places])
        own = logits.gather(1, batch.targets.flatten()[places][:, None])[:, 0]
        found[places] = (logits.amax(dim=1) - own).float()
    return found.view(batch.targets.shape).double().cpu().numpy()


def _asking(
    streams: Mapping[str, Tokens], a: Architecture, asked: Sequence[tuple[int, Sequence[int]]], left: bool
) -> tuple[Batch, list[tuple[int, int]]]:
    """A batch that asks, in each row, for some ids from a place of the last stream on; and where, padding counted."""
    tokens = streams[a.output_stream.name]
    targets, weights = torch.zeros_like(tokens.ids), torch.zeros(tokens.ids.shape, device=tokens.ids.device)
    before = (tokens.document == PADDING).sum(dim=1).tolist() if left else [0] * len(asked)
    places: list[tuple[int, int]] = []
    for row, ((first, ids), shift) in enumerate(zip(asked, before, strict=True)):
        these = slice(first + shift, first + shift + len(ids))
        targets[row, these], weights[row, these] = torch.tensor(ids, device=targets.device), 1
        places.append((first + shift, len(ids)))
    return Batch(streams, targets, weights, torch.zeros_like(targets), weights > 0), places
