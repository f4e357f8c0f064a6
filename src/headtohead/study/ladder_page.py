"""A ladder's page: the runs as a table and a CSV file, the laws fitted to them, frontiers, and the claims about them.

`ladder.csv` is what `headtohead fit` reads, `fits.json` what was found; both are made again with the page. Intervals
take resampling, so they are there once every run has ended.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from headtohead.errors import UserError
from headtohead.files import write_atomic
from headtohead.measure import ladders
from headtohead.measure.scaling.arms import plain
from headtohead.measure.scaling.fitting import Asked
from headtohead.measure.scaling.isoflop import fit_isoflop
from headtohead.measure.scaling.table import Table
from headtohead.study import charting
from headtohead.study.drawing import environment
from headtohead.study.ladder_charts import charts_of
from headtohead.study.page import read_results
from headtohead.study.palette import inks
from headtohead.study.results import read_plan
from headtohead.study.tables import decimal

COLUMNS = ("arm", "size", "seed", "steps", "learning_rate", "N", "N_non_embedding", "D", "D_supervised", "FLOPs",
           "6ND", "bits_per_byte")  # fmt: skip


@dataclass(frozen=True)
class LadderPage:
    """A ladder's folder, read."""

    folder: Path
    plan: dict[str, Any]
    results: list[dict[str, Any]]

    @property
    def ladder(self) -> dict[str, Any]:
        return self.plan["ladder"]

    @property
    def region(self) -> str:
        return self.plan["data"]["regions"][0]

    @property
    def arms(self) -> list[str]:
        return [arm["key"] for arm in self.ladder["arms"]]

    @property
    def label(self) -> dict[str, str]:
        return {arm["key"]: arm["label"] for arm in self.ladder["arms"]}

    @cached_property
    def sized(self) -> dict[str, tuple[str, str]]:
        """The key of a run's arm to (arm, size)."""
        return {
            f"{arm}-{size['name']}": (arm, size["name"]) for arm in self.arms for size in self.ladder["sizes"]
        }

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each finished run, as `COLUMNS`."""
        sizes = {arm["key"]: arm["parameters"] for arm in self.plan["arms"]}
        found = []
        for line in self.results:
            if line["rung"] != "ladder" or line["status"] != "finished":
                continue
            arm, size = self.sized[line["arm"]]
            n, ledger = sizes[line["arm"]], line["ledger"]
            found.append(
                {
                    "arm": arm, "size": size, "seed": line["seed"], "steps": ledger["steps"],
                    "learning_rate": line["learning_rate"], "N": n["total"],
                    "N_non_embedding": n["non_embedding"], "D": ledger["tokens_shown"],
                    "D_supervised": ledger["tokens_supervised"], "FLOPs": ledger["flops"],
                    "6ND": 6 * n["total"] * ledger["tokens_shown"],
                    "bits_per_byte": line["bits_per_byte"][self.region],
                }
            )  # fmt: skip
        return found

    @property
    def stopped(self) -> list[dict[str, Any]]:
        return [line for line in self.results if line["status"] == "stopped"]

    @property
    def planned(self) -> int:
        return len(self.plan["runs"])

    @property
    def finished(self) -> bool:
        return (
            self.planned > 0 and self.plan.get("left_out") is not None and self.planned == len(self.results)
        )

    def csv(self) -> str:
        """The rows as CSV."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([row[column] for column in COLUMNS] for row in self.rows)
        return out.getvalue()


def read(folder: Path) -> LadderPage:
    """The ladder in a folder.

    Raises:
        UserError: none there, or a damaged file.
    """
    plan = read_plan(folder, "start the ladder again, which writes it anew")
    if "ladder" not in plan:
        raise UserError(f"{folder} holds no ladder, but the study {plan['study'].get('name')}")
    results = read_results(folder / "results.jsonl") if (folder / "results.jsonl").exists() else []
    return LadderPage(folder, plan, results)


def write(folder: Path) -> Path:
    """Write ladder.csv, fits.json, report.md and report.html of the ladder in a folder; returns the page.

    Raises:
        UserError: no ladder there, a damaged file, or one that can't be written.
    """
    page = read(folder)
    write_atomic(folder / "ladder.csv", page.csv())
    found = found_of(page)
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(folder / "fits.json", text)
    return _written(page, found)


# --------------------------------------------------------------------------------------------------------
# What is found


def found_of(page: LadderPage) -> dict[str, Any]:
    """The fits of `ladders.LAWS`, the frontiers, IsoFLOP profiles and the claims' outcomes, for JSON.

    A law that can't be fitted to the runs there are is told with its reason.
    """
    resamples = page.ladder["resamples"] if page.finished else 0
    told: dict[str, Any] = {"finished": page.finished, "runs": len(page.rows), "laws": {}}
    if not page.rows:
        return {**told, "claims": _undecided(page, "no run has finished yet")}
    tables = Table.read(page.folder / "ladder.csv").by("arm")
    if len(tables) < len(page.arms):
        return {**told, "claims": _undecided(page, "not every arm has a finished run")}
    tables = {arm: tables[arm] for arm in page.arms}
    try:
        for law in ladders.LAWS:
            fits, document = ladders.fits(tables, law, "bits_per_byte", resamples)
            document.pop("seconds")
            for one in document["arms"].values():
                one.pop("seconds", None)
            frontier = ladders.frontiers(tables, fits, law)
            told["laws"][law.name] = {**document, "frontiers": frontier}
    except UserError as error:
        return {**told, "laws": {}, "claims": _undecided(page, str(error))}
    told["isoflop"] = {arm: _isoflop(table) for arm, table in tables.items()}
    shown = told["laws"][ladders.LAWS[0].name]
    stated = page.ladder["claims"]
    if not page.finished:
        return {**told, "claims": _undecided(page, "the ladder is not finished")}
    decided = ladders.decide(stated, shown, shown["frontiers"], page.ladder["margin"])
    told["claims"] = [
        {"key": claim["key"], "outcome": finding.outcome, "reason": finding.reason}
        for claim, finding in zip(stated, decided, strict=True)
    ]
    return told


def _undecided(page: LadderPage, why: str) -> list[dict[str, str]]:
    return [{"key": claim["key"], "outcome": "undecided", "reason": why} for claim in page.ladder["claims"]]


def _isoflop(table: Table) -> dict[str, Any]:
    """The profiles of the budgets that have enough sizes; why not, where there are none."""
    try:
        fitted = fit_isoflop(
            table, Asked(law="isoflop", x=("N",), y="bits_per_byte", compute=("FLOPs",), resamples=0)
        )
    except UserError as error:
        return {"why_not": str(error).removeprefix(f"{table.path}: ")}
    told = {key: fitted.told[key] for key in ("parameters", "budgets", "notes") if key in fitted.told}
    return plain(told)


# --------------------------------------------------------------------------------------------------------
# How it is shown


def _written(page: LadderPage, found: Mapping[str, Any]) -> Path:
    from headtohead.study.report import page_of

    looks = dict(zip(page.arms, inks(len(page.arms)), strict=True))
    charts = charts_of(page.rows, found, looks)
    values = contents(page, found)
    text = environment().get_template("ladder.md.jinja").render(values)
    write_atomic(page.folder / "report.md", _tidy(text))
    html = page.folder / "report.html"
    write_atomic(html, page_of("ladder.html.jinja", values, charts, list(looks.values())))
    if page.finished:
        charting.write_figures(page.folder / "figures", charts, {})
    return html


def _tidy(text: str) -> str:
    lines = [line.rstrip() for line in text.split("\n")]
    kept = [line for n, line in enumerate(lines) if line or (n and lines[n - 1])]
    return "\n".join(kept).strip() + "\n"


def contents(page: LadderPage, found: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates are filled with."""
    claims = [
        {**stated, **said, "text": ladders.RULES[stated["rule"]]}
        for stated, said in zip(page.ladder["claims"], found["claims"], strict=True)
    ]
    laws = [
        {
            "name": name,
            "rows": [
                (page.label[arm], [(p, told["parameters"][p], told["intervals"].get(p)) for p in told["parameters"]])
                for arm, told in law["arms"].items()
            ],
            "held": [(page.label[arm], told["held_out"]) for arm, told in law["arms"].items() if told["held_out"]],
            "exponents": _exponents(page, law),
            "differences": _differences(page, law),
            "notes": [f"{page.label[arm]}: {note}" for arm, told in law["arms"].items() for note in told["notes"]],
            "frontier": _frontier(page, law["frontiers"]),
        }
        for name, law in found["laws"].items()
    ]  # fmt: skip
    done = f"{len(page.rows)} of {page.planned} runs finished"
    if page.stopped:
        done += f", {len(page.stopped)} stopped"
    return {
        "plan": page.plan,
        "ladder": page.ladder,
        "region": page.region,
        "done": done if page.plan.get("left_out") is not None else "tuning the learning rates",
        "finished": page.finished,
        "claims": claims,
        "laws": laws,
        "rows": page.rows,
        "label": page.label,
        "isoflop": found.get("isoflop", {}),
        "stopped": page.stopped,
        "left_out": page.plan.get("left_out") or [],
        "rates": _rates(page),
        "number": _number,
        "decimal": decimal,
        "margin": f"{page.ladder['margin']:g}",
    }


def _exponents(
    page: LadderPage, law: Mapping[str, Any]
) -> list[tuple[str, str, list[tuple[str, float | None, Any]]]]:
    """Arm, what N counts, and the exponents under each counting of compute with their intervals. A counting that is the
    same as another for an arm is not among its own: that arm has no figure there.
    """
    every = [one for told in law["arms"].values() for one in told["countings"].values()]
    names = list(dict.fromkeys(name for one in every for name in one["exponents"]))
    return [
        (
            page.label[arm],
            column,
            [(name, one["exponents"].get(name), one["intervals"].get(name)) for name in names],
        )
        for arm, told in law["arms"].items()
        for column, one in told["countings"].items()
    ]


def _differences(page: LadderPage, law: Mapping[str, Any]) -> list[tuple[str, str, float, Any]]:
    return [
        (f"{page.label[pair['to']]} − {page.label[pair['from']]}", name, value, pair["intervals"].get(name))
        for pair in law["differences"]
        for name, value in pair["parameters"].items()
    ]


def _frontier(page: LadderPage, frontier: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each budget: every arm's least loss, the others' difference to the first."""
    rows = []
    for n, compute in enumerate(frontier["C"]):
        losses = []
        for arm, values in frontier["loss"].items():
            bounds = frontier["intervals"][arm]
            losses.append((page.label[arm], values[n], bounds[n] if bounds else None))
        gaps = []
        for arm, values in frontier["difference"].items():
            bounds = frontier["difference_intervals"][arm]
            gaps.append((page.label[arm], values[n], bounds[n] if bounds else None))
        rows.append({"C": compute, "losses": losses, "gaps": gaps})
    return rows


def _rates(page: LadderPage) -> list[dict[str, Any]]:
    """What the search found at the sizes that were tuned, and what each size was given."""
    found = (page.plan.get("rates") or {}).get("arms", {})
    rows = []
    for arm in page.plan["arms"]:
        searched = found.get(arm["key"])
        rows.append(
            {
                "arm": arm["label"],
                "parameters": arm["parameters"]["total"],
                "given": arm["learning_rate"],
                "optimum": None if searched is None else searched["optimum"],
                "edge": bool(searched and searched["edge"]),
                "tried": []
                if searched is None
                else list(zip(searched["grid"], searched["bits_per_byte"], strict=True)),
            }
        )
    return rows


def _number(value: float | None, bounds: Sequence[float | None] | None = None) -> str:
    def one(x: float | None) -> str:
        if x is None:
            return "–"
        return (f"{x:.4f}" if 0.001 <= abs(x) < 10 else f"{x:.4g}").replace("-", "−")

    return one(value) + (f" ({one(bounds[0])} to {one(bounds[1])})" if bounds else "")
