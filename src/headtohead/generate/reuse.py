"""What may be kept of a cache when the text before the answer has grown: `model.reuse`, of tokens that are tensors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from headtohead.model import reuse
from headtohead.model.architecture import Architecture
from headtohead.model.batch import Tokens
from headtohead.model.reuse import Row, stretches

__all__ = ["split_of", "still_valid", "stretches"]


def still_valid(a: Architecture, before: Mapping[str, Tokens], after: Mapping[str, Tokens]) -> dict[str, int]:
    """For each stream, how many of its first tokens keep their states and keys when what is read changes from
    `before` (the tokens (1, T) that a cache was made of) to `after`.
    """
    then, now = ({name: _row(tokens) for name, tokens in streams.items()} for streams in (before, after))
    return reuse.still_valid(a, then, now)


def split_of(*of: Tokens) -> int:
    """The position of the output's first token, or the one after the last there is."""
    return reuse.split_of(*map(_row, of))


def _row(tokens: Tokens) -> Row:
    def first(axis: Tensor) -> np.ndarray:
        return axis[0].cpu().numpy()

    anchor = None if tokens.anchor is None else first(tokens.anchor)
    fields = (tokens.ids, tokens.position, tokens.document, tokens.part, tokens.step)
    return Row(*map(first, fields), anchor=anchor)
