"""What a preset is made of: a family describes a network at any size, and lists sizes by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from headtohead.model.architecture import Architecture


@dataclass(frozen=True)
class Size:
    """The numbers of a network. `depths`: layers of each stream. `key_heads`: None for as many as `heads`.
    `context`: rows of a table of learned positions. `encoder`: the input stream's numbers (of `d_model`,
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
