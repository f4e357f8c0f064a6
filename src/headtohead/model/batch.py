"""What a network is handed: token rows for each stream, and what it should predict.

Layouts (`headtohead.data.layouts`) make these from examples; nothing here knows how.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from headtohead.model.visibility import PADDING, Coordinates


def wide(x: Tensor) -> Tensor:
    """In fp32 at least: what norms, softmaxes and losses are computed in. fp64 stays."""
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True)
class Tokens:
    """Rows of one stream, integer tensors (B, T): ids, and where each token stands (see `Coordinates`).

    `step` is a token's place within the output: 1, 2, …, and 0 for the input and for padding; under
    two-dimensional positions, its place within its span. `anchor` is the position of the input that its span
    stands for (its own, for a token of the input); None: the input's last.
    """

    ids: Tensor
    position: Tensor
    document: Tensor
    part: Tensor
    step: Tensor
    anchor: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> Tokens:
        """The same change to each of the tensors."""
        changed = map(function, (self.ids, self.position, self.document, self.part, self.step))
        return Tokens(*changed, anchor=None if self.anchor is None else function(self.anchor))

    @property
    def coordinates(self) -> Coordinates:
        return Coordinates(self.position, self.document, self.part)

    @property
    def longest(self) -> int:
        """Places in the longest row, without the padding on its right."""
        places = torch.arange(1, self.ids.shape[1] + 1, device=self.ids.device)
        return int((places * (self.document != PADDING)).max())

    def trimmed(self) -> Tokens:
        """Without the places that hold padding in every row, on the right."""
        n = self.longest
        return self.map(lambda part: part[:, :n])


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

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same change to every tensor."""
        return replace(
            self,
            streams={name: tokens.map(function) for name, tokens in self.streams.items()},
            targets=function(self.targets),
            weights=function(self.weights),
            example=function(self.example),
            scored=function(self.scored),
        )

    def trimmed(self) -> Self:
        """Each stream without the places that hold padding in every row, on the right."""
        streams = {name: tokens.trimmed() for name, tokens in self.streams.items()}
        n = next(reversed(streams.values())).ids.shape[1]
        labels = {name: getattr(self, name)[:, :n] for name in ("targets", "weights", "example", "scored")}
        return replace(self, streams=streams, **labels)

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        """The batch on a device; itself when it is there."""
        if self.targets.device == device:
            return self
        return self.map(lambda field: field.to(device, non_blocking=non_blocking))
