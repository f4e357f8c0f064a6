"""What the page's templates are filled with: the study's state in words, its tables, facts and citation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headtohead.study.charting import signed
from headtohead.study.drawing import sentence
from headtohead.study.judgement import Difference, Judgement, joined
from headtohead.study.ledger import COST_INPUT, COST_OUTPUT, costs, ledger
from headtohead.study.page import Arm, Crossing, Page, Run
from headtohead.study.parts import DIMENSIONS
from headtohead.study.tables import binary, decimal

RENEW_SECONDS = 60
"""How often an unfinished study's page loads itself again."""


@dataclass(frozen=True)
class State:
    """What is said in words about where the study stands."""

    progress: str
    lead: str
    more: tuple[str, ...]
    results: str
    contrasts: str
    method: str


def _state(page: Page, judgement: Judgement) -> State:
    planned, done = page.count("full"), page.count("full", "finished")
    if page.count("tuning"):
        progress = f"Tuning: {page.count('tuning')} runs, then the comparison"
    elif page.moment in ("nothing", "rehearsal") and page.count("rehearsal"):
        tried, rehearsals = page.count("rehearsal", "finished", "stopped"), page.count("rehearsal")
        progress = f"Rehearsal: {tried} of {rehearsals} runs done; then {planned} full runs"
    else:
        progress = f"{done} of {planned} full runs finished"
        if stopped := page.count("full", "stopped"):
            progress += f", {stopped} stopped"
    match page.moment:
        case "nothing":
            lead = "No verdict: nothing has finished yet."
            more = (
                "What is compared with what, and how small a difference counts as none, was written down "
                "before the first run.",
            )
        case "rehearsal":
            lead = "No verdict: this is a rehearsal."
            more = (
                "Every arm runs once, for a short while, to show that everything works and what it will look "
                "like. Figures this early say nothing about which arm is better.",
            )
        case "underway":
            lead = f"No verdict yet: {progress}."
            more = ("What stands below is how things look so far; it can still change with every run.",)
        case _:
            lead, more = judgement.lead, ()
    results = "Arms stand in the order of the study file."
    if page.rung == "rehearsal":
        results = (
            "From the rehearsal: one short run for each arm. Without an interval there is no ranking; "
            "the order is that of the study file."
        )
    elif page.moment == "underway":
        results = "From the full runs so far. " + results
    contrasts = (
        f"Each contrast changes one thing. They were chosen before the first run, and so was the margin of "
        f"±{page.study['margin']:g} bits per byte, under which a difference counts as none."
    )
    method = (
        "Intervals are of 95 %, each for its contrast alone; whether two arms are called different is "
        "decided with Holm's correction over all contrasts and regions. The variance between seeds is "
        "pooled over the arms as far as they vary alike; documents are a second random factor. Smallest "
        "detectable: the difference that these runs would have found 8 times in 10. A verdict on "
        "visibility needs an input that is worth at least 5 of these."
    )
    return State(progress, lead, more, results, contrasts, method)


def contents(page: Page, judgement: Judgement) -> dict[str, Any]:
    margin = page.study["margin"]
    drawn = [d for d in judgement.differences if d.difference is not None]
    rested = [d for claim in judgement.claims for pair in claim.evidence for d in pair]
    reach = 1.12 * max(3 * margin, furthest(rested))
    thresholds = [
        {"region": region, "limit": limit, "crossings": [_crossing(c) for c in page.crossings(region)]}
        for region in page.regions
        if (limit := page.threshold(region)) is not None
    ]
    has_curves = any(page.curves(region, "tokens") for region in page.regions)
    sections = [
        ("results", "Bits per byte", bool(page.shown)),
        ("contrasts", "Contrasts", bool(drawn)),
        ("curves", "Learning curves", has_curves),
        ("lengths", "Longer text", any(page.at_lengths(arm) for arm in page.arms)),
        ("elsewhere", "Other texts", bool(page.elsewhere)),
        ("tasks", "Tasks", bool(page.tasks)),
        ("seen", "Who sees whom", True),
        ("rates", "Learning rates", bool(page.plan.get("rates"))),
        ("ledger", "Ledger", bool(page.shown)),
        ("cost", "Cost of use", True),
        ("samples", "Samples", bool(page.samples)),
        ("reproduce", "Repeat and cite", True),
    ]
    return {
        "plan": page.plan,
        "study": page.study,
        "arms": page.arms,
        "regions": page.regions,
        "margin": f"{margin:g}",
        "band": margin,
        "at": _Scale(reach, margin).at,
        "signed": lambda value: signed(value, margin),
        "state": _state(page, judgement),
        "date": f"{page.written:%Y-%m-%d %H:%M} UTC",
        "refresh": 0 if page.moment == "finished" else RENEW_SECONDS,
        "sections": [(key, name) for key, name, there in sections if there],
        "progress": _progress(page),
        "stopped": page.stopped,
        "refused": judgement.refused,
        "claims": judgement.claims,
        "decided": judgement.final,
        "shown": bool(page.shown),
        "intervals": page.rung == "full",
        "table": _table(page, judgement),
        "baselines": page.baselines,
        "all_tokens": [(arm, v) for arm in page.arms if (v := page.all_tokens(arm)) is not None],
        "differences": judgement.differences,
        "judged": page.judged,
        "elsewhere": _elsewhere(page),
        "tasks": [
            (name, [(arm, found) for arm in page.arms if (found := page.task(arm, name))])
            for name in page.tasks
        ],
        "elsewhere_names": page.elsewhere,
        "lengths": [(arm, found) for arm in page.arms if (found := page.at_lengths(arm))],
        "compared": bool(drawn),
        "has_strips": any(c.evidence for c in judgement.claims),
        "has_curves": has_curves,
        "thresholds": thresholds,
        "captions": {arm.key: _caption(arm) for arm in page.arms},
        "sentences": {arm.key: sentence(arm.architecture) for arm in page.arms},
        "rates": _rates(page),
        "ledger": ledger(page),
        "ledger_arms": page.arms_shown,
        "declared": [
            (DIMENSIONS.get(k, k), why) for k, why in page.study.get("declared_differences", {}).items()
        ],
        "cost_input": COST_INPUT,
        "cost_output": COST_OUTPUT,
        "costs": _costs(page),
        "samples": page.samples,
        "command": page.plan["command"],
        "facts": _facts(page),
        "bibtex": _bibtex(page),
    }


def furthest(differences: Sequence[Difference]) -> float:
    """How far from zero the intervals reach."""
    return max((abs(end) for d in differences for end in (d.low, d.high) if end is not None), default=0.0)


@dataclass(frozen=True)
class _Scale:
    """Where a difference lies on a strip, in percent: linear inside the margin, logarithmic outside."""

    reach: float
    margin: float

    def at(self, value: float) -> float:
        folded = math.log1p(abs(value) / self.margin) / math.log1p(self.reach / self.margin)
        return round(50 + math.copysign(50 * min(folded, 1.0), value), 2)


def _crossing(c: Crossing) -> dict[str, Any]:
    def joined(values: Sequence[float | None]) -> str:
        return ", ".join("not yet" if v is None else decimal(v) for v in values)

    return {"arm": c.arm, "tokens": joined(c.tokens), "flops": joined(c.flops)}


def _progress(page: Page) -> list[dict[str, Any]]:
    """For each arm its planned runs in order, None between rehearsal and full runs."""
    rows: list[dict[str, Any]] = []
    for arm in page.arms:
        runs: list[Run | None] = []
        for run in (run for run in page.runs if run.arm.key == arm.key):
            if runs and runs[-1] is not None and runs[-1].rung != run.rung:
                runs.append(None)
            runs.append(run)
        rows.append({"arm": arm, "runs": runs})
    return rows


def _table(page: Page, judgement: Judgement) -> list[dict[str, Any]]:
    rows = []
    for arm in page.arms:
        cells = []
        for region in page.regions:
            bits = page.bits(arm, region)
            low, high = judgement.interval(arm.key, region)
            mean = judgement.mean(arm.key, region)
            if mean is None and bits:
                mean = sum(bits) / len(bits)
            value = page.value_of_input(arm, region)
            cells.append(
                {"region": region, "mean": mean, "low": low, "high": high, "runs": len(bits), "value": value}
            )
        mismatch = None
        if arm.mismatch is not None and arm.matched_to is not None:
            percent = f"{arm.mismatch:+.2%}".replace("-", "−")
            mismatch = (
                f"{percent} to {arm.matched_to}" if percent.strip("+−0.%") else f"equal to {arm.matched_to}"
            )
        rows.append({"arm": arm, "cells": cells, "mismatch": mismatch})
    return rows


def _elsewhere(page: Page) -> list[dict[str, Any]]:
    """For each region its arms, and for each of them its own text and the others."""
    return [
        {
            "region": region,
            "rows": [
                {
                    "arm": arm,
                    "here": sum(bits) / len(bits),
                    "there": [page.out_of_domain(arm, name, region) for name in page.elsewhere],
                }
                for arm in page.arms_shown
                if (bits := page.bits(arm, region))
            ],
        }
        for region in page.regions
    ]


def _caption(arm: Arm) -> str:
    a = arm.architecture
    depth = " and ".join(f"{stream.depth} layer{'s' * (stream.depth != 1)}" for stream in a.streams)
    loss = {"all": "loss on every token", "output": "loss on the output"}.get(
        arm.supervise, f"loss on {arm.supervise}"
    )
    learnt = "" if arm.objective is None else f"learns by {arm.objective}; "
    return f"{depth}, width {a.d_model}, {a.heads} heads; {learnt}{loss}; {arm.parameters:,} parameters"


def _rates(page: Page) -> dict[str, Any] | None:
    found = page.plan.get("rates")
    if not found:
        return None
    arms = [(arm, found["arms"][arm.key]) for arm in page.arms if arm.key in found["arms"]]
    grid = sorted({rate for _, search in arms for rate in search["grid"]})
    rows = []
    for arm, search in arms:
        got = dict(zip(search["grid"], search["bits_per_byte"], strict=True))
        cells = [
            {
                "text": "" if rate not in got else "stopped" if got[rate] is None else f"{got[rate]:.3f}",
                "taken": rate == search["best"],
            }
            for rate in grid
        ]
        shared = got.get(found.get("shared"))
        trials = search.get("trials", ())
        rows.append(
            {
                "arm": arm,
                "cells": cells,
                "edge": search["edge"],
                "optimum": search["optimum"],
                "shared": None if shared is None else shared - got[search["best"]],
                "unsteady": f"{sum(bool(t['unsteady']) for t in trials)} of {len(trials)}" if trials else "",
                "settings": ", ".join(f"{k} {v}" for k, v in search.get("settings", {}).items()),
            }
        )
    edges = [row["arm"].key for row in rows if row["edge"]]
    seeds = len(found.get("seeds", (1,)))
    own = "a seed of their own" if seeds == 1 else f"{seeds} seeds of their own each"
    words = (
        f"Before the study, every arm was tried at the same {len(grid)} learning rates, in runs of "
        f"{found['steps']:,} steps under {own}, scored on the tuning split, which the results "
        "never touch. An arm's optimum (a line at the foot) is the lowest point of the parabola through its best "
        "rate (the large mark) and that rate's neighbours"
    )
    if exponent := page.study.get("horizon_exponent"):
        words += (
            f"; the full runs use it times (their steps / steps of the search)^−{exponent:g}, since a longer "
            "run wants a smaller rate (Bjorck et al., arXiv 2409.19913)"
        )
    words += ". "
    words += (
        f"For {joined(edges)} the best lies on the edge of the grid (ringed); a better one may lie beyond."
        if edges
        else "No arm's best lies on the edge of the grid."
    )
    shared = found.get("shared")
    if shared is not None:
        words += (
            f" At {shared:g}, the one rate that is best for all arms together, an arm needs so many more bits per byte "
            "than at its own best as its row says."
        )
    if any(row["unsteady"] for row in rows):
        words += (
            " A run is unsteady if its loss was not finite, stood out at some step above those before it, or ended "
            "more than 2 % above the lowest point of its curve."
        )
    return {"words": words, "grid": grid, "rows": rows, "shared": shared}


def _costs(page: Page) -> list[dict[str, Any]]:
    found = costs(page.arms)
    top = [max(getattr(c, name) for c in found) for name in ("prefill_ratio", "decode_ratio", "cache_ratio")]
    return [
        {
            "arm": c.arm,
            "cells": [
                (decimal(c.prefill), c.prefill_ratio, top[0], "prefill FLOPs"),
                (decimal(c.decode), c.decode_ratio, top[1], "decode, a token"),
                (binary(c.cache), c.cache_ratio, top[2], "cache"),
            ],
        }
        for c in found
    ]


def _facts(page: Page) -> list[tuple[str, str]]:
    plan, data = page.plan, page.plan["data"]
    machine = ", ".join(f"{key} {value}" for key, value in plan.get("machine", {}).items())
    splits = "; ".join(
        f"{name}: {split['examples']:,} examples from {split['documents']:,} documents"
        for name, split in data["splits"].items()
    )
    made = "; ".join(
        f"{key.replace('_', ' ')} {' / '.join(values)}"
        for key, values in page.identities.items()
        if key in ("torch", "threads", "dtype", "compiled")
    )
    facts = [
        ("seeds", ", ".join(map(str, page.study["seeds"]))),
        ("text", data["source"]),
        ("split", splits),
        ("corpus SHA-256", data["corpus_sha256"]),
        ("tokenizer SHA-256", data["tokenizer_sha256"]),
        ("settings changed", ", ".join(plan.get("overrides", [])) or "none"),
        (
            "version",
            f"headtohead {plan['version']}" + (f", commit {plan['commit']}" if plan.get("commit") else ""),
        ),
        ("runs made with", made),
        ("machine", machine),
        ("date", f"{page.written:%Y-%m-%d}"),
    ]
    return [(name, value) for name, value in facts if value]


def _bibtex(page: Page) -> str:
    def plain(text: str) -> str:
        return "".join(c for c in " ".join(text.split()) if c not in "{}\\%#$&~^_")

    return (
        f"@misc{{headtohead-{page.study['name']}-{page.written:%Y},\n"
        f"  title  = {{{plain(page.study['title'])}}},\n"
        f"  author = {{{{The headtohead authors}}}},\n"
        f"  year   = {{{page.written:%Y}}},\n"
        f"  note   = {{headtohead {page.plan['version']}, study {page.study['name']}, "
        f"corpus {page.plan['data']['corpus_sha256'][:12]}}}\n}}"
    )
