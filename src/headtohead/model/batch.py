"""What a network is handed: token rows for each stream, and what it should predict.

Layouts (`headtohead.data.layouts`) make these from examples; nothing here knows how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from headtohead.model.visibility import Coordinates


@dataclass(frozen=True)
class Tokens:
    """Rows of one stream, integer tensors (B, T): ids, and where each token stands (see `Coordinates`)."""

    ids: Tensor
    position: Tensor
    document: Tensor
    part: Tensor

    @property
    def coordinates(self) -> Coordinates:
        return Coordinates(self.position, self.document, self.part)


@dataclass(frozen=True)
class Batch:
    """Streams by name in the architecture's order, and the next token at each place of the last stream.

    targets (B, T): ids, 0 where nothing is predicted.
    weights (B, T): 1.0 where the place carries loss.
    example (B, T): which example of the list given to the layout a target belongs to, -1 elsewhere.
    scored  (B, T): whether the target is text of the region (never a special token, never input).
    """

    streams: Mapping[str, Tokens]
    targets: Tensor
    weights: Tensor
    example: Tensor
    scored: Tensor
