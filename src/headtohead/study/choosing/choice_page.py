"""The page of a choice: `index.html`, one file that loads nothing, and `index.md`; each rung has a page of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from markupsafe import Markup

from headtohead.files import read_json, write_atomic
from headtohead.measure.wording import decimals
from headtohead.study import charting, figures
from headtohead.study.choosing import winner
from headtohead.study.choosing.recommending import Recommendation, Rung
from headtohead.study.display import duration
from headtohead.study.drawing import environment, who_sees_whom
from headtohead.study.palette import PAPER_LIGHT
from headtohead.study.tables import binary, decimal
from headtohead.study.versions import versions

WIDE, NARROW = 680, 330
"""Of the pictures, in pixels."""


def write(out: Path, found: Recommendation, decided: Mapping[str, Any]) -> Path:
    """Write both forms of the page from what is finished; returns the HTML.

    Raises:
        UserError: a file that can't be written.
    """
    values = _values(out, found, decided)
    made = environment()
    text = made.get_template("choice.md.jinja").render(values)
    write_atomic(out / "index.md", re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")
    arms = found.upper.page.arms
    css = (Path(__file__).parents[1] / "templates" / "page.css").read_text(encoding="utf-8")
    html = made.get_template("choice.html.jinja").render(
        **values,
        arms=arms,
        css=Markup(css),
        charts={"lower": _svg(found.lower, WIDE), "upper": _svg(found.upper, WIDE)},
        narrow={"lower": _svg(found.lower, NARROW), "upper": _svg(found.upper, NARROW)},
        seen={arm.key: who_sees_whom(arm.architecture, "var(--arm)") for arm in arms},
    )
    write_atomic(out / "index.html", html)
    return out / "index.html"


def _values(out: Path, found: Recommendation, decided: Mapping[str, Any]) -> dict[str, Any]:
    plan, request = decided["plan"], decided["request"]
    upper = found.upper
    rates = read_json(out / "rates.json", "the learning rates")
    ended = winner.result(out / "winner")
    finished = ended is not None and ended["status"] == "finished"
    ranking, arms = upper.ranking, upper.page.arms
    trained = found.arm if not decided["winner"] else upper.page.arm(decided["winner"]["arm"])
    return {
        "found": found,
        "title": f"Which architecture for {plan['title']}?",
        "margin": upper.page.study["margin"],
        "rows": [_row(found, arm) for arm in (*ranking, *(arm for arm in arms if upper.mean(arm) is None))],
        "best_first": [arm.label for arm in found.lower.ranking],
        "agree": found.lower.ranking[0].key == found.upper.ranking[0].key,
        "baselines": upper.page.baselines_of(upper.region),
        "rates": [
            (arm, rates["arms"][arm.key]["optimum"], rates["arms"][arm.key]["edge"])
            for arm in upper.page.arms
        ],
        "grid": [f"{rate:g}" for rate in rates["arms"][ranking[0].key]["grid"]],
        "samples": upper.page.samples,
        "winner": ended if finished else None,
        "winner_label": trained.label,
        "winner_stopped": ended["reason"] if ended is not None and not finished else None,
        "winner_folder": str(out / "winner"),
        "request": request,
        "plan": plan,
        "material": {"why": "", **decided["material"]},
        "left_out": decided["left_out"],
        "minutes": {part: duration(seconds) for part, seconds in decided["seconds"].items()},
        "taken": duration(sum(decided["seconds"].values())),
        "command": upper.page.plan["command"],
        "machine": upper.page.plan["machine"],
        "versions": versions(),
        "date": datetime.now(UTC).astimezone().strftime("%d %B %Y").lstrip("0"),
        "decimal": decimal,
        "binary": binary,
        "duration": duration,
        "plain": decimals,
        "signed": lambda value: charting.signed(value, upper.page.study["margin"]),
    }


def _row(found: Recommendation, arm: Any) -> dict[str, Any]:
    """A candidate's line in the tables: its cost, and bits per byte on both rungs."""
    low, high = found.upper.judgement.interval(arm.key, found.upper.region)
    rival = next((rival for rival in found.rivals if rival.arm.key == arm.key), None)
    lower = next((other for other in found.lower.page.arms if other.key == arm.key), None)
    return {
        "arm": arm,
        "mean": found.upper.mean(arm),
        "low": low,
        "high": high,
        "lower": None if lower is None else found.lower.mean(lower),
        "rival": rival,
        "cost": found.costs[arm.key],
        "value_of_input": found.upper.page.value_of_input(arm, found.upper.region),
    }


def _svg(rung: Rung, width: int) -> Markup:
    """Each arm's bits per byte as a picture in the page's own colours, light and dark."""
    dots = []
    for arm in rung.page.arms_shown:
        low, high = rung.judgement.interval(arm.key, rung.region)
        dots.append(figures.Dots(arm.label, arm.ink, tuple(rung.page.bits(arm, rung.region)), low, high))
    chart: alt.LayerChart = figures.levels(dots, rung.page.baselines_of(rung.region))
    spec = {**chart.to_dict(), "width": width, "config": charting.CONFIG}
    svg = vl_convert.vegalite_to_svg(json.dumps(spec))
    svg = re.sub(
        r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r'<svg \1style="width:100%;height:auto"', svg, count=1
    )
    names = {charting.INK: "var(--ink)", charting.SOFT: "var(--soft)", charting.LINE: "var(--line)"}
    names[PAPER_LIGHT] = "var(--paper)"
    names.update({arm.ink.light: f"var(--arm-{arm.index})" for arm in rung.page.arms})
    for colour, name in names.items():
        svg = svg.replace(colour, name)
    return Markup(svg)
