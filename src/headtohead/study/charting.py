"""What the charts of a study share: data, colours, names beside lines, the look, and the files they go to."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import altair as alt
import vl_convert

from headtohead.files import write_atomic
from headtohead.study.palette import PAPER_LIGHT, Ink

MOST_ROWS = 5_000
INK, SOFT, LINE = "#1c1e21", "#5d636b", "#d8d5cd"
FONT = "-apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', Arial, sans-serif"
BITS = "bits per byte"

Row = dict[str, Any]


class OfAnArm(Protocol):
    """What belongs to an arm: it is drawn in the arm's colour and mark."""

    @property
    def arm(self) -> str: ...

    @property
    def ink(self) -> Ink: ...


def signed(value: float, margin: float) -> str:
    """A difference with its sign, with enough decimals to see the margin, and a real minus."""
    decimals = max(3, 1 - math.floor(math.log10(margin)))
    return f"{value:+.{decimals}f}".replace("-", "−")


def names_beside(labels: Sequence[Row], x: Any, y: alt.Y, colour: alt.Color, dx: int = 7) -> list[alt.Chart]:
    """The arms' names right of their places, on a halo of paper: a line behind doesn't cross them out."""
    base = alt.Chart(inline(labels)).encode(x=x, y=y, text="arm:N")
    style: Row = {"align": "left", "baseline": "middle", "dx": dx, "fontSize": 11.5}
    return [
        base.mark_text(**style, stroke=PAPER_LIGHT, strokeWidth=4),
        base.mark_text(**style).encode(color=colour),
    ]


def inline(rows: Iterable[Row]) -> alt.InlineData:
    values = list(rows)
    if len(values) > MOST_ROWS:
        raise ValueError(f"a chart of {len(values)} rows: thin its data to {MOST_ROWS} or fewer")
    return alt.InlineData(values=values)


def colour_of(arms: Sequence[OfAnArm]) -> alt.Color:
    scale = alt.Scale(domain=[a.arm for a in arms], range=[a.ink.light for a in arms])
    return alt.Color("arm:N", scale=scale, legend=None)


def shape_of(arms: Sequence[OfAnArm]) -> alt.Shape:
    scale = alt.Scale(domain=[a.arm for a in arms], range=[a.ink.mark for a in arms])
    return alt.Shape("arm:N", scale=scale, legend=None)


def dash_of(arms: Sequence[OfAnArm]) -> alt.StrokeDash:
    scale = alt.Scale(domain=[a.arm for a in arms], range=[list(a.ink.dash) for a in arms])
    return alt.StrokeDash("arm:N", scale=scale, legend=None)


def numbers(*fields: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{field}:Q", format=".3f") for field in fields]


def apart(values: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """The values moved as little as needs be to stand `least` apart inside [low, high], in their order."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    placed = [min(max(values[i], low), high) for i in order]
    for _ in range(60):
        moved = False
        for n in range(len(placed) - 1):
            gap = placed[n + 1] - placed[n]
            if gap < least * 0.999:
                middle = (placed[n] + placed[n + 1]) / 2
                placed[n], placed[n + 1], moved = middle - least / 2, middle + least / 2, True
        if not moved:
            break
    shift = max(0.0, low - placed[0]) if placed else 0.0
    result = [0.0] * len(values)
    for place, i in zip(placed, order, strict=True):
        result[i] = place + shift
    return result


def chart_of(layered: alt.LayerChart | alt.FacetChart, height: int) -> alt.LayerChart:
    assert isinstance(layered, alt.LayerChart)
    return layered.properties(
        width="container",
        height=height,
        background="transparent",
        padding={"left": 4, "top": 6, "right": 6, "bottom": 4},
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )


CONFIG: dict[str, Any] = {
    "font": FONT,
    "view": {"stroke": None},
    "axis": {
        "labelColor": SOFT, "titleColor": SOFT, "titleFontWeight": "normal", "titleFontSize": 11.5,
        "labelFontSize": 11, "gridColor": LINE, "gridOpacity": 0.7, "domainColor": LINE, "tickColor": LINE,
        "titlePadding": 8,
    },
    "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
}  # fmt: skip
"""The look of all charts: the page's script hands it to Vega, with the dark page's colours when it is dark.
"""


def specification(chart: alt.LayerChart) -> Row:
    """The chart as Vega-Lite, without what the page says once for all charts."""
    spec = chart.to_dict()
    spec.pop("config", None)
    return spec


def write_figures(
    folder: Path, charts: dict[str, alt.LayerChart], drawings: dict[str, str], width: int = 760
) -> None:
    """Write every chart and every drawing (SVG text) into `folder` as ``NAME.svg`` and ``NAME.png``.

    Raises:
        UserError: a file that can't be written.
    """
    for name, chart in charts.items():
        spec = json.dumps({**chart.to_dict(), "width": width, "background": PAPER_LIGHT, "config": CONFIG})
        svg = vl_convert.vegalite_to_svg(spec)
        write_atomic(folder / f"{name}.svg", svg)
        write_atomic(folder / f"{name}.png", vl_convert.svg_to_png(svg, scale=2))
    for name, svg in drawings.items():
        write_atomic(folder / f"{name}.svg", svg)
        write_atomic(folder / f"{name}.png", vl_convert.svg_to_png(svg, scale=2))
