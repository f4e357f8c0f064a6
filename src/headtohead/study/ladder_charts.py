"""The charts of a ladder: each arm's runs with its law, and the frontiers of least loss for a budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from headtohead.measure.scaling.solver import log_law
from headtohead.study import charting
from headtohead.study.charting import BITS, inline
from headtohead.study.palette import Ink


def charts_of(
    rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any], looks: Mapping[str, Ink]
) -> dict[str, alt.LayerChart]:
    """The runs of each arm with its law, and the frontiers.

    Args:
        rows: of ladder.csv. found: what was fitted to them. looks: arm to its look.
    """
    charts: dict[str, alt.LayerChart] = {}
    if not rows:
        return charts
    colour = alt.Color(
        "arm:N",
        scale=alt.Scale(domain=list(looks), range=[look.light for look in looks.values()]),
        legend=None,
    )
    for arm in looks:
        own = [row for row in rows if row["arm"] == arm]
        if own:
            charts[f"runs-{arm}"] = _runs_chart(own, _law_of(found, arm), looks[arm])
    if found["laws"]:
        first = next(iter(found["laws"].values()))
        charts["frontier"] = _frontier_chart(rows, first["frontiers"], colour)
    return charts


def _law_of(found: Mapping[str, Any], arm: str) -> dict[str, float] | None:
    """The first law's parameters of an arm; None where one is not a number, for there is then no line."""
    for law in found["laws"].values():
        parameters = law["arms"][arm]["parameters"]
        return None if None in parameters.values() else parameters
    return None


def _runs_chart(
    rows: Sequence[Mapping[str, Any]], law: Mapping[str, float] | None, ink: Ink
) -> alt.LayerChart:
    """An arm's runs over tokens, a line of its law for each size; the largest size, which is held out, hollow."""
    largest = max(row["N"] for row in rows)
    x = alt.X(
        "D:Q", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format="~s"), title="tokens shown"
    )
    y = alt.Y("loss:Q", scale=alt.Scale(type="log", nice=False, zero=False), title=BITS)
    points = [
        {"D": row["D"], "loss": row["bits_per_byte"], "size": row["size"], "held": row["N"] == largest}
        for row in rows
    ]
    tooltip = [alt.Tooltip("size:N"), alt.Tooltip("D:Q", format=".3s"), alt.Tooltip("loss:Q", format=".3f")]
    base = alt.Chart(inline(points)).encode(x=x, y=y, tooltip=tooltip)
    marks = base.mark_point(size=55, opacity=1, stroke=ink.light, filled=True).encode(
        fill=alt.condition("datum.held", alt.value("transparent"), alt.value(ink.light))
    )
    layers: list[Any] = [marks]
    ends = [
        {"D": max(r["D"] for r in rows if r["size"] == size), "size": size,
         "loss": min(r["bits_per_byte"] for r in rows if r["size"] == size)}
        for size in dict.fromkeys(row["size"] for row in rows)
    ]  # fmt: skip
    layers.append(
        alt.Chart(inline(ends))
        .mark_text(align="left", dx=7, fontSize=11, color=charting.SOFT)
        .encode(x=x, y=y, text="size:N")
    )
    if law is not None:
        lines = []
        for size in dict.fromkeys(row["size"] for row in rows):
            own = [row for row in rows if row["size"] == size]
            tokens = np.geomspace(min(r["D"] for r in own), max(r["D"] for r in own), 24)
            logs = np.log([max(law["E"], 1e-300), law["A"], law["B"]])
            parameters = np.array([logs[0], logs[1], law["alpha"], logs[2], law["beta"]])
            places = np.stack([np.full(24, np.log(own[0]["N"])), np.log(tokens)])
            values = np.exp(log_law(parameters, places))
            lines += [
                {"D": float(d), "loss": float(v), "size": size} for d, v in zip(tokens, values, strict=True)
            ]
        line = (
            alt.Chart(inline(lines))
            .mark_line(color=ink.light, strokeWidth=1.5)
            .encode(x=x, y=y, detail="size:N")
        )
        layers.insert(0, line)
    return charting.chart_of(alt.layer(*layers), 280)


def _frontier_chart(
    runs: Sequence[Mapping[str, Any]], frontier: Mapping[str, Any], colour: alt.Color
) -> alt.LayerChart:
    """The least loss for a budget by each arm's law with its band, over all runs. What is not a number is left out."""
    lines: dict[str, list[dict[str, Any]]] = {}
    bands: list[dict[str, Any]] = []
    for arm, values in frontier["loss"].items():
        lines[arm] = [
            {"C": c, "loss": loss, "arm": arm}
            for c, loss in zip(frontier["C"], values, strict=True)
            if loss is not None
        ]
        bounds = frontier["intervals"][arm]
        bands += [
            {"C": c, "low": low, "high": high, "arm": arm}
            for c, (low, high) in zip(frontier["C"], bounds, strict=False)
            if low is not None and high is not None
        ]
    x = alt.X(
        "C:Q", scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format="~s"), title="training FLOPs"
    )
    y = alt.Y("loss:Q", scale=alt.Scale(type="log", nice=False, zero=False), title=BITS)
    layers: list[Any] = []
    if bands:
        layers.append(
            alt.Chart(inline(bands))
            .mark_area(opacity=0.18)
            .encode(x=x, y=alt.Y("low:Q", title=BITS), y2="high:Q", color=colour)
        )
    marks = [{"C": r["FLOPs"], "loss": r["bits_per_byte"], "arm": r["arm"]} for r in runs]
    layers.append(alt.Chart(inline(marks)).mark_point(size=22, opacity=0.55).encode(x=x, y=y, color=colour))
    rows = [row for line in lines.values() for row in line]
    layers.append(alt.Chart(inline(rows)).mark_line(strokeWidth=2).encode(x=x, y=y, color=colour))
    names = [line[-1] for line in lines.values() if line]
    layers += charting.names_beside(names, x, y, colour)
    return charting.chart_of(alt.layer(*layers), 320)
