"""The runs of a study, in the order they are started, each as the complete description a worker needs.

A run's folder is named for people (`full-prefix-seed1`); its *identity* is a hash over everything that
decides its numbers: network, recipe, data, evaluation, versions, threads. Where it is placed is not part of
it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from headtohead.errors import UserError
from headtohead.model.budget import Flops, flops
from headtohead.study.arms import Matched
from headtohead.study.plan import Arm, RatesStudy, Rung, Study

RungName = Literal["rehearsal", "full", "rates", "tuning", "ladder", "train"]
RUNGS: tuple[RungName, ...] = ("tuning", "rehearsal", "rates", "ladder", "full")
"""In the order in which a study does them."""


@dataclass(frozen=True)
class Run:
    """One run. `description` is what goes into run.json; `cost` is training FLOPs, to start the longest first,
    `scoring_cost` the forward FLOPs of what is scored.
    """

    arm: str
    seed: int
    rung: RungName
    learning_rate: float
    description: dict[str, Any]
    cost: float
    scoring_cost: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What else was tried, or chosen, beside the learning rate."""

    @property
    def name(self) -> str:
        tried = ""
        if self.rung in ("rates", "tuning"):
            tried = f"-lr{self.learning_rate:g}"
        if self.rung == "tuning":
            tried += "".join(f"-{key}-{_in_a_name(value)}" for key, value in self.settings.items())
        if self.rung == "ladder":
            tried = f"-steps{self.description['recipe']['steps']}"
        return f"{self.rung}-{self.arm}{tried}-seed{self.seed}"

    @property
    def identity(self) -> str:
        """SHA-256 over the description, `informative` keys left out."""
        return identity_of(self.description)


def _in_a_name(value: Any) -> str:
    """A setting's value as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", json.dumps(value)).strip("_")


INFORMATIVE = ("commit", "identity", "label")
"""Keys of run.json that are kept to be read, and decide no number."""


def identity_of(description: Mapping[str, Any]) -> str:
    """See `Run.identity`."""
    decisive = {key: value for key, value in description.items() if key not in INFORMATIVE}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def in_order(runs: Iterable[Run]) -> list[Run]:
    """Rehearsal first; then seed by seed, so that the arms stay level; within a seed the longest first, so
    that the workers end together.
    """
    return sorted(
        runs,
        key=lambda run: (RUNGS.index(run.rung), run.seed, -run.cost, run.arm, run.learning_rate, run.name),
    )


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Every place where two descriptions differ, as ``key: old -> new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in dict.fromkeys((*old, *new)) if path or key not in INFORMATIVE]
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def curve_steps(steps: int, points: int) -> list[int]:
    """After which steps a learning curve gets a point: evenly spaced, the last step among them."""
    return sorted({max(1, round(steps * point / points)) for point in range(1, points + 1)})


@dataclass(frozen=True)
class Basis:
    """What all runs of a study share: its prepared data, where it lies from a run's folder, and the
    versions.
    """

    study: Study
    arms: Mapping[str, Matched]
    data: Mapping[str, Any]
    versions: Mapping[str, Any]
    rows_in_pass: Mapping[int, int]
    """Rows that one pass makes, by seed."""
    scored_rows: tuple[int, int]
    """Row and side of what is scored, in tokens."""

    @property
    def typical(self) -> tuple[int, int]:
        """Places of the average training example: mode token and input, start token and output."""
        return self._typical("train")

    def typical_of(self, arm: str) -> tuple[int, int]:
        """The same of an arm's own examples, where its objective is its own."""
        return self._typical(self.study.trains_on(self.study.arm(arm)))

    def work(self, arm: str) -> Flops:
        """FLOPs of an average example of an arm's own."""
        given, output = self.typical_of(arm)
        matched = self.arms[arm]
        if matched.arm.supervise == "holes":  # answers stand in the text: nothing is written after it
            return flops(matched.architecture, given, 1, output - 1)
        return flops(matched.architecture, given, output, matched.arm.supervise)

    def _typical(self, store: str) -> tuple[int, int]:
        train = self.data["splits"][store]
        return tuple(1 + round(train[part] / train["examples"]) for part in ("input_tokens", "output_tokens"))

    def steps(self, rung: Rung) -> int:
        """Optimizer steps of a rung: the same for every seed. A pass is the first seed's, so seeds can be added."""
        if rung.steps is not None:
            return rung.steps
        assert rung.passes is not None
        rows = next(iter(self.rows_in_pass.values()))
        return max(1, math.floor(rows * rung.passes / self.study.recipe["rows_per_step"]))

    def _check_warmup(self, arm: Arm, name: RungName, rung: Rung, steps: int) -> None:
        """Of a rung in passes only the text tells whether its warm-up ends in time."""
        warmup = self.study.settings(arm, rung).get("warmup_steps", 0)
        if rung.passes is not None and warmup > steps:
            enough = math.ceil(rung.passes * 5 * warmup / steps)
            raise UserError(
                f"{rung.passes:g} passes over this text are {steps} steps, fewer than the warm-up of "
                f"{warmup}: give more text, or more passes (--set rungs.{name}.passes={enough}), or a "
                f"shorter warm-up (--set rungs.{name}.warmup_steps={steps // 5})"
            )

    def run(
        self,
        arm: str,
        seed: int,
        name: RungName,
        rung: Rung,
        learning_rate: float,
        evaluation: dict[str, Any],
        tuned: Mapping[str, Any] | None = None,
    ) -> Run:
        """One run, described completely. `tuned`: settings of the recipe that were found, or are tried."""
        matched, settings = self.arms[arm], self.study.data
        steps = self.steps(rung)
        self._check_warmup(matched.arm, name, rung, steps)
        recipe = self.study.recipe_for(matched.arm, rung, learning_rate, seed, steps, settings=tuned)
        regions = list(self.study.regions_of(matched.arm, self.data["regions"]))
        shared = self.study.evaluation
        store, objective = self.study.trains_on(matched.arm), matched.arm.objective
        own = {} if objective is None else {"objective": objective.model_dump(mode="json")}
        description = {
            "arm": arm,
            "label": matched.arm.label,
            "seed": seed,
            "rung": name,
            "supervise": matched.arm.supervise,
            **own,
            "architecture": matched.architecture.model_dump(mode="json"),
            "parameters": dict(matched.parameters),
            "recipe": recipe.model_dump(mode="json"),
            "data": {
                "folder": "../../data",
                "row": settings.row,
                "side": settings.side,
                **({} if store == "train" else {"train": store}),
                "regions": regions,
                **{key: self.data[key] for key in ("corpus_sha256", "tokenizer_sha256", "stores")},
            },
            "evaluation": {
                "curve_windows": shared.curve_windows,
                "curve_steps": curve_steps(steps, rung.curve_points),
                "row": self.scored_rows[0],
                "side": self.scored_rows[1],
                "rows_per_batch": shared.rows_per_batch,
                "prompts": 0 if matched.arm.supervise == "holes" else shared.prompts,
                "prompt_tokens": shared.prompt_tokens,
                **evaluation,
            },
            **self.versions,
        }
        examples = (
            steps * recipe.rows_per_step * self.data["splits"]["train"]["examples"] / self.rows_in_pass[seed]
        )
        work = self.work(arm)
        scored = len(regions) * (
            shared.curve_windows * len(description["evaluation"]["curve_steps"])
            + (2 if evaluation.get("swaps", True) else 1) * evaluation["windows"]  # with a wrong input too
        )
        costs = examples * work["training"], scored * work["forward"]
        return Run(arm, seed, name, learning_rate, description, *costs, settings=tuned or {})


def scored_windows(
    study: Study, rates: RatesStudy | None, data: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """How many windows of each region are scored at most, by split, and by text out of the domain of prepared data."""
    curve = study.evaluation.curve_windows
    if rates:
        return {"tune": max(curve, rates.tune_windows)}
    if study.tuning is not None:
        curve = max(curve, study.tuning.windows)
    beyond = (data or {}).get("out_of_domain", {})
    return {
        "tune": curve,
        "test": max(study.evaluation.test_windows, study.evaluation.rehearsal_windows),
        **{of["store"]: study.data.out_of_domain_windows for of in beyond.values()},
    }


def comparison(
    basis: Basis, rates: Mapping[str, float], tuned: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Run]:
    """Every run of a comparison: each arm once in rehearsal, under the first seed, then each under every
    seed.

    Args:
        rates: each arm's learning rate. tuned: each arm's other settings that were tuned.
    """
    study, shared = basis.study, basis.study.evaluation
    rungs = study.rungs
    rehearsal = {"split": "test", "windows": shared.rehearsal_windows}
    full = {"split": "test", "windows": shared.test_windows, **_beyond(basis)}
    own = tuned or {}
    runs: list[Run] = []
    if rungs.rehearsal is not None:
        runs = [
            basis.run(arm, study.seeds[0], "rehearsal", rungs.rehearsal, rates[arm], rehearsal, own.get(arm))
            for arm in basis.arms
        ]
    runs += [
        basis.run(arm, seed, "full", rungs.full, rates[arm], full, own.get(arm))
        for seed in study.seeds
        for arm in basis.arms
    ]
    return in_order(runs)


def _beyond(basis: Basis) -> dict[str, Any]:
    """What full runs are scored on beside the held-out text: longer stretches of it, and other texts."""
    evaluation, found = basis.study.evaluation, basis.data.get("out_of_domain")
    told: dict[str, Any] = {}
    if evaluation.lengths:
        told["lengths"] = {
            "times": list(evaluation.lengths),
            "blocks": evaluation.length_blocks,
            "bytes": basis.study.data.window_bytes,
        }
    if found:
        told["out_of_domain"] = {
            "windows": basis.study.data.out_of_domain_windows,
            "stores": {name: {key: of[key] for key in ("store", "sha256")} for name, of in found.items()},
        }
    if tasks := basis.data.get("tasks"):
        told["tasks"] = tasks
    return told


def trials(basis: Basis) -> list[Run]:
    """Every run of the search inside a study: each arm with each rate and setting, under each of its seeds."""
    tuning = basis.study.tuning
    if tuning is None:
        return []
    scored = {"split": "tune", "windows": tuning.windows, "swaps": False, "prompts": 0}
    return in_order(
        basis.run(arm, seed, "tuning", tuning.rung, rate, scored, settings)
        for arm in basis.arms
        for seed in tuning.seeds
        for settings in tuning.combinations
        for rate in tuning.grid
    )


def search(basis: Basis, rates: RatesStudy) -> list[Run]:
    """Every run of a search for learning rates: each arm with each value, scored on the tuning split."""
    scored = {"split": "tune", "windows": rates.tune_windows}
    return in_order(
        basis.run(arm, rates.seed, "rates", rates.rung, rate, scored)
        for arm in basis.arms
        for rate in rates.grid
    )


def arm_costs(basis: Basis) -> dict[str, float]:
    """FLOPs of all that is done with each arm, at whatever rates."""
    rate = basis.study.tuning.grid[0] if basis.study.tuning else 1e-3
    costs = dict.fromkeys(basis.arms, 0.0)
    for run in (*trials(basis), *comparison(basis, dict.fromkeys(basis.arms, rate))):
        costs[run.arm] += run.cost + run.scoring_cost
    return costs
