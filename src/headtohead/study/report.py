"""A study's page, at every moment of the study: `report.html`, one self-contained file, and `report.md`.

What may be said is judged in `measure`; what is said is gathered in `page.py`; here it is laid out and
written. The page loads nothing: its content policy forbids any connection and any script but its own two, by
their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

from headtohead.files import write_atomic
from headtohead.study import charting, dialogue, figures, ladder_page
from headtohead.study.contents import contents, furthest
from headtohead.study.drawing import drawing, environment, who_sees_whom
from headtohead.study.judgement import Judgement, judge
from headtohead.study.page import Axis, Page, read
from headtohead.study.palette import PAPER_DARK, PAPER_LIGHT, Ink
from headtohead.study.results import read_plan

DARK = {charting.INK: "#e9e6df", charting.SOFT: "#a4a9b0", charting.LINE: "#363a40", PAPER_LIGHT: PAPER_DARK}
"""What the page's script puts in place of the light page's colours; the arms' come to it."""


def write_report(folder: Path, *, with_figures: bool | None = None) -> Path:
    """Write `report.html` and `report.md` of the study in `folder`, whatever is finished of it; returns the
    page.

    `with_figures`: also every chart and drawing as SVG and PNG into ``figures/`` (a few seconds); by default
    as soon as every planned run has ended.

    Raises:
        UserError: no study there, a damaged file, or a file that can't be written.
    """
    folder = Path(folder)
    plan = read_plan(folder, "start the study again, which writes it anew")
    if "ladder" in plan:
        return ladder_page.write(folder)
    if plan["study"].get("kind") == "dialogue":
        return dialogue.write_page(folder)
    page = read(folder)
    judgement = judge(page)
    charts = _charts(page, judgement)
    values = contents(page, judgement)
    text = environment().get_template("report.md.jinja").render(values)
    write_atomic(folder / "report.md", re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")
    html = folder / "report.html"
    write_atomic(html, _html(page, values, charts))
    if page.moment == "finished" if with_figures is None else with_figures:
        drawings = {f"arm-{arm.key}": drawing(arm.architecture, arm.ink.light) for arm in page.arms}
        charting.write_figures(folder / "figures", charts, drawings)
    return html


# --------------------------------------------------------------------------------------------------------
# Charts


def _charts(page: Page, judgement: Judgement) -> dict[str, alt.LayerChart]:
    charts: dict[str, alt.LayerChart] = {}
    drawn = [d for d in judgement.differences if d.difference is not None]
    reach = furthest(drawn)
    for region in page.regions:
        if page.shown:
            dots = [
                figures.Dots(
                    arm.key, arm.ink, tuple(page.bits(arm, region)), *judgement.interval(arm.key, region)
                )
                for arm in page.arms
                if page.bits(arm, region) or not page.of(arm)
            ]
            charts[f"levels-{region}"] = figures.levels(dots, page.baselines_of(region))
        lines = [
            figures.Interval(f"{d.first.key} → {d.second.key}", d.outcome, d.difference, d.low, d.high)
            for d in drawn
            if d.region == region and d.difference is not None and d.low is not None and d.high is not None
        ]
        if lines:
            charts[f"forest-{region}"] = figures.forest(lines, page.study["margin"], reach)
        axes: tuple[tuple[Axis, str], ...] = (("tokens", "tokens shown"), ("flops", "training FLOPs"))
        for x, title in axes:
            curves = page.curves(region, x)
            if curves:
                charts[f"curves-{region}-{x}"] = figures.curves(
                    curves, title, page.baselines_of(region), page.threshold(region)
                )
    lines = [
        figures.Lengths(
            arm.key,
            arm.ink,
            tuple((at["times"], at["bits_per_byte"]) for at in found if at["bits_per_byte"] is not None),
        )
        for arm in page.arms
        if (found := page.at_lengths(arm))
    ]
    if lines:
        charts["lengths"] = figures.lengths(lines)
    if page.plan.get("rates"):
        found = page.plan["rates"]["arms"]
        searches = [
            figures.Search(
                arm.key,
                arm.ink,
                tuple(found[arm.key]["grid"]),
                tuple(math.nan if v is None else v for v in found[arm.key]["bits_per_byte"]),
                found[arm.key]["best"],
                found[arm.key]["optimum"],
                found[arm.key]["edge"],
            )
            for arm in page.arms
            if arm.key in found
        ]
        charts["rates"] = figures.searches(searches)
    return charts


# --------------------------------------------------------------------------------------------------------
# HTML


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script (0.9 MB; about a second to make)."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _html(page: Page, values: dict[str, Any], charts: dict[str, alt.LayerChart]) -> str:
    seen = {arm.key: who_sees_whom(arm.architecture, "var(--arm)") for arm in page.arms}
    looks = [arm.ink for arm in page.arms]
    return page_of("report.html.jinja", {**values, "seen": seen}, charts, looks)


def page_of(
    template: str, values: dict[str, Any], charts: dict[str, alt.LayerChart], looks: Sequence[Ink]
) -> str:
    """A page of that template: with its charts, its style and its scripts, self-contained.

    Args:
        looks: the arms', whose colours have dark ones.
    """
    templates = Path(__file__).parent / "templates"
    bundle, script = (
        _bundle(),
        (templates / "page.js").read_text(encoding="utf-8"),
    )
    dark = {**DARK, **{ink.light: ink.dark for ink in looks}}
    specs = {name: charting.specification(chart) for name, chart in charts.items()}
    return (
        environment()
        .get_template(template)
        .render(
            **values,
            charts=charts,
            charts_json=_inert({"specs": specs, "config": charting.CONFIG, "dark": dark}),
            css=Markup((templates / "page.css").read_text(encoding="utf-8")),
            bundle=Markup(bundle),
            script=Markup(script),
            policy=_policy(bundle, script),
        )
    )


def _inert(value: Any) -> Markup:
    """JSON that can end no script element and open no comment, whatever its strings hold."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _policy(*scripts: str) -> str:
    """A content policy: no connection anywhere, and no script but these."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode('ascii')}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


__all__ = ["write_report"]
