"""`headtohead choose`: from the user's data and minutes to a recommendation and a trained network.

OUT holds everything: the study files as they were made (`rates.toml`, `lower.toml`, `upper.toml`), a folder for each
of them, the network in `winner`, the page in `index.html`, and `choose.json`, which remembers what was decided. Each
stage is a study or a training run of its own, so that a choice that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headtohead.errors import Interrupted, UserError
from headtohead.files import FolderLock, explain_os_error, make_folder, read_json, write_atomic
from headtohead.model.architecture import Architecture
from headtohead.study import runner, solo
from headtohead.study.arms import matched_arms
from headtohead.study.choosing import candidates, choice_page, winner
from headtohead.study.choosing.candidates import (
    CANDIDATES,
    REFERENCE,
    SHAPES,
    SHARES,
    Budget,
    Lengths,
    Plan,
    Shape,
)
from headtohead.study.choosing.material import cut
from headtohead.study.choosing.recommending import Recommendation, recommend
from headtohead.study.display import duration
from headtohead.study.pace import pace
from headtohead.study.places import Here
from headtohead.study.plan import Study
from headtohead.study.prepare import Source, read_source
from headtohead.study.results import is_done
from headtohead.validation import validated

LEAST_MINUTES = 5
OURS = re.compile(
    r"\.lock|data|measured|pairs\.jsonl|\.(data|measured)\.unfinished|\.(pairs\.jsonl|choose\.json)\..+\.tmp"
)
"""What a choice that was killed before choose.json was written may have left."""


@dataclass(frozen=True)
class Request:
    """What the person wants: data, minutes, and how the network will be used."""

    text: tuple[Path, ...] = ()
    pairs: Path | None = None
    field: str = "text"
    minutes: float = 60.0
    serve_input: int | None = None
    serve_output: int | None = None
    max_latency_ms: float | None = None
    out: Path = Path("runs/choose")
    workers: int | None = None

    def told(self) -> dict[str, Any]:
        """What must not change between a choice's beginning and its going on."""
        told = asdict(self)
        told.pop("out")
        told.pop("workers")
        return {**told, "text": [str(path) for path in self.text], "pairs": self.pairs and str(self.pairs)}


@dataclass
class Decided:
    """choose.json: what was settled once, and how much of the time went where (seconds by stage)."""

    request: dict[str, Any]
    material: dict[str, Any]
    plan: dict[str, Any]
    latency: dict[str, float]
    left_out: dict[str, str]
    """Candidates that are not tried, and why."""
    seconds: dict[str, float] = field(default_factory=dict)
    winner: dict[str, Any] | None = None


def choose(request: Request, exports: Callable[[Path], bool]) -> Recommendation:
    """Find the architecture for the request's data, train it, and write the page; returns what is recommended.

    Args:
        exports: whether a run's network can be handed over to transformers (`solo.train`).

    Raises:
        UserError: data that can't be read or learnt from, a limit that nothing keeps, another choice in the folder,
            fewer than two architectures with a result, a recommended network whose loss was not finite.
        Interrupted: by Ctrl-C; the same command goes on.
    """
    if not request.text and request.pairs is None:
        raise UserError("give the data to choose by: --text PATH, or --pairs FILE.jsonl")
    if not request.minutes >= LEAST_MINUTES:
        raise UserError(
            f"--minutes {request.minutes:g} is too short to tell anything: give {LEAST_MINUTES} or more"
        )
    if request.max_latency_ms is not None and not request.max_latency_ms > 0:
        raise UserError(f"--max-latency-ms {request.max_latency_ms:g} is no time: give a positive number")
    source = read_source(request.text, request.pairs, request.field)
    out = request.out
    with FolderLock(out):
        decided = _decided(request, source, out)
    plan = _plan(decided)
    for name, tables in _studies(plan).items():
        write_atomic(out / f"{name}.toml", candidates.written(tables))
    for name in ("rates", "lower", "upper"):
        print(f"\n{_heading(name, plan, decided)}", flush=True)
        began = time.monotonic()
        try:
            _study(name, request, decided, out)
        finally:
            decided.seconds[name] = decided.seconds.get(name, 0.0) + time.monotonic() - began
            _keep(decided, out)
        if name == "rates":
            write_atomic(out / "rates.json", (out / "rates" / "rates.json").read_bytes())
    found = recommend(out, plan, decided.latency)
    page = choice_page.write(out, found, asdict(decided))
    print(f"\n{found.lead}\nPage: {page}\n", flush=True)
    _train_winner(request, decided, found, out, exports)
    choice_page.write(out, found, asdict(decided))
    trained = found.arm if decided.winner is None else found.upper.page.arm(decided.winner["arm"])
    winner.check(out, trained.label, *_paths(request, decided), request.field)
    print(f"\n{found.lead}\nThe page: {page}\nThe network: {out / 'winner'}")
    return found


# -- what is decided once


def _decided(request: Request, source: Source, out: Path) -> Decided:
    """choose.json, made at the first time.

    Raises:
        UserError: the folder is another choice's, or holds other things.
    """
    path = out / "choose.json"
    if path.is_file():
        there = read_json(path, "the choice")
        if not isinstance(there, dict) or set(there) != set(Decided.__dataclass_fields__):
            raise UserError(
                f"the choice {path} is damaged: start afresh with another --out, such as --out {out}-2"
            )
        decided = Decided(**there)
        now = {**request.told(), "sha256": source.material.sha256}
        for key, value in decided.request.items():
            if now[key] != value:
                raise UserError(
                    f"{out} holds a choice by other words ({key}: {value} there, {now[key]} here): set this back, or "
                    f"start afresh with another --out, such as --out {out}-2"
                )
        return decided
    others = [p.name for p in out.iterdir() if not OURS.fullmatch(p.name)]
    if others:
        raise UserError(f"{out} holds other things ({sorted(others)[0]}): give a folder that is new (--out)")
    began = time.monotonic()
    made = cut(source, (request.serve_input, request.serve_output), out, print)
    serve = (request.serve_input or made.lengths.input, request.serve_output or made.lengths.output)
    workers = request.workers or Here().slots()
    kind = "pairs" if request.pairs else "text"
    here, vocabulary = pace(), made.data["vocabulary"]
    shapes, too_slow = list(SHAPES), {}
    while True:
        b = candidates.budget(kind, made.lengths, vocabulary, request.minutes, workers, here, shapes)
        plan = Plan(
            kind, source.material.name, b, made.lengths, made.data, serve, tuple(c.key for c in CANDIDATES)
        )
        networks = _networks(plan)
        latency = _milliseconds(networks, serve)
        limit = request.max_latency_ms
        fast = [key for key, value in latency.items() if limit is None or value <= limit]
        if len(fast) > 1 and REFERENCE in fast:
            break
        shapes = shapes[: shapes.index(b.shape)]
        if not shapes:
            soonest = min((key for key in latency if key != REFERENCE), key=lambda key: latency[key])
            raise UserError(
                f"no two architectures, the {CANDIDATES[0].label} among them (whose cost the others are brought to), "
                f"answer {serve[0]} tokens with {serve[1]} within {limit:g} ms here, even at the smallest size: "
                f"{REFERENCE} takes {latency[REFERENCE]:.1f} ms, {soonest} {latency[soonest]:.1f} ms; allow more with "
                "--max-latency-ms"
            )
    too_slow = {
        k: f"takes {v:.0f} ms for an answer, more than {limit:g}" for k, v in latency.items() if k not in fast
    }
    plan = Plan(kind, plan.title, b, plan.lengths, plan.data, serve, tuple(fast))
    decided = Decided(
        request={**request.told(), "sha256": source.material.sha256},
        material={
            "source": source.material.source,
            "pairs": str(out / "pairs.jsonl") if made.left_out else None,
            "left_out": made.left_out,
            "why": made.why,
        },
        plan=_as_json(plan),
        latency=latency,
        left_out=too_slow,
        seconds={"beginning": time.monotonic() - began},
    )
    _keep(decided, out)
    return decided


def _networks(plan: Plan) -> dict[str, Architecture]:
    """The candidates' networks on the upper rung, brought to equal cost."""
    study = validated(Study, candidates.comparison(plan, "upper"), "the upper rung")
    return {key: matched.architecture for key, matched in matched_arms(study).items()}


def _milliseconds(networks: Mapping[str, Architecture], serve: tuple[int, int]) -> dict[str, float]:
    from headtohead.study.choosing.latency import milliseconds

    return milliseconds(networks, *serve)


def _as_json(plan: Plan) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(plan)))


def _plan(decided: Decided) -> Plan:
    told = decided.plan
    b = told["budget"]
    return Plan(
        told["kind"],
        told["title"],
        Budget(**{**b, "shape": Shape(**b["shape"]), "seeds": tuple(b["seeds"])}),
        Lengths(**told["lengths"]),
        told["data"],
        tuple(told["serve"]),
        tuple(told["arms"]),
    )


def _keep(decided: Decided, out: Path) -> None:
    write_atomic(out / "choose.json", json.dumps(asdict(decided), indent=1, ensure_ascii=False) + "\n")


# -- the stages


def _studies(plan: Plan) -> dict[str, dict[str, Any]]:
    return {
        "lower": candidates.comparison(plan, "lower"),
        "upper": candidates.comparison(plan, "upper"),
        "rates": candidates.rates_search(plan),
    }


def _heading(name: str, plan: Plan, decided: Decided) -> str:
    shape = plan.budget.shape
    what = {
        "rates": f"learning rates: {len(plan.arms)} architectures, {len(candidates.GRID)} values each",
        "lower": f"the ladder's lower rung: {shape.lower.depth} layers of width {shape.d_model}",
        "upper": f"the ladder's upper rung: {shape.depth} layers of width {shape.d_model}",
    }[name]
    minutes = decided.request["minutes"] * SHARES[name]
    return f"{what}, about {duration(60 * minutes)}"


def _study(name: str, request: Request, decided: Decided, out: Path) -> None:
    folder = out / name
    if not (folder / "data" / "data.json").is_file():
        take_data(out, folder)
    text, pairs = _paths(request, decided)
    runner.study(
        out / f"{name}.toml",
        text=text,
        pairs=pairs,
        field=request.field,
        out=folder,
        workers=request.workers,
    )


def take_data(out: Path, folder: Path) -> None:
    """Give a study the prepared data of OUT, whole or not at all: the same text, cut the same, is not prepared again.

    Raises:
        UserError: a full disk.
    """
    unfinished = folder / ".data.unfinished"
    make_folder(folder)
    try:
        for old in (unfinished, folder / "data"):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(out / "data", unfinished)
        unfinished.rename(folder / "data")
    except OSError as error:
        raise UserError(f"cannot write {folder / 'data'}: {explain_os_error(error)}") from error


def _paths(request: Request, decided: Decided) -> tuple[tuple[Path, ...], Path | None]:
    kept = decided.material["pairs"]
    return request.text, (request.pairs if kept is None else Path(kept))


def _train_winner(
    request: Request, decided: Decided, found: Recommendation, out: Path, exports: Callable[[Path], bool]
) -> None:
    """Train the recommended network for the time that is left, or go on with it."""
    folder, file = out / "winner", out / "winner.toml"
    if is_done(folder):
        return
    told = decided.winner
    if told is None:
        left = 60 * request.minutes - sum(decided.seconds.values())
        seconds = max(left, 60 * request.minutes * SHARES["winner"] / 2)
        told = {"arm": found.arm.key, "steps": found.steps_in(seconds)}
    if not (folder / "run.json").is_file():
        write_atomic(file, candidates.written(winner.tables(_plan(decided), told["arm"], told["steps"], out)))
    decided.winner = told
    _keep(decided, out)
    label = found.upper.page.arm(told["arm"]).label
    print(f"the {label} is trained for {told['steps']:,} steps, in {folder}", flush=True)
    if (folder / "run.json").is_file():
        words = solo.Words(resume=folder)
    else:
        text, pairs = _paths(request, decided)
        given = None if request.field == "text" else request.field
        words = solo.Words(str(file), text, pairs, field=given, out=folder)
    began = time.monotonic()
    try:
        solo.train(words, _no_origin, exports)
    except UserError as error:
        if isinstance(error, Interrupted) or not is_done(folder):
            raise  # a loss that was not finite is a result, which the page tells first
    finally:
        decided.seconds["winner"] = decided.seconds.get("winner", 0.0) + time.monotonic() - began
        _keep(decided, out)


def _no_origin(folder: Path) -> solo.Origin:
    raise UserError(f"{folder}: a choice starts with fresh weights")
