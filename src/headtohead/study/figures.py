"""The charts of a study: one definition each for the interactive page and for the SVG and PNG files.

Charts take plain rows and know nothing of results or verdicts. They are as wide as their box; colours are
those of the light page, and the page's script puts the dark ones in their place. Every arm has one colour and
one mark (`palette.py`) and is named beside its line, so colour alone never carries the message.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import altair as alt

from headtohead.study.charting import (
    BITS,
    INK,
    LINE,
    SOFT,
    Row,
    apart,
    chart_of,
    colour_of,
    dash_of,
    inline,
    names_beside,
    numbers,
    shape_of,
    signed,
)
from headtohead.study.palette import PAPER_LIGHT, Ink


@dataclass(frozen=True)
class Interval:
    """One line of a forest plot: a difference in bits per byte, its 95 % interval, and its outcome."""

    label: str
    outcome: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Dots:
    """One arm's level: each seed's bits per byte, and the interval of their mean where there is one."""

    arm: str
    ink: Ink
    seeds: tuple[float, ...]
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Curve:
    """One arm's learning curve: mean, lowest and highest of its seeds at each x; where they cross the
    threshold.
    """

    arm: str
    ink: Ink
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    crossings: tuple[float, ...] = ()


@dataclass(frozen=True)
class Lengths:
    """One arm's bits per byte at multiples of the window that was trained on: (multiple, bits per byte)."""

    arm: str
    ink: Ink
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Search:
    """One arm's search: what each learning rate gave, which was best, and if on the edge; the optimum."""

    arm: str
    ink: Ink
    rates: tuple[float, ...]
    bits_per_byte: tuple[float, ...]
    best: float
    optimum: float
    edge: bool


# --------------------------------------------------------------------------------------------------------
# Forest plot


def forest(lines: Sequence[Interval], margin: float, reach: float | None = None) -> alt.LayerChart:
    """Differences with their intervals over the band of ±`margin`.

    The axis is linear inside the margin and logarithmic outside it as soon as the intervals, or `reach` (to
    give two plots one axis), go beyond 15 margins: else either the band or the differences would be out of
    sight.
    """
    ends = [abs(end) for line in lines for end in (line.low, line.high)]
    reach = 1.1 * max(2.5 * margin, reach or 0.0, *ends)
    folded = reach > 15 * margin
    scale = alt.Scale(
        type="symlog" if folded else "linear", constant=margin, domain=[-reach, reach], nice=False, zero=False
    )
    axis = alt.Axis(
        values=_ticks(reach, margin) if folded else alt.Undefined,
        labelExpr="datum.value === 0 ? '0' : format(datum.value, '+~r')",
        grid=True,
        tickCount=5,
    )
    title = f"difference in {BITS}; left of 0 the second arm is better"
    x = alt.X("difference:Q", scale=scale, axis=axis, title=title)
    height = 46 * len(lines)
    down = alt.Scale(domain=[-0.1, len(lines) - 0.1], reverse=True)
    y = alt.Y("row:Q", scale=down, axis=None)
    rows = [
        {
            "row": n + 0.42, "name": n + 0.08, "label": line.label, "outcome": line.outcome,
            "difference": line.difference, "low": line.low, "high": line.high,
            "text": f"{signed(line.difference, margin)}"
            f"  [{signed(line.low, margin)}, {signed(line.high, margin)}]",
        }
        for n, line in enumerate(lines)
    ]  # fmt: skip
    data = inline(rows)
    tooltip = [
        alt.Tooltip("label:N", title="contrast"),
        alt.Tooltip("text:N", title=BITS),
        alt.Tooltip("outcome:N"),
    ]
    base = alt.Chart(data).encode(y=y, tooltip=tooltip)
    decided = alt.FieldOneOfPredicate(
        field="outcome", oneOf=["different", "different, but by less than the margin"]
    )
    band = (
        alt.Chart(inline([{"low": -margin, "high": margin}]))
        .mark_rect(color=LINE, opacity=0.55)
        .encode(x=alt.X("low:Q", scale=scale), x2="high:Q")
    )
    zero = alt.Chart(inline([{"x": 0}])).mark_rule(color=SOFT).encode(x=alt.X("x:Q", scale=scale))
    bars = base.mark_rule(color=INK, strokeWidth=2, strokeCap="round").encode(
        x=alt.X("low:Q", scale=scale), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=75, opacity=1, stroke=INK, strokeWidth=1.8).encode(
        x=x,
        fill=alt.condition(decided, alt.value(INK), alt.value(PAPER_LIGHT)),
        shape=alt.Shape(
            "outcome:N",
            legend=None,
            scale=alt.Scale(
                domain=[
                    "different",
                    "different, but by less than the margin",
                    "no difference",
                    "undecided",
                    "not judged",
                ],
                range=["circle", "circle", "square", "diamond", "cross"],
            ),
        ),
    )
    names = base.mark_text(align="left", baseline="middle", color=INK, fontSize=11.5, dx=3).encode(
        x=alt.value(0), y=alt.Y("name:Q", scale=down, axis=None), text="label:N"
    )
    return chart_of(alt.layer(band, zero, bars, points, names), height)


def _ticks(reach: float, margin: float) -> list[float]:
    powers = [margin * 10**n for n in range(0, 6) if margin * 10**n <= reach]
    return [*(-p for p in reversed(powers)), 0.0, *powers]


# --------------------------------------------------------------------------------------------------------
# Levels


def levels(arms: Sequence[Dots], baselines: dict[str, float]) -> alt.LayerChart:
    """Each arm's bits per byte: a mark for each seed, the mean's interval, the baselines as dashed lines."""
    count = len(arms)
    ends = [v for a in arms for v in (*a.seeds, a.low, a.high) if v is not None] + list(baselines.values())
    low, high = min(ends), max(ends)
    room = (high - low) * 0.06 or 0.05
    scale = alt.Scale(domain=[low - room, high + room], nice=False, zero=False)
    head = 0.42 * len(baselines)  # each baseline's name has a line of its own above the arms
    position = alt.Scale(domain=[-0.55 - head, count - 0.4], reverse=True)
    y = alt.Y("row:Q", scale=position, axis=None)
    x = alt.X("value:Q", scale=scale, axis=alt.Axis(tickCount=5, grid=True), title=BITS)
    seeds = inline(
        {"row": n + 0.14, "arm": a.arm, "value": value, "run": f"{a.arm}: {value:.3f}"}
        for n, a in enumerate(arms)
        for value in a.seeds
    )
    bars = inline(
        {
            "row": n + 0.14,
            "arm": a.arm,
            "low": a.low,
            "high": a.high,
            "run": f"{a.arm}: {a.low:.3f} to {a.high:.3f}",
        }
        for n, a in enumerate(arms)
        if a.low is not None and a.high is not None
    )
    names = [{"row": n - 0.27, "arm": a.arm} for n, a in enumerate(arms)]
    lines = [
        {"value": value, "name": name, "row": -0.35 - head + 0.42 * n}
        for n, (name, value) in enumerate(baselines.items())
    ]
    left = low + 0.5 * (high - low)  # a name that has no room left of its line stands right of it
    sides: list[tuple[Literal["right", "left"], int, list[Row]]] = [
        ("right", -4, [line for line in lines if line["value"] > left]),
        ("left", 4, [line for line in lines if line["value"] <= left]),
    ]
    layers = [
        alt.Chart(inline(lines)).mark_rule(strokeDash=[3, 3], color=SOFT).encode(x=x),
        *(
            alt.Chart(inline(some))
            .mark_text(align=align, dx=dx, color=SOFT, fontSize=11, baseline="middle")
            .encode(x=x, y=y, text="name:N")
            for align, dx, some in sides
        ),
        alt.Chart(bars)
        .mark_rule(strokeWidth=2, opacity=0.55, strokeCap="round")
        .encode(
            x=alt.X("low:Q", scale=scale),
            x2="high:Q",
            y=y,
            color=colour_of(arms),
            tooltip=alt.Tooltip("run:N", title="95 % interval"),
        ),
        alt.Chart(seeds)
        .mark_point(filled=True, size=60, opacity=0.9, stroke=PAPER_LIGHT, strokeWidth=0.7)
        .encode(
            x=x, y=y, color=colour_of(arms), shape=shape_of(arms), tooltip=alt.Tooltip("run:N", title="run")
        ),
        *names_beside(names, alt.value(0), y, colour_of(arms), dx=3),
    ]
    return chart_of(alt.layer(*layers), round(38 * (count + head) + 18))


# --------------------------------------------------------------------------------------------------------
# Learning curves


def curves(
    arms: Sequence[Curve],
    x_title: str,
    baselines: dict[str, float],
    threshold: float | None = None,
    height: int = 300,
) -> alt.LayerChart:
    """Means with bands over the seeds, the arm's name at its line's end, a mark where a run crosses
    `threshold`.

    The first steep part runs out of the picture above: the axis ends a little over the highest baseline, or
    where the highest curve is after a third of its points.
    """
    arms = [_thinned(arm) for arm in arms]
    bottom = min(min(a.low) for a in arms)
    third = [1.03 * a.high[len(a.high) // 3] for a in arms]
    top = max([*third, *(1.08 * value for value in baselines.values())])
    bottom -= 0.05 * (top - bottom)
    scale = alt.Scale(domain=[bottom, top], nice=False, zero=False)
    end = max(a.x[-1] for a in arms)
    across = alt.Scale(domain=[0, end], nice=False)
    x = alt.X("x:Q", scale=across, title=x_title, axis=alt.Axis(format="~s", tickCount=4, grid=False))
    y = alt.Y("mean:Q", scale=scale, title=BITS, axis=alt.Axis(tickCount=6))
    colour = colour_of(arms)
    points = inline(
        {"arm": a.arm, "x": x_, "mean": m, "low": lo, "high": hi}
        for a in arms
        for x_, m, lo, hi in zip(a.x, a.mean, a.low, a.high, strict=True)
    )
    base = alt.Chart(points)
    layers: list[alt.Chart] = []
    within = {name: value for name, value in baselines.items() if bottom < value < top}
    layers.append(
        alt.Chart(inline({"y": value} for value in within.values()))
        .mark_rule(strokeDash=[2, 3], color=SOFT, opacity=0.8)
        .encode(y=alt.Y("y:Q", scale=scale))
    )
    if threshold is not None:
        line = alt.Chart(inline([{"y": threshold, "name": f"threshold, {threshold:.2f}"}]))
        layers.append(line.mark_rule(color=INK, strokeWidth=1).encode(y=alt.Y("y:Q", scale=scale)))
        text = line.mark_text(align="right", baseline="bottom", dx=-2, dy=-2, color=INK, fontSize=10.5)
        layers.append(text.encode(x=alt.value("width"), y=alt.Y("y:Q", scale=scale), text="name:N"))
    layers.append(
        base.mark_area(opacity=0.16, clip=True).encode(
            x=x, y=alt.Y("low:Q", scale=scale), y2="high:Q", color=colour, detail="arm:N"
        )
    )
    layers.append(
        base.mark_line(strokeWidth=2, clip=True).encode(
            x=x, y=y, color=colour, detail="arm:N", strokeDash=dash_of(arms)
        )
    )
    layers.append(
        base.mark_point(filled=True, size=90, opacity=0, clip=True).encode(
            x=x,
            y=y,
            tooltip=[
                "arm:N",
                alt.Tooltip("x:Q", format=".3s", title=x_title),
                *numbers("mean", "low", "high"),
            ],
        )
    )
    if threshold is not None:
        crossings = inline({"arm": a.arm, "x": c, "mean": threshold} for a in arms for c in a.crossings)
        mark = alt.Chart(crossings).mark_point(filled=False, size=48, strokeWidth=1.6, opacity=1)
        tip = ["arm:N", alt.Tooltip("x:Q", format=".3s", title=f"crosses at {x_title}")]
        layers.append(mark.encode(x=x, y=y, color=colour, shape=shape_of(arms), tooltip=tip))
    heights = apart(list(within.values()), 12.0 * (top - bottom) / height, bottom, top)
    references = inline({"name": name, "y": at} for name, at in zip(within, heights, strict=True))
    style: Row = {"align": "right", "baseline": "bottom", "dx": -2, "dy": -2, "fontSize": 10.5, "color": SOFT}
    for halo in ({"stroke": PAPER_LIGHT, "strokeWidth": 3}, {}):
        text = alt.Chart(references).mark_text(**style, **halo)
        layers.append(text.encode(x=alt.value("width"), y=alt.Y("y:Q", scale=scale), text="name:N"))
    labels: list[Row] = []
    for group in _neighbours(arms, 0.2 * end):  # a line that ends early has its name where it ends
        places = apart([a.mean[-1] for a in group], 13.0 * (top - bottom) / height, bottom, top)
        at = max(a.x[-1] for a in group)
        labels += [{"arm": a.arm, "y": place, "x": at} for a, place in zip(group, places, strict=True)]
    layers += names_beside(labels, x, alt.Y("y:Q", scale=scale), colour)
    return chart_of(alt.layer(*layers), height)


def _neighbours(arms: Sequence[Curve], room: float) -> list[list[Curve]]:
    """The curves in groups: within one, each ends within `room` of the next, so that their names could
    collide.
    """
    groups: list[list[Curve]] = []
    for arm in sorted(arms, key=lambda a: a.x[-1]):
        if groups and arm.x[-1] - groups[-1][-1].x[-1] <= room:
            groups[-1].append(arm)
        else:
            groups.append([arm])
    return groups


def _thinned(curve: Curve, most: int = 100) -> Curve:
    """Every n-th point, and the last."""
    step = math.ceil(len(curve.x) / most)
    kept = sorted({*range(0, len(curve.x), step), len(curve.x) - 1})
    columns = [tuple(values[i] for i in kept) for values in (curve.x, curve.mean, curve.low, curve.high)]
    return Curve(curve.arm, curve.ink, *columns, crossings=curve.crossings)


# --------------------------------------------------------------------------------------------------------
# The search of the learning rates


def searches(arms: Sequence[Search], height: int = 280) -> alt.LayerChart:
    """Bits per byte on the tuning split for each learning rate; the best and the optimum marked."""
    values = [v for a in arms for v in a.bits_per_byte if math.isfinite(v)]
    bottom, top = min(values), max(values)
    room = (top - bottom) * 0.06 or 0.05
    bottom, top, foot = bottom - 2 * room, top + room, bottom - room
    scale = alt.Scale(domain=[bottom, top], nice=False, zero=False)
    rates = sorted({rate for a in arms for rate in a.rates})
    x = alt.X(
        "rate:Q",
        title="learning rate",
        scale=alt.Scale(type="log", domain=[rates[0] / 1.15, rates[-1] * 1.15], nice=False),
        axis=alt.Axis(values=rates, format="~g", grid=False, labelOverlap=True),
    )
    y = alt.Y("bits:Q", scale=scale, title=f"{BITS}, tuning split", axis=alt.Axis(tickCount=6))
    colour = colour_of(arms)
    rows = [
        {
            "arm": a.arm,
            "rate": rate,
            "bits": bits,
            "taken": rate == a.best,
            "edge": a.edge and rate == a.best,
        }
        for a in arms
        for rate, bits in zip(a.rates, a.bits_per_byte, strict=True)
        if math.isfinite(bits)
    ]
    base = alt.Chart(inline(rows)).encode(x=x, y=y, color=colour)
    tooltip = ["arm:N", alt.Tooltip("rate:Q", title="learning rate"), *numbers("bits")]
    last = apart([_last(a) for a in arms], 13.0 * (top - bottom) / height, bottom, top)
    labels = [{"arm": a.arm, "y": at} for a, at in zip(arms, last, strict=True)]
    optima = inline({"arm": a.arm, "rate": a.optimum, "from": bottom, "to": foot} for a in arms)
    layers = [
        base.mark_line(strokeWidth=1.6, opacity=0.8).encode(detail="arm:N", strokeDash=dash_of(arms)),
        base.mark_point(filled=True, size=22, opacity=0.9).encode(tooltip=tooltip),
        base.transform_filter("datum.taken")
        .mark_point(filled=True, size=95, opacity=1)
        .encode(shape=shape_of(arms), tooltip=tooltip),
        base.transform_filter("datum.edge").mark_point(
            filled=False, size=300, strokeWidth=1.6, shape="circle", opacity=1
        ),
        alt.Chart(optima)
        .mark_rule(strokeWidth=2.5, clip=True)
        .encode(
            x=x,
            y=alt.Y("from:Q", scale=scale),
            y2="to:Q",
            color=colour,
            tooltip=["arm:N", alt.Tooltip("rate:Q", format=".2g", title="optimum")],
        ),
        *names_beside(labels, alt.value("width"), alt.Y("y:Q", scale=scale), colour),
    ]
    return chart_of(alt.layer(*layers), height)


def _last(arm: Search) -> float:
    return next((v for v in reversed(arm.bits_per_byte) if math.isfinite(v)), 0.0)


# --------------------------------------------------------------------------------------------------------
# Lengths


def lengths(arms: Sequence[Lengths]) -> alt.LayerChart:
    """Each arm's bits per byte by length, as multiples of the training window."""
    rows = [{"arm": a.arm, "times": times, "value": value} for a in arms for times, value in a.points]
    x = alt.X("times:Q", scale=alt.Scale(type="log", base=2), title="length, of the window trained on")
    y = alt.Y("value:Q", scale=alt.Scale(zero=False), title=BITS)
    base = alt.Chart(inline(rows)).encode(
        x=x, y=y, color=colour_of(arms), tooltip=["arm:N", *numbers("times", "value")]
    )
    line = base.mark_line(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash("arm:N", legend=None, scale=_dashes(arms))
    )
    marks = base.mark_point(filled=True, size=55, opacity=1).encode(shape=shape_of(arms))
    names = [{"arm": a.arm, "times": a.points[-1][0], "value": a.points[-1][1]} for a in arms if a.points]
    return chart_of(alt.layer(line, marks, *names_beside(names, x, y, colour_of(arms))), 280)


def _dashes(arms: Sequence[Lengths]) -> alt.Scale:
    return alt.Scale(domain=[a.arm for a in arms], range=[list(a.ink.dash) for a in arms])
