"""Sizes that bring one architecture to another's parameters, FLOPs or cache, and how many examples bring it to
another's supervised tokens.

Width and heads are held; layers and d_ff (in multiples of 16) may change, for the bytes of a cache layers and
heads of keys; and what changed is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture
from headtohead.model.budget import cache_bytes, flops, parameters, places

On = Literal[
    "parameters", "non_embedding", "training_flops", "inference_flops", "decode_flops", "cache_bytes"
]
"""What two networks can be made equal in by their shapes."""
QUANTITIES: dict[On, str] = {
    "parameters": "parameters",
    "non_embedding": "parameters without embeddings",
    "training_flops": "training FLOPs of an example",
    "inference_flops": "FLOPs to read the input and write the output",
    "decode_flops": "FLOPs to write a token, the input once read",
    "cache_bytes": "bytes of cache, bf16",
}
Measure = Callable[[Architecture], float]


def quantity(on: On, input: int, output: int) -> Measure:
    """How much of a quantity a network has, for an example of so many tokens.

    Training FLOPs are with the head at the output's places. Inference FLOPs are prefill and decoding.

    Raises:
        UserError: an unknown quantity.
    """
    measures: dict[On, Measure] = {
        "parameters": lambda a: parameters(a)["total"],
        "non_embedding": lambda a: parameters(a)["non_embedding"],
        "training_flops": lambda a: flops(a, input, output)["training"],
        "inference_flops": lambda a: flops(a, input, output)["forward"],
        "decode_flops": lambda a: flops(a, input, output)["decode_per_token"],
        "cache_bytes": lambda a: cache_bytes(a, input, output),
    }
    if on not in measures:
        raise UserError(f"networks can't be matched on '{on}': choose one of {', '.join(get_args(On))}")
    return measures[on]


def quantities(a: Architecture, input: int, output: int) -> dict[On, float]:
    """All of them, of one network."""
    return {on: quantity(on, input, output)(a) for on in QUANTITIES}


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

    found: the matched quantity, of this network. mismatch: found / target - 1, signed. changes: what differs
    from the template, in words, such as ``"d_ff 512 -> 768"``. The depth is always declared, since it is a
    difference between arms of equal parameters.
    """

    architecture: Architecture
    on: On
    target: float
    found: float
    mismatch: float
    changes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        return parameters(self.architecture)["total"]

    @property
    def depths(self) -> tuple[int, ...]:
        """Layers of each stream."""
        return self.architecture.depths

    def __str__(self) -> str:
        depth = "+".join(map(str, self.depths))
        changed = ", ".join(self.changes) or "unchanged"
        return (
            f"{self.architecture.name}: {self.found:,.0f} {QUANTITIES[self.on]} "
            f"({self.mismatch:+.2%} of {self.target:,.0f}), {depth} layers, {changed}"
        )


def apart(a: Architecture, b: Architecture) -> float:
    """How far apart two architectures' parameters are, as a share of the larger: 0.12 for the published 150M
    pair.
    """
    sizes = sorted(parameters(x)["total"] for x in (a, b))
    return 1 - sizes[0] / sizes[1]


def match_parameters(a: Architecture, target: int, tolerance: float = 0.01) -> Match:
    """`a` with about `target` parameters: see `match`."""
    return match(a, target, tolerance=tolerance)


def match(
    a: Architecture,
    target: float,
    on: On = "parameters",
    input: int = 1024,
    output: int = 1024,
    tolerance: float = 0.01,
) -> Match:
    """`a` with about `target` of a quantity: fewest kinds of change (none; layers or widths; both), then nearest.

    Where both must change, the fewest layers are added or taken away; a stream's share of the layers stays as
    near as whole numbers allow to its share in `a`. d_ff is held where layers have different ones. For a cache
    the widths are heads of keys.

    Args:
        input, output: tokens of the example that FLOPs and bytes are counted for.

    Raises:
        UserError: if nothing comes within `tolerance` of the target, with the nearest that was found.
    """
    measure = quantity(on, input, output)
    best: tuple[tuple[int, int, float, float], Architecture] | None = None
    nearest: tuple[float, Architecture] | None = None
    for candidate, changed, moved in _candidates(a, target, on, measure):
        gap = abs(measure(candidate) / target - 1)
        if nearest is None or gap < nearest[0]:
            nearest = (gap, candidate)
        # Two arms that differ in depth differ in more than their feed-forward: ties go to the same depth.
        rank = (changed, moved if changed == 2 else 0, gap, moved)
        if gap <= tolerance and (best is None or rank < best[0]):
            best = (rank, candidate)
    if best is None:
        assert nearest is not None
        found = measure(nearest[1])
        raise UserError(
            f"'{a.name}' can't be brought within {tolerance:.1%} of {target:,.0f} {QUANTITIES[on]} at width "
            f"{a.d_model}: the nearest is {found:,.0f}, with {'+'.join(map(str, nearest[1].depths))} layers and "
            f"d_ff {_d_ff(nearest[1])}; change the width or the target"
        )
    found = measure(best[1])
    return Match(best[1], on, target, found, found / target - 1, _changes(a, best[1]))


def supervised_share(
    a: Architecture,
    supervise_a: Literal["output", "all"],
    b: Architecture,
    supervise_b: Literal["output", "all"],
    input: int,
    output: int,
) -> Fraction:
    """How many examples `a` is shown for each of `b`'s, so that as many tokens carry loss: 2 for RedLLM beside a
    DecLLM that learns from input and output of equal length. No shape changes that number.
    """
    return Fraction(_supervised(b, supervise_b, input, output), _supervised(a, supervise_a, input, output))


def _supervised(a: Architecture, supervise: Literal["output", "all"], input: int, output: int) -> int:
    return output if supervise == "output" else places(a.output_stream, input, output)


def _candidates(
    a: Architecture, target: float, on: On, measure: Measure
) -> Iterator[tuple[Architecture, int, int]]:
    """(architecture, kinds of change, layers moved), for every depth with its two nearest d_ff and its own."""
    for depths in _depths(a, target, measure):
        moved = sum(abs(new - old) for new, old in zip(depths, a.depths, strict=True))
        try:
            deep = a.resized(depths=depths) if moved else a
        except ValueError:  # streams that share weights have equal depths
            continue
        yield deep, int(moved > 0), moved
        if on == "cache_bytes":
            yield from ((a_, 1 + int(moved > 0), moved) for a_ in _with_key_heads(deep))
        elif _d_ff(a) is not None:
            yield from ((a_, 1 + int(moved > 0), moved) for a_ in _with_d_ff_near(deep, target, measure))


def _with_key_heads(a: Architecture) -> Iterator[Architecture]:
    """`a` with every other number of key heads that its heads can be parted among."""
    if any(stream.width is not None for stream in a.streams):
        return
    for keys in range(1, a.heads + 1):
        if a.heads % keys == 0 and keys != (a.key_heads or a.heads):
            yield a.resized(key_heads=keys if keys < a.heads else None)


def _depths(a: Architecture, target: float, measure: Measure) -> Iterator[tuple[int, ...]]:
    """The template's depths, then every total up to the target, split between the streams as the template
    is.
    """
    yield a.depths
    whole = sum(a.depths)
    for total in range(len(a.streams), max(whole, DEEPEST) + 1):
        first = min(max(round(total * a.depths[0] / whole), 1), total - len(a.streams) + 1)
        depths = (total,) if len(a.streams) == 1 else (first, total - first)
        if depths != a.depths:
            yield depths
        try:
            if measure(_thinnest(a.resized(depths=depths))) > target:
                return
        except ValueError:
            continue


def _thinnest(a: Architecture) -> Architecture:
    return a if _d_ff(a) is None else a.resized(d_ff=_lowest(a))


def _with_d_ff_near(a: Architecture, target: float, measure: Measure) -> Iterator[Architecture]:
    """`a` with the two widths of feed-forward on either side of the target, where they are in range."""
    base = measure(a.resized(d_ff=D_FF_STEP))
    step = measure(a.resized(d_ff=2 * D_FF_STEP)) - base
    below = D_FF_STEP * (1 + int((target - base) // step))
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
    if old.key_heads != new.key_heads:
        changes.append(f"key heads {old.key_heads or old.heads} -> {new.key_heads or new.heads}")
    return tuple(changes)
