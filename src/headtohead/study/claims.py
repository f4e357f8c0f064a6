"""Claims on trial: every study file that puts one on trial, every result on disk that speaks of it, and the page.

The verdicts are those of the studies' own pages; here they are put side by side, by claim. What was not run yet stands
beside what was. Imports no torch.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headtohead.errors import UserError
from headtohead.files import make_folder, read_json, write_atomic
from headtohead.measure import claims as claim_rules
from headtohead.measure import dialogues, ladders
from headtohead.study import ladder_page
from headtohead.study.dialogue import CHART, DialogueClaim, Found, is_dialogue, load_dialogue
from headtohead.study.drawing import environment
from headtohead.study.evidence import STUDIES, Evidence, Trial, command
from headtohead.study.judgement import Difference, judge
from headtohead.study.ladder import LadderClaim, is_ladder, load_ladder
from headtohead.study.loading import load
from headtohead.study.page import read
from headtohead.study.plan import Claim as Stated
from headtohead.study.results import read_plan
from headtohead.study.tables import decimal
from headtohead.validation import suggest

RESULTS = Path("results")
PAGE = Path("docs/claims.md")
RULES = {**claim_rules.RULES, **ladders.RULES, **dialogues.RULES}
"""All decision rules by name, as they are printed."""
KEPT = (
    "plan.json",
    "results.jsonl",
    "timings.jsonl",
    "tuning-timings.jsonl",
    "ladder.csv",
    "fits.json",
    "report.md",
    CHART,
)
"""Of a study's folder, what is kept of it as evidence; the baselines beside them."""


@dataclass(frozen=True)
class OnTrial:
    """A claim in a study file that may be run. study: its name."""

    stated: Stated | LadderClaim | DialogueClaim
    file: Path
    study: str

    @property
    def rule(self) -> str:
        """The text of its decision rule."""
        return RULES[self.stated.rule]


def on_trial(folder: Path = STUDIES) -> list[OnTrial]:
    """The claims of every study file in a folder, in the order of their keys.

    Raises:
        UserError: a study file that is wrong.
    """
    found: list[OnTrial] = []
    for file in sorted(folder.glob("*.toml")):
        if is_ladder(file):
            ladder, _ = load_ladder(file)
            found += [OnTrial(claim, file, ladder.name) for claim in ladder.claims]
            continue
        if is_dialogue(file):
            study = load_dialogue(file)
            found += [OnTrial(claim, file, study.name) for claim in study.claims]
            continue
        study, rates = load(file)
        if rates is None:
            found += [OnTrial(claim, file, study.name) for claim in study.claims]
    return sorted(found, key=lambda one: (_natural(one.stated.key), str(one.file)))


def trials(folder: Path = RESULTS, studies: Path = STUDIES) -> list[Trial]:
    """The claims of every study with results in a folder, in the order of their keys.

    Raises:
        UserError: results that can't be read.
    """
    found: list[Trial] = []
    for place in sorted(folder.glob("*/plan.json")):
        told = read_json(place, "the plan")
        if not (isinstance(told, dict) and isinstance(told.get("study"), dict)):
            continue  # a plan of something else
        plan = read_plan(place.parent, "start the study again, which writes it anew")
        if "ladder" in plan:
            found += _of_ladder(place.parent, plan, studies)
        elif plan["study"].get("kind") == "dialogue":
            found += _of_dialogue(place.parent, studies)
        elif plan["study"].get("claims"):
            found += _of_study(place.parent, studies)
    return sorted(found, key=lambda one: (_natural(one.key), str(one.folder)))


def _of_study(folder: Path, studies: Path) -> list[Trial]:
    page = read(folder)
    judgement = judge(page)
    found = []
    for claim, stated in zip(judgement.claims, page.study["claims"], strict=True):
        ends = [(c["from"], c["to"]) for c in page.study["contrasts"] if c["name"] in stated["contrasts"]]
        arms = list(dict.fromkeys(key for pair in ends for key in pair))
        runs = {(line["arm"], line["seed"]) for line in page.shown}
        shown = [line["ledger"]["tokens_shown"] for line in page.shown if line["arm"] in arms]
        sizes = [page.arm(key).parameters for key in arms]
        repeated = _seeds(sum(all((arm, seed) in runs for arm in arms) for seed in page.study["seeds"]))
        scale = _scale(sizes, shown)
        if stated["rule"] == "steadier":  # which speaks of the search's runs
            search = page.plan["rates"]
            grid = next(iter(search["arms"].values()))["grid"]
            repeated = f"{_seeds(len(search['seeds']))} × {len(grid)} learning rates"
            scale = f"{_range(sizes)} parameters, runs of {search['steps']:,} steps"
        evidence = [
            Evidence(
                f"{d.first.key} → {d.second.key}", d.region, d.difference, d.low, d.high, d.detectable,
                d.value_of_input, _with_settling(d), d.sentence,
            )
            for pair in claim.evidence for d in pair
        ]  # fmt: skip
        found.append(
            Trial(
                folder=folder,
                study=page.study["name"],
                stated=stated,
                rule=RULES[stated["rule"]],
                outcome=claim.outcome if judgement.final else "still running",
                findings=tuple((f.region, f.outcome, f.reason) for f in claim.findings),
                evidence=tuple(evidence),
                repeated=repeated,
                scale=scale,
                margin=f"±{page.study['margin']:g} bits per byte",
                command=command(page.plan, studies, stated["key"]),
                version=_version(page.plan),
            )
        )
    return found


def _of_ladder(folder: Path, plan: Mapping[str, Any], studies: Path) -> list[Trial]:
    """A ladder's claims, from what its page kept beside it: fitting takes a while."""
    page = ladder_page.read(folder)
    told = read_json(folder / "fits.json", "the fits of a ladder")
    found = []
    for stated, said in zip(page.ladder["claims"], told["claims"], strict=True):
        arms = [
            f"{end}-{size['name']}" for end in (stated["from"], stated["to"]) for size in page.ladder["sizes"]
        ]
        sizes = [arm["parameters"]["total"] for arm in plan["arms"] if arm["key"] in arms]
        pairs = told["laws"].get(ladders.LAWS[0].name, {}).get("differences", ())
        evidence = [
            Evidence(
                arms=f"{pair['from']} → {pair['to']}",
                where=name,
                value=value,
                low=(pair["intervals"].get(name) or (None, None))[0],
                high=(pair["intervals"].get(name) or (None, None))[1],
                detectable="",
                value_of_input=None,
                outcome="irreducible loss" if name == "E" else "exponent",
                sentence="",
            )
            for pair in pairs
            for name, value in pair["parameters"].items()
        ]
        found.append(
            Trial(
                folder=folder,
                study=page.ladder["name"],
                stated=stated,
                rule=RULES[stated["rule"]],
                outcome=said["outcome"] if page.finished else "still running",
                findings=(("the laws", said["outcome"], said["reason"]),),
                evidence=tuple(evidence) if stated["rule"] == "same-exponents" else (),
                repeated=_seeds(len(page.ladder["seeds"])),
                scale=_scale(sizes, [row["D"] for row in page.rows], spread=True),
                margin=f"±{page.ladder['margin']:g} of an exponent",
                command=command(plan, studies, stated["key"]),
                version=_version(plan),
            )
        )
    return found


def _of_dialogue(folder: Path, studies: Path) -> list[Trial]:
    found = Found(folder)
    trials = []
    for claim, stated in zip(found.study.claims, found.plan["study"]["claims"], strict=True):
        outcome, why = found.decided(claim)
        first = claim.back_only[0]
        grown = {name: dialogues.growth(found.held[name], found.held[first]) for name in claim.others}
        trials.append(
            Trial(
                folder=folder,
                study=found.study.name,
                stated=stated,
                rule=RULES[claim.rule],
                outcome=outcome,
                findings=(("the turns", outcome, why),),
                evidence=tuple(
                    Evidence(
                        f"{first} → {name}", "growth of the gap, in turns", g.value, g.low, g.high, "", None,
                        f"keeps {found.held[name].kept[-1]:,} of the input in the last turn", "",
                    )
                    for name, g in grown.items()
                ),
                repeated=f"{found.study.rounds} rounds",
                scale=found.scale,
                margin=f"{found.study.margin:g} of a turn",
                command=command(found.plan, studies, claim.key),
                version=_version(found.plan),
            )
        )  # fmt: skip
    return trials


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _with_settling(d: Difference) -> str:
    return "; ".join([d.outcome, *(remark for remark in d.remarks if "settle it" in remark)])


def _scale(sizes: Sequence[int], shown: Sequence[float], spread: bool = False) -> str:
    """Parameters of the networks, and the tokens that a run was shown: their mean, or the least and the most."""
    tokens = "no" if not shown else _range(shown) if spread else _range([sum(shown) / len(shown)])
    return f"{_range(sizes)} parameters, {tokens} tokens shown"


def _range(values: Sequence[float]) -> str:
    low, high = (decimal(value).replace(" ", "") for value in (min(values), max(values)))
    return low if max(values) < 1.05 * min(values) else f"{low} to {high}"


def _version(plan: Mapping[str, Any]) -> str:
    return f"version {plan['version']}" + (f", commit {plan['commit'][:12]}" if plan.get("commit") else "")


def _natural(key: str) -> list[tuple[int, str]]:
    """C2 before C10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", key)]


def _is(asked: str, key: str) -> bool:
    """Whether a claim is asked for: C17 asks for C17-cure too."""
    return key.lower() == asked.lower() or key.lower().startswith(f"{asked.lower()}-")


def find(key: str, folder: Path = STUDIES) -> OnTrial:
    """The study file that puts a claim on trial.

    Raises:
        UserError: there is none.
    """
    known = on_trial(folder)
    for one in sorted(known, key=lambda one: one.stated.key.lower() != key.lower()):
        if _is(key, one.stated.key):
            return one
    keys = [one.stated.key for one in known]
    raise UserError(f"no study in {folder} puts a claim '{key}' on trial: {suggest(key, keys)}")


# --------------------------------------------------------------------------------------------------------
# In the terminal


def show(key: str | None, results: Path = RESULTS, studies: Path = STUDIES) -> None:
    """Print the table of verdicts, or all there is on one claim.

    Raises:
        UserError: no such claim.
    """
    done, waiting = trials(results, studies), on_trial(studies)
    console = Console(file=sys.stdout, highlight=False)
    if key is not None:
        _show_one(console, key, done, waiting)
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for heading in ("claim", "verdict", "study", "repeated", "what is claimed, and at what scale"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("claim", "verdict"))
    for trial in done:
        table.add_row(
            Text(trial.key, style="bold"), trial.outcome, trial.study, trial.repeated,
            Text.assemble(f"{trial.stated['sentence']} ", (trial.scale, "dim")),
        )  # fmt: skip
    for one in not_run(done, waiting):
        table.add_row(Text(one.stated.key, style="bold"), "not run yet", one.study, "", one.stated.sentence)
    console.print(table)
    print(
        "headtohead claims show KEY tells what a verdict rests on, headtohead claims run KEY runs its study."
    )


def not_run(done: Iterable[Trial], waiting: Iterable[OnTrial]) -> list[OnTrial]:
    """The claims on trial that no result of their own study speaks of."""
    there = {(trial.key, trial.study) for trial in done}
    return [one for one in waiting if (one.stated.key, one.study) not in there]


def _show_one(console: Console, key: str, done: Sequence[Trial], waiting: Sequence[OnTrial]) -> None:
    own = [trial for trial in done if _is(key, trial.key)]
    open_ = [one for one in not_run(done, waiting) if _is(key, one.stated.key)]
    if not own and not open_:
        keys = [*(trial.key for trial in done), *(one.stated.key for one in waiting)]
        raise UserError(f"there is no claim '{key}': {suggest(key, list(dict.fromkeys(keys)))}")
    for trial in own:
        console.print(f"[bold]{trial.key}[/bold], study {trial.study}: [bold]{trial.outcome}[/bold]")
        console.print(f"“{trial.stated['sentence']}” ({trial.stated.get('source', '')})", markup=False)
        for where, outcome, why in trial.findings:
            console.print(f"  {where}: {outcome} ({why})", markup=False)
        for one in trial.evidence:
            if one.sentence:
                console.print(f"  {one.sentence}", markup=False)
        console.print(f"  {trial.repeated}, {trial.scale}; margin {trial.margin}", markup=False)
        console.print(f"  rule: {trial.rule}", markup=False, style="dim")
        console.print(f"  {trial.command}\n", markup=False)
    for one in open_:
        console.print(f"[bold]{one.stated.key}[/bold], study {one.study}: not run yet")
        console.print(f"“{one.stated.sentence}” ({one.stated.source})", markup=False)
        for word, text in (
            ("supported by", one.stated.supported_by),
            ("contradicted by", one.stated.contradicted_by),
            ("rule", one.rule),
        ):
            if text:
                console.print(f"  {word}: {text}", markup=False)
        console.print(f"  headtohead claims run {one.stated.key}\n", markup=False)


# --------------------------------------------------------------------------------------------------------
# The page, and what is kept


def page(results: Path = RESULTS, studies: Path = STUDIES) -> str:
    """docs/claims.md: what the results on disk say of each claim."""
    done, waiting = trials(results, studies), on_trial(studies)
    rules = {name: text for name, text in RULES.items() if any(t.stated["rule"] == name for t in done)}
    text = environment().get_template("claims.md.jinja").render(
        trials=done, waiting=not_run(done, waiting), rules=rules, signed=_signed, number=decimal
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}".replace("-", "−")


def write_page(path: Path = PAGE, results: Path = RESULTS, studies: Path = STUDIES) -> None:
    """Write the page.

    Raises:
        UserError: results that can't be read, or a file that can't be written.
    """
    write_atomic(path, page(results, studies))
    print(f"{path} written from {results}")


def keep(folder: Path, results: Path = RESULTS) -> Path:
    """Copy what is evidence of a finished study (plan, results, times, page) to a folder of its name.

    Raises:
        UserError: no study there, or one that isn't finished.
    """
    plan = read_plan(folder, "start the study again, which writes it anew")
    if plan["study"].get("kind") != "dialogue" and not (
        ladder_page.read(folder).finished if "ladder" in plan else read(folder).moment == "finished"
    ):
        raise UserError(f"{folder} is not finished: what is kept is what all its runs say")
    place = results / plan["study"]["name"]
    make_folder(place)
    kept = [(folder / name, name) for name in KEPT]
    for source, name in (*kept, (folder / "data" / "baselines.json", "baselines.json")):
        if source.is_file():
            shutil.copyfile(source, place / name)
    print(f"{place} holds what the study found")
    return place
