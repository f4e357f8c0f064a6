"""Weights as the kernel reads them: panels of 32 outputs, one after another, in one piece of memory."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from headtohead.generate.native import structs

PANEL = 32
HUGE = 2**21
MADV_HUGEPAGE = 14

Type = Literal["fp32", "bf16", "int8"]
Quantized = Mapping[str, tuple[Tensor, Tensor]]
"""By parameter's name: int8 values (n, k), and a scale (n) for each output."""


@dataclass(frozen=True)
class Part:
    """One matrix (n, k) as it goes into a product, or a part of one: fp32, or int8 with its scales."""

    values: Tensor
    scale: Tensor | None = None
    bias: Tensor | None = None

    def rows(self, chosen: slice) -> Part:
        """Some of the outputs."""
        some = [None if t is None else t[chosen] for t in (self.values, self.scale, self.bias)]
        assert some[0] is not None
        return Part(some[0], some[1], some[2])


def padded(x: Tensor, rows: int) -> Tensor:
    """Zeros after the first axis up to a multiple of `rows`."""
    return F.pad(x, (*[0, 0] * (x.ndim - 1), 0, -x.shape[0] % rows))


def panels(values: Tensor, kind: Type) -> Tensor:
    """A matrix (n, k) of whole panels as the kernel wants it: bf16 (n / 32, k / 2, 32, 2), its inner axis padded to
    pairs; else (n / 32, k, 32).
    """
    if kind == "bf16":
        values = F.pad(values.float(), (0, values.shape[1] % 2)).bfloat16()
        return values.view(-1, PANEL, values.shape[1] // 2, 2).permute(0, 2, 1, 3).contiguous()
    kept = values if kind == "int8" else values.float()
    return kept.view(-1, PANEL, kept.shape[1]).permute(0, 2, 1).contiguous()


class Store:
    """Keeps all that structures point to. `bytes`: of the packed matrices."""

    def __init__(self, kind: Type) -> None:
        self.kind: Type = kind
        self.bytes = 0
        self._alive: list[object] = []
        self._made: dict[tuple[object, ...], structs.Matrix] = {}

    def point(self, x: Tensor | None) -> int | None:
        """The address of a tensor's data, in fp32 and in one piece; None stays None."""
        if x is None:
            return None
        kept = x.detach().float().contiguous().clone()
        self._alive.append(kept)
        return kept.data_ptr()

    def hold(self, x: Tensor) -> int:
        """The address of a tensor's data as it is."""
        self._alive.append(x)
        return x.data_ptr()

    def keep(self, structures: ctypes.Array[Any]) -> None:
        """Keep what a structure points to."""
        self._alive.append(structures)

    def matrix(
        self, key: tuple[object, ...], parts: Sequence[Part], interleaved: bool = False
    ) -> structs.Matrix:
        """Matrices below one another as one, packed; `interleaved`: two, a panel of each in turn. One key is packed
        once.
        """
        if key in self._made:
            return self._made[key]
        whole: list[Tensor | None] = []
        for field in ("values", "scale", "bias"):
            found = [getattr(part, field) for part in parts]
            if any(x is None for x in found):
                whole.append(None)
            elif interleaved:
                both = [padded(x, PANEL).unflatten(0, (-1, PANEL)) for x in found]
                whole.append(torch.stack(both, dim=1).flatten(0, 2))
            else:
                whole.append(padded(torch.cat(found), PANEL))
        values, scale, bias = whole
        assert values is not None
        n = values.shape[0] if interleaved else sum(part.values.shape[0] for part in parts)
        packed = _in_huge_pages(panels(values, self.kind))
        self._alive.append(packed)
        self.bytes += packed.numel() * packed.element_size()
        made = structs.Matrix(packed.data_ptr(), self.point(scale), self.point(bias), n, values.shape[1])
        self._made[key] = made
        return made


def _in_huge_pages(x: Tensor) -> Tensor:
    """The same in memory that the system is asked to hold in large pages: reading it takes fewer look-ups."""
    size = x.numel() * x.element_size()
    if size < HUGE:
        return x
    room = torch.empty(size + HUGE, dtype=torch.uint8)
    first = -room.data_ptr() % HUGE
    try:
        libc = ctypes.CDLL(None)
        libc.madvise(
            ctypes.c_void_p(room.data_ptr() + first), ctypes.c_size_t(size // HUGE * HUGE), MADV_HUGEPAGE
        )
    except (OSError, AttributeError):  # advice alone: without it the memory is the same
        pass
    moved = room[first : first + size].view(x.dtype).view(x.shape)
    moved.copy_(x)
    return moved
