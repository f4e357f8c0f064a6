"""Claims on trial: every study file that puts one on trial, every result on disk that speaks of it, and the page.

The verdicts are those of the studies' own pages; here they are put side by side, by claim. What was not run yet stands
beside what was. Imports no torch.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headtohead.errors import UserError
from headtohead.files import make_folder, write_atomic
from headtohead.measure.claims import RULES
from headtohead.study.drawing import environment
from headtohead.study.judgement import Claim, Difference, Judgement, judge
from headtohead.study.loading import load
from headtohead.study.page import Page, read
from headtohead.study.plan import Claim as Stated
from headtohead.study.plan import Study
from headtohead.study.tables import decimal
from headtohead.validation import suggest

STUDIES, RESULTS = Path("studies/claims"), Path("results")
PAGE = Path("docs/claims.md")
KEPT = ("plan.json", "results.jsonl", "timings.jsonl", "tuning-timings.jsonl", "report.md")
"""Of a study's folder, what is kept of it as evidence; the baselines beside them."""


@dataclass(frozen=True)
class OnTrial:
    """A claim in a study file that may be run."""

    stated: Stated
    file: Path
    study: Study


@dataclass(frozen=True)
class Trial:
    """A claim in the results of one study: how it ended, what it rests on, and at what scale.

    command: what repeats it. differences: every contrast that the claim rests on, in every region.
    """

    folder: Path
    page: Page
    judgement: Judgement
    claim: Claim
    stated: Mapping[str, Any]
    command: str

    @property
    def study(self) -> str:
        return self.page.study["name"]

    @property
    def outcome(self) -> str:
        """The verdict, or that it isn't there yet."""
        return self.claim.outcome if self.judgement.final else "still running"

    @cached_property
    def differences(self) -> list[Difference]:
        return [d for pair in self.claim.evidence for d in pair]

    @cached_property
    def arms(self) -> list[str]:
        """The arms that the claim compares."""
        names = self.stated["contrasts"]
        ends = [(c["from"], c["to"]) for c in self.page.study["contrasts"] if c["name"] in names]
        return list(dict.fromkeys(key for pair in ends for key in pair))

    @property
    def scale(self) -> str:
        """Parameters of the networks, and the tokens that a run was shown."""
        sizes = sorted(self.page.arm(key).parameters for key in self.arms)
        shown = [line["ledger"]["tokens_shown"] for line in self.page.shown if line["arm"] in self.arms]
        size = decimal(sizes[0]).replace(" ", "")
        if sizes[-1] > 1.05 * sizes[0]:
            size += f" to {decimal(sizes[-1]).replace(' ', '')}"
        tokens = decimal(sum(shown) / len(shown)).replace(" ", "") if shown else "no"
        return f"{size} parameters, {tokens} tokens shown"

    @property
    def seeds(self) -> int:
        """Seeds of which both arms of every contrast have a finished run."""
        runs = {(line["arm"], line["seed"]) for line in self.page.shown}
        return sum(all((arm, seed) in runs for arm in self.arms) for seed in self.page.study["seeds"])

    @property
    def margin(self) -> float:
        return self.page.study["margin"]


def on_trial(folder: Path = STUDIES) -> list[OnTrial]:
    """The claims of every study file in a folder, in the order of their keys.

    Raises:
        UserError: a study file that is wrong.
    """
    found = []
    for file in sorted(folder.glob("*.toml")):
        study, rates = load(file)
        if rates is None:
            found += [OnTrial(claim, file, study) for claim in study.claims]
    return sorted(found, key=lambda one: (_natural(one.stated.key), str(one.file)))


def trials(folder: Path = RESULTS, studies: Path = STUDIES) -> list[Trial]:
    """The claims of every study with results in a folder, in the order of their keys.

    Raises:
        UserError: results that can't be read.
    """
    found = []
    for place in sorted(folder.glob("*/plan.json")):
        page = read(place.parent)
        stated = page.study.get("claims", ())
        if not stated:
            continue
        judgement = judge(page)
        for claim, of in zip(judgement.claims, stated, strict=True):
            command = _command(page, of["key"], studies)
            found.append(Trial(place.parent, page, judgement, claim, of, command))
    return sorted(found, key=lambda one: (_natural(one.claim.key), str(one.folder)))


def _command(page: Page, key: str, studies: Path) -> str:
    """What repeats a study: its claim's command where its file is among the claims, with what was set otherwise."""
    name = page.plan["study_file"]["name"]
    words = ["headtohead", "study", str(studies.parent / name)]
    if (studies / name).is_file():
        words = ["headtohead", "claims", "run", key]
    for assignment in page.plan.get("overrides", ()):
        words += ["--set", assignment]
    return shlex.join(words)


def _natural(key: str) -> list[tuple[int, str]]:
    """C2 before C10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", key)]


def find(key: str, folder: Path = STUDIES) -> OnTrial:
    """The study file that puts a claim on trial.

    Raises:
        UserError: there is none.
    """
    known = on_trial(folder)
    for one in known:
        if one.stated.key.lower() == key.lower():
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
    for heading in ("claim", "verdict", "study", "seeds", "what is claimed, and at what scale"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("claim", "verdict"))
    for trial in done:
        table.add_row(
            Text(trial.claim.key, style="bold"), trial.outcome, trial.study, str(trial.seeds),
            Text.assemble(f"{trial.claim.sentence} ", (trial.scale, "dim")),
        )  # fmt: skip
    for one in not_run(done, waiting):
        table.add_row(
            Text(one.stated.key, style="bold"), "not run yet", one.study.name, "", one.stated.sentence
        )
    console.print(table)
    print(
        "headtohead claims show KEY tells what a verdict rests on, headtohead claims run KEY runs its study."
    )


def not_run(done: Iterable[Trial], waiting: Iterable[OnTrial]) -> list[OnTrial]:
    """The claims on trial that no result of their own study speaks of."""
    there = {(trial.claim.key, trial.study) for trial in done}
    return [one for one in waiting if (one.stated.key, one.study.name) not in there]


def _show_one(console: Console, key: str, done: Sequence[Trial], waiting: Sequence[OnTrial]) -> None:
    own = [trial for trial in done if trial.claim.key.lower() == key.lower()]
    open_ = [one for one in not_run(done, waiting) if one.stated.key.lower() == key.lower()]
    if not own and not open_:
        keys = [*(trial.claim.key for trial in done), *(one.stated.key for one in waiting)]
        raise UserError(f"there is no claim '{key}': {suggest(key, list(dict.fromkeys(keys)))}")
    for trial in own:
        console.print(f"[bold]{trial.claim.key}[/bold], study {trial.study}: [bold]{trial.outcome}[/bold]")
        console.print(f"“{trial.claim.sentence}” ({trial.claim.source})", markup=False)
        for finding in trial.claim.findings:
            console.print(f"  {finding.region}: {finding.outcome} ({finding.reason})", markup=False)
        for d in trial.differences:
            console.print(f"  {d.sentence}", markup=False)
        console.print(f"  {trial.seeds} seeds, {trial.scale}; margin ±{trial.margin:g}", markup=False)
        console.print(f"  rule: {trial.claim.rule}", markup=False, style="dim")
        console.print(f"  {trial.command}\n", markup=False)
    for one in open_:
        console.print(f"[bold]{one.stated.key}[/bold], study {one.study.name}: not run yet")
        console.print(f"“{one.stated.sentence}” ({one.stated.source})", markup=False)
        for word, text in (
            ("supported by", one.stated.supported_by),
            ("contradicted by", one.stated.contradicted_by),
            ("rule", RULES[one.stated.rule]),
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
    found = read(folder)
    if found.moment != "finished":
        raise UserError(f"{folder} is not finished: what is kept is what all its runs say")
    place = results / found.study["name"]
    make_folder(place)
    kept = [(folder / name, name) for name in KEPT]
    for source, name in (*kept, (folder / "data" / "baselines.json", "baselines.json")):
        if source.is_file():
            shutil.copyfile(source, place / name)
    print(f"{place} holds what the study found")
    return place
