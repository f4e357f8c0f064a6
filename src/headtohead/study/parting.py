"""A study split by hand: which runs are whose, and their results put together again.

``--shard 1/3`` does a third of a study's runs in a folder of its own, wherever it is started; the same run is in the
same shard for everybody. `joined` puts folders together: the shards of one study, or studies on the same text whose
arms have different names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headtohead.errors import UserError
from headtohead.files import make_folder, read_text, write_atomic
from headtohead.measure.scored import given_up
from headtohead.study.results import read_plan
from headtohead.study.schedule import RUNGS, Run
from headtohead.study.tuning import shared_rate


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count`, from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``2/3``.

        Raises:
            UserError: it isn't of this form.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(
                f"--shard {text}: write which of how many, such as --shard 1/3 for the first of three"
            )
        return cls(int(found[1]), int(found[2]))

    def check_count(self, there: int, what: str) -> None:
        """Raises UserError where there are fewer things to part than shards."""
        if self.count > there:
            raise UserError(f"--shard {self}: the study has {there} {what}: make {there} shards at most")

    def check_folder(self, folder: Path) -> None:
        """Raises UserError for a folder of another shard: runs of two in one would be told as the last one's alone."""
        if not (folder / "plan.json").is_file():
            return
        there = read_plan(folder, "give the shard another --out").get("shard")
        if there != str(self):
            held = f"shard {there}" if there else "the whole study"
            raise UserError(f"{folder} holds {held}: give shard {self} a folder of its own, by --out")

    def of_arms(self, costs: Mapping[str, float]) -> list[str]:
        """This shard's arms: the dearest first, each to the shard with the least to do."""
        own = self._own({arm: (cost, arm) for arm, cost in costs.items()})
        return [arm for arm in costs if arm in own]

    def of_runs(self, runs: Sequence[Run]) -> list[Run]:
        """This shard's runs, in their order: likewise."""
        own = self._own({run.name: (run.cost + run.scoring_cost, run.name) for run in runs})
        return [run for run in runs if run.name in own]

    def _own(self, costs: Mapping[str, tuple[float, str]]) -> set[str]:
        loads, own = [0.0] * self.count, set[str]()
        for key in sorted(costs, key=lambda key: (-costs[key][0], costs[key][1])):
            place = loads.index(min(loads))
            loads[place] += costs[key][0]
            if place == self.number - 1:
                own.add(key)
        return own


# --------------------------------------------------------------------------------------------------------
# Together again

SAME = ("data", "margin", "evaluation", "recipe", "rungs")
"""What studies that are put together must agree in: what is said of one's arms would else not hold for another's."""


def joined(folders: Sequence[Path], out: Path) -> Path:
    """Write OUT: the plan, results and times of studies in several folders as those of one study.

    The same run may be in several of them, and is there once; two runs of one name that ended differently are refused,
    but for one that was given up in a folder and finished in another.

    Raises:
        UserError: no study in a folder; studies on other text or under another margin; arms, contrasts or claims of
            one name that are not the same; runs that ended differently.
    """
    plans = [read_plan(folder, "start the study again, which writes it anew") for folder in folders]
    for folder, plan in zip(folders[1:], plans[1:], strict=True):
        _check_same(folders[0], plans[0], folder, plan)
    whole = _plan(folders, plans)
    keys = [(run["rung"], run["arm"], run["seed"]) for run in whole["runs"]]
    names = ("results.jsonl", "timings.jsonl")
    found = {name: _lines(folders, name, twice=name == "results.jsonl") for name in names}
    make_folder(out)
    write_atomic(out / "plan.json", json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    for name, lines in found.items():
        write_atomic(out / name, "".join(lines[key] for key in keys if key in lines))
    for name in ("tuning.jsonl", "tuning-timings.jsonl"):
        texts = [read_text(folder / name, "the search") for folder in folders if (folder / name).is_file()]
        some = dict.fromkeys(line for text in texts for line in text.split("\n") if line)
        if some:
            write_atomic(out / name, "".join(f"{line}\n" for line in some))
    return out


def _check_same(first: Path, one: Mapping[str, Any], second: Path, two: Mapping[str, Any]) -> None:
    for key in ("corpus_sha256", "tokenizer_sha256"):
        if one["data"].get(key) != two["data"].get(key):
            raise UserError(
                f"{first} and {second} are studies on different text ({key}): they can't be put together"
            )
    for key in SAME:
        a, b = one["study"].get(key), two["study"].get(key)
        if a != b:
            raise UserError(
                f"{first} and {second} differ in {key} ({_first_difference(a, b)}): they can't be put together"
            )


def _first_difference(a: Any, b: Any) -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys((*a, *b)):
            if a.get(key) != b.get(key):
                return f"{key} {a.get(key)} and {b.get(key)}"
    return f"{a} and {b}"


def _plan(folders: Sequence[Path], plans: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = dict(plans[0])
    first.pop("shard", None)
    first["arms"] = _union(folders, [plan["arms"] for plan in plans], "arm", _with_rates)
    study = dict(first["study"])
    for key, name in (("arms", "key"), ("contrasts", "name"), ("claims", "key")):
        study[key] = _union(folders, [plan["study"].get(key, ()) for plan in plans], key[:-1], name=name)
    study["seeds"] = sorted({seed for plan in plans for seed in plan["study"]["seeds"]})
    declared = [plan["study"].get("declared_differences", {}) for plan in plans]
    study["declared_differences"] = {key: why for of in reversed(declared) for key, why in of.items()}
    first["study"] = study
    searches = [plan["rates"] for plan in plans if plan.get("rates")]
    if searches:
        arms = {key: found for of in searches for key, found in of["arms"].items()}
        first["rates"] = {
            **searches[0],
            "arms": {arm["key"]: arms[arm["key"]] for arm in first["arms"] if arm["key"] in arms},
        }
        if "shared" in searches[0]:
            first["rates"]["shared"] = shared_rate(first["rates"]["arms"])
    runs: dict[tuple[str, str, int], dict[str, Any]] = {}
    for plan in plans:
        for run in plan["runs"]:
            key = (run["rung"], run["arm"], run["seed"])
            if runs.get(key) is None or runs[key]["learning_rate"] is None:
                runs[key] = run
    first["runs"] = sorted(runs.values(), key=lambda run: (RUNGS.index(run["rung"]), run["seed"]))
    baselines = [plan["data"]["baselines"] for plan in plans if plan["data"].get("baselines")]
    first["data"] = {**first["data"], **({"baselines": baselines[0]} if baselines else {})}
    return first


def _with_rates(one: Mapping[str, Any], two: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """An arm of two plans, of which one may not know its learning rate; None if they are not the same arm."""
    known = one if one.get("learning_rate") is not None else two
    same = all({**x, "learning_rate": None} == {**known, "learning_rate": None} for x in (one, two))
    rates = {x["learning_rate"] for x in (one, two) if x.get("learning_rate") is not None}
    return known if same and len(rates) <= 1 else None


def _union(
    folders: Sequence[Path],
    lists: Sequence[Sequence[Mapping[str, Any]]],
    what: str,
    merge: Any = lambda one, two: one if one == two else None,
    name: str = "key",
) -> list[Mapping[str, Any]]:
    """The entries of all lists, those of one name once.

    Raises:
        UserError: two of one name that are not the same.
    """
    found: dict[str, Mapping[str, Any]] = {}
    where: dict[str, Path] = {}
    for folder, entries in zip(folders, lists, strict=True):
        for entry in entries:
            key = entry[name]
            both = merge(found[key], entry) if key in found else entry
            if both is None:
                raise UserError(
                    f"{where[key]} and {folder} both have {'an' if what[0] in 'a' else 'a'} {what} '{key}', and it is "
                    "not the same: give one of them another name"
                )
            found[key], where[key] = both, where.get(key, folder)
    return list(found.values())


def _lines(folders: Sequence[Path], name: str, twice: bool) -> dict[tuple[str, str, int], str]:
    """The lines of a file of each folder, by run. `twice`: one that is there twice must be the same.

    Raises:
        UserError: a line that is no JSON; runs that ended differently.
    """
    found: dict[tuple[str, str, int], str] = {}
    where: dict[tuple[str, str, int], Path] = {}
    for folder in folders:
        if not (folder / name).is_file():
            continue
        for number, line in enumerate(read_text(folder / name, "the results").split("\n"), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                key = (entry["rung"], entry["arm"], entry["seed"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{folder / name}: line {number} is damaged: start the study again"
                ) from error
            if twice and key in found and found[key] != f"{line}\n":
                before = json.loads(found[key])
                if "finished" not in (before["status"], entry["status"]) or given_up(entry):
                    continue
                if not given_up(before):
                    raise UserError(
                        f"{where[key]} and {folder} both have the {key[0]} run of '{key[1]}' under seed {key[2]}, and "
                        "it ended differently: they are not of one study"
                    )
            found[key], where[key] = f"{line}\n", folder
    return found
