"""The runs of a study, in the order they are started, each as the complete description a worker needs.

A run's folder is named for people (`full-prefix-seed1`); its *identity* is a hash over everything that
decides its numbers: network, recipe, data, evaluation, versions, threads. Where it is placed is not part of
it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from headtohead.errors import UserError
from headtohead.model.budget import flops
from headtohead.study.arms import Matched
from headtohead.study.plan import Arm, RatesStudy, Rung, Study

RungName = Literal["rehearsal", "full", "rates", "train"]


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

    @property
    def name(self) -> str:
        rate = f"-lr{self.learning_rate:g}" if self.rung == "rates" else ""
        return f"{self.rung}-{self.arm}{rate}-seed{self.seed}"

    @property
    def identity(self) -> str:
        """SHA-256 over the description, `informative` keys left out."""
        return identity_of(self.description)


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
    rungs = ("rehearsal", "rates", "full")
    return sorted(
        runs, key=lambda run: (rungs.index(run.rung), run.seed, -run.cost, run.arm, run.learning_rate)
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
    ) -> Run:
        """One run, described completely."""
        matched, settings = self.arms[arm], self.study.data
        steps = self.steps(rung)
        self._check_warmup(matched.arm, name, rung, steps)
        recipe = self.study.recipe_for(matched.arm, rung, learning_rate, seed, steps)
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
                **{key: self.data[key] for key in ("regions", "corpus_sha256", "tokenizer_sha256", "stores")},
            },
            "evaluation": {
                "curve_windows": shared.curve_windows,
                "curve_steps": curve_steps(steps, rung.curve_points),
                "row": self.scored_rows[0],
                "side": self.scored_rows[1],
                "rows_per_batch": shared.rows_per_batch,
                "prompts": shared.prompts,
                "prompt_tokens": shared.prompt_tokens,
                **evaluation,
            },
            **self.versions,
        }
        examples = (
            steps * recipe.rows_per_step * self.data["splits"]["train"]["examples"] / self.rows_in_pass[seed]
        )
        given, output = self.typical_of(arm)
        supervise = matched.arm.supervise
        # Answers of holes stand in the text: nothing is written after it.
        answers = (given, 1, output - 1) if supervise == "holes" else (given, output, supervise)
        work = flops(matched.architecture, *answers)
        scored = len(self.data["regions"]) * (
            shared.curve_windows * len(description["evaluation"]["curve_steps"])
            + 2 * evaluation["windows"]  # with the right input and with a wrong one
        )
        costs = examples * work["training"], scored * work["forward"]
        return Run(arm, seed, name, learning_rate, description, *costs)


def scored_windows(study: Study, rates: RatesStudy | None) -> dict[str, int]:
    """How many windows of each region are scored at most, by split."""
    curve = study.evaluation.curve_windows
    if rates:
        return {"tune": max(curve, rates.tune_windows)}
    return {"tune": curve, "test": max(study.evaluation.test_windows, study.evaluation.rehearsal_windows)}


def comparison(basis: Basis, rates: Mapping[str, float]) -> list[Run]:
    """Every run of a comparison: each arm once in rehearsal, under the first seed, then each under every
    seed.
    """
    study, shared = basis.study, basis.study.evaluation
    rungs = study.rungs
    rehearsal = {"split": "test", "windows": shared.rehearsal_windows}
    full = {"split": "test", "windows": shared.test_windows}
    runs = [
        basis.run(arm, study.seeds[0], "rehearsal", rungs.rehearsal, rates[arm], rehearsal)
        for arm in basis.arms
    ]
    runs += [
        basis.run(arm, seed, "full", rungs.full, rates[arm], full)
        for seed in study.seeds
        for arm in basis.arms
    ]
    return in_order(runs)


def search(basis: Basis, rates: RatesStudy) -> list[Run]:
    """Every run of a search for learning rates: each arm with each value, scored on the tuning split."""
    scored = {"split": "tune", "windows": rates.tune_windows}
    return in_order(
        basis.run(arm, rates.seed, "rates", rates.rung, rate, scored)
        for arm in basis.arms
        for rate in rates.grid
    )
