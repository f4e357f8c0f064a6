"""Sizes that bring one architecture to another's number of parameters.

Width and heads are held; layers and d_ff (in multiples of 16) may change, and what changed is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture
from headtohead.model.budget import parameters

D_FF_STEP = 16
D_FF_RANGE = (1, 8)
"""d_ff stays between these multiples of d_model, so that a match is never bought with a degenerate
feed-forward.
"""
DEEPEST = 256
"""Layers, over all streams, beyond which no match is looked for."""


@dataclass(frozen=True)
class Match:
    """An architecture brought to a target.

    mismatch: parameters / target - 1, signed. changes: what differs from the template, in words, such as
    ``"d_ff 512 -> 768"``. The depth is always declared, since it is a difference between arms of equal
    parameters.
    """

    architecture: Architecture
    target: int
    parameters: int
    mismatch: float
    changes: tuple[str, ...]

    @property
    def depths(self) -> tuple[int, ...]:
        """Layers of each stream."""
        return self.architecture.depths

    def __str__(self) -> str:
        depth = "+".join(map(str, self.depths))
        changed = ", ".join(self.changes) or "unchanged"
        return (
            f"{self.architecture.name}: {self.parameters:,} parameters "
            f"({self.mismatch:+.2%} of {self.target:,}), {depth} layers, {changed}"
        )


def apart(a: Architecture, b: Architecture) -> float:
    """How far apart two architectures' parameters are, as a share of the larger: 0.12 for the published 150M
    pair.
    """
    sizes = sorted(parameters(x)["total"] for x in (a, b))
    return 1 - sizes[0] / sizes[1]


def match_parameters(a: Architecture, target: int, tolerance: float = 0.01) -> Match:
    """`a` with about `target` parameters: fewest kinds of change (none; layers or d_ff; both), then nearest.

    Where both must change, the fewest layers are added or taken away; a stream's share of the layers stays as
    near as whole numbers allow to its share in `a`. Layers are held where a stream has a pattern of several,
    d_ff where layers have different ones.

    Raises:
        UserError: if nothing comes within `tolerance` of the target, with the nearest that was found.
    """
    best: tuple[tuple[int, int, float, float], Architecture] | None = None
    nearest: tuple[float, Architecture] | None = None
    for candidate, changed, moved in _candidates(a, target):
        gap = abs(parameters(candidate)["total"] / target - 1)
        if nearest is None or gap < nearest[0]:
            nearest = (gap, candidate)
        # Two arms that differ in depth differ in more than their feed-forward: ties go to the same depth.
        rank = (changed, moved if changed == 2 else 0, gap, moved)
        if gap <= tolerance and (best is None or rank < best[0]):
            best = (rank, candidate)
    if best is None:
        assert nearest is not None
        found = parameters(nearest[1])["total"]
        raise UserError(
            f"'{a.name}' can't be brought within {tolerance:.1%} of {target:,} parameters at width "
            f"{a.d_model}: the nearest is {found:,}, with {'+'.join(map(str, nearest[1].depths))} layers and "
            f"d_ff {_d_ff(nearest[1])}; change the width or the target"
        )
    found = parameters(best[1])["total"]
    return Match(best[1], target, found, found / target - 1, _changes(a, best[1]))


def _candidates(a: Architecture, target: int) -> Iterator[tuple[Architecture, int, int]]:
    """(architecture, kinds of change, layers moved), for every depth with its two nearest d_ff and its
    own.
    """
    for depths in _depths(a, target):
        moved = sum(abs(new - old) for new, old in zip(depths, a.depths, strict=True))
        deep = a.resized(depths=depths) if moved else a
        yield deep, int(moved > 0), moved
        if _d_ff(a) is not None:
            yield from ((a_, 1 + int(moved > 0), moved) for a_ in _with_d_ff_near(deep, target))


def _depths(a: Architecture, target: int) -> Iterator[tuple[int, ...]]:
    """The template's depths, then every total up to the target, split between the streams as the template
    is.
    """
    yield a.depths
    if any(len(stream.layers) > 1 for stream in a.streams):
        return
    whole = sum(a.depths)
    for total in range(len(a.streams), max(whole, DEEPEST) + 1):
        first = min(max(round(total * a.depths[0] / whole), 1), total - len(a.streams) + 1)
        depths = (total,) if len(a.streams) == 1 else (first, total - first)
        if depths != a.depths:
            yield depths
        if parameters(_thinnest(a.resized(depths=depths)))["total"] > target:
            return


def _thinnest(a: Architecture) -> Architecture:
    return a if _d_ff(a) is None else a.resized(d_ff=_lowest(a))


def _with_d_ff_near(a: Architecture, target: int) -> Iterator[Architecture]:
    """`a` with the two widths of feed-forward on either side of the target, where they are in range."""
    base = parameters(a.resized(d_ff=D_FF_STEP))["total"]
    step = parameters(a.resized(d_ff=2 * D_FF_STEP))["total"] - base
    below = D_FF_STEP * (1 + (target - base) // step)
    highest = D_FF_RANGE[1] * a.d_model // D_FF_STEP * D_FF_STEP
    for d_ff in {min(max(near, _lowest(a)), highest) for near in (below, below + D_FF_STEP)} - {_d_ff(a)}:
        yield a.resized(d_ff=d_ff)


def _lowest(a: Architecture) -> int:
    return -(-D_FF_RANGE[0] * a.d_model // D_FF_STEP) * D_FF_STEP


def _d_ff(a: Architecture) -> int | None:
    """The width of every feed-forward, if they are alike."""
    widths = {layer.d_ff for stream in a.streams for layer in stream.layers}
    return widths.pop() if len(widths) == 1 else None


def _changes(old: Architecture, new: Architecture) -> tuple[str, ...]:
    changes = []
    if old.depths != new.depths:
        changes.append(f"layers {'+'.join(map(str, old.depths))} -> {'+'.join(map(str, new.depths))}")
    if _d_ff(old) != _d_ff(new):
        changes.append(f"d_ff {_d_ff(old)} -> {_d_ff(new)}")
    return tuple(changes)
