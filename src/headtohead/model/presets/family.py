"""What a preset is made of: a family describes a network at any size, and lists sizes by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from headtohead.model.architecture import Architecture, Layer, Read, Stream


@dataclass(frozen=True)
class Size:
    """The numbers of a network. `depths`: layers of each stream. `key_heads`: None for as many as `heads`.
    `context`: rows of a table of learned positions. `tied`: whether the head's matrix is that of the
    embeddings, where a family's sizes differ in it. `encoder`: the input stream's numbers (of `d_model`,
    `d_ff`, `heads`, `d_head`, `key_heads`), where it is of another width.
    """

    d_model: int
    d_ff: int
    heads: int
    d_head: int
    vocabulary: int
    depths: tuple[int, ...]
    key_heads: int | None = None
    context: int = 2048
    tied: bool = True
    encoder: Size | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """What `Architecture` takes as it is."""
        return {
            "d_model": self.d_model,
            "heads": self.heads,
            "d_head": self.d_head,
            "key_heads": self.key_heads,
            "vocabulary": self.vocabulary,
        }

    def with_depths(self, *depths: int) -> Size:
        """The same numbers with other depths."""
        return replace(self, depths=depths)


@dataclass(frozen=True)
class Family:
    """A network at any size: `describe(name, size)`.

    `source`: where it is from, with the paper's number. `about`: some ten lines in Markdown for a reader who
    knows Transformers: what sets it apart, what is as published and what we chose.
    """

    name: str
    title: str
    source: str
    about: str
    describe: Callable[[str, Size], Architecture]
    sizes: Mapping[str, Size]

    @property
    def streams(self) -> int:
        """How many depths a `Size` needs."""
        return len(next(iter(self.sizes.values())).depths)


LAPTOP = {
    "nano": Size(128, 512, 4, 32, 1024, (3,), context=512),
    "micro": Size(256, 1024, 4, 64, 4096, (3,), context=1024),
    "mini": Size(384, 1536, 6, 64, 8192, (6,), context=1024),
}
"""Laptop sizes of one stack."""
LAPTOP_PAIRS = {
    name: replace(LAPTOP[name], depths=depths)
    for name, depths in (("nano", (1, 1)), ("micro", (1, 1)), ("mini", (2, 3)))
}
"""Laptop sizes of an encoder and a decoder, of nearly as many parameters."""


def read(keys: str, rule: str, merged: bool = False, mixer: Literal["softmax", "linear"] = "softmax") -> Read:
    """A read within each document."""
    return Read.model_validate(
        {"keys": keys, "visibility": f"({rule}) & same_document", "merged": merged, "mixer": mixer}
    )


def pattern(
    name: str, holds: Literal["input", "output", "both"], depth: int, *layers: Layer, **more: Any
) -> Stream:
    """A stream whose list of layers is gone through until there are `depth`."""
    if len(layers) == 1:
        layers = (Layer(reads=layers[0].reads, d_ff=layers[0].d_ff, repeat=depth),)
        return Stream(name=name, holds=holds, layers=layers, **more)
    return Stream(name=name, holds=holds, layers=layers, cycle_to=depth, **more)
