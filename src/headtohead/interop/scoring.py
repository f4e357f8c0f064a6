"""Scores of texts by a loaded network: exact where it writes from left to right, pseudo where it fills holes.

Input and output are parted on bytes, that is as two texts, and then tokenized each by itself: the same for every
network, whatever its tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from headtohead.data.objectives.words import words
from headtohead.errors import UserError
from headtohead.interop.frame import Frame
from headtohead.interop.own import fills, separate
from headtohead.interop.tokens import Text, encoded_with_ends
from headtohead.measure.likelihood import (
    ROWS_AT_ONCE,
    Array,
    Filled,
    Likelihood,
    Row,
    Scored,
    pseudo_nats,
    token_nats,
)
from headtohead.model.architecture import Architecture
from headtohead.model.transformer import Transformer


def likelihood_of(a: Architecture, frame: Frame) -> Likelihood:
    """What a network's scores are: pseudo where a place sees its answer, or holes are what it learnt to fill."""
    return "pseudo" if fills(a, frame) else "exact"


def score_texts(
    network: Transformer,
    frame: Frame,
    tokenizer: Text,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    batch_size: int = ROWS_AT_ONCE,
    left: bool = False,
    on_progress: Callable[[int], None] | None = None,
) -> Scored:
    """-ln p(output | input) of each pair; see `Scored` and `measure.likelihood`.

    Raises:
        UserError: as many inputs as outputs are needed; nothing stands before an output's first token; too long for
            learned positions; a network that fills holes without a mask token.
    """
    by_token = nats_by_token(
        network,
        frame,
        tokenizer,
        inputs,
        outputs,
        batch_size=batch_size,
        left=left,
        on_progress=on_progress,
    )
    return Scored(
        np.array([nats.sum() for nats in by_token], np.float64),
        np.array([len(nats) for nats in by_token], np.int64),
        np.array([len(text.encode()) for text in outputs], np.int64),
        likelihood_of(network.architecture, frame),
    )


def nats_by_token(
    network: Transformer,
    frame: Frame,
    tokenizer: Text,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    batch_size: int = ROWS_AT_ONCE,
    left: bool = False,
    on_progress: Callable[[int], None] | None = None,
    best: list[bool] | None = None,
) -> list[Array]:
    """-ln p of each token (n,) of each output. See `score_texts`; `best` as in `token_nats`."""
    if len(inputs) != len(outputs):
        raise UserError(
            f"score got {len(inputs)} inputs and {len(outputs)} outputs: each input needs its output"
        )
    pad = frame.pad
    if likelihood_of(network.architecture, frame) == "exact":
        rows = [
            framed_row(network.architecture, frame, tokenizer.encode(given), tokenizer.encode(output))
            for given, output in zip(inputs, outputs, strict=True)
        ]
        return token_nats(network, rows, batch_size=batch_size, pad=pad, left=left, on_progress=on_progress)
    mask = mask_of(network.architecture, frame)
    texts = [_filled(frame, tokenizer, *pair) for pair in zip(inputs, outputs, strict=True)]
    return pseudo_nats(
        network, texts, mask, batch_size=batch_size, pad=pad, left=left, on_progress=on_progress, best=best
    )


def framed_row(a: Architecture, frame: Frame, given: Sequence[int], asked: Sequence[int]) -> Row:
    """An input's and an output's ids as the network learnt to see them.

    A network that puts nothing before a text knows its beginning by the end of the text before it: it learnt from
    documents one after another, parted by the token that ends them, and that one is given.
    """
    shown, begun = frame.around(given)
    if frame.ends and not (begun if separate(a) else [*shown, *begun]):
        (begun if separate(a) else shown).append(frame.ends[0])
    return Row(shown, begun, asked)


def mask_of(a: Architecture, frame: Frame) -> int:
    """The token that hides another. Raises UserError where there is none, or the network has two streams."""
    if frame.mask is None or a.two_streams:
        why = "it has two streams" if a.two_streams else "it has no mask token"
        raise UserError(
            f"{a.name} fills holes, so that its score is a pseudo-likelihood, and {why}: ask for its logits or "
            "hidden states"
        )
    return frame.mask


def _filled(frame: Frame, tokenizer: Text, given: str, output: str) -> Filled:
    """Input and output as one text, whose output is to be told."""
    before = [*frame.before, *tokenizer.encode(given)]
    ids, ends = encoded_with_ends(tokenizer, output)
    return Filled([*before, *ids, *frame.after], len(before), _words(output, ends))


def _words(text: str, ends: Sequence[int]) -> list[int]:
    """The word that each token's last byte is in (a token may begin with the space before its word)."""
    edges = np.cumsum([len(piece.encode()) for piece in words(text)])
    return [int(np.searchsorted(edges, max(end, 1), side="left")) for end in ends]


def token_bytes(ends: Sequence[int]) -> np.ndarray:
    """The bytes (n,) that each token adds, from where tokens end."""
    return np.array([after - before for before, after in pairwise([0, *ends])], np.int64)
