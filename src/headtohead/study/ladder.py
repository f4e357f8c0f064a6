"""A ladder: every arm at several sizes, each trained for several budgets, so that the loss can be fitted in both.

A budget is of tokens, the same for all, or of training FLOPs, of which a larger network gets fewer tokens. No run is
longer than a pass over the text. Learning rates are searched at some of the sizes and follow a line in log N for the
others. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from headtohead.data.objectives import ObjectiveField
from headtohead.data.packing import Supervise
from headtohead.errors import UserError
from headtohead.model.parts import Listed
from headtohead.study.loading import check_study
from headtohead.study.parts import DataSettings, Frozen, Key, NetworkParts, Seed, Text
from headtohead.study.plan import Evaluation, Rung, Study, Tuning
from headtohead.study.reading import read_toml, set_values
from headtohead.study.schedule import Basis, Run, in_order, trials
from headtohead.study.tuning import for_horizon
from headtohead.validation import suggest, validated

WARMUP_SHARE = 0.1
"""Of a run's steps, whatever its length: rungs of unlike length should not differ in it."""


class Size(Frozen):
    """One step of the ladder: the width of all arms, and each arm's layers by its key."""

    name: Key
    d_model: PositiveInt
    heads: PositiveInt
    d_head: PositiveInt
    d_ff: PositiveInt
    depths: dict[str, Listed[PositiveInt]]


class LadderArm(Frozen):
    """One architecture at all sizes. `match`: the arm whose parameters it is brought to, at each size."""

    key: Key
    label: Text
    note: str = ""
    supervise: Supervise
    objective: ObjectiveField | None = None
    preset: str
    match: Key | None = None


class Budgets(Frozen):
    """How long runs are: tokens shown, training FLOPs, or both. Runs of fewer steps than `fewest_steps` are left
    out.
    """

    tokens: Listed[float] = ()
    flops: Listed[float] = ()
    fewest_steps: PositiveInt = 100

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.tokens and not self.flops:
            raise ValueError("give tokens = [...] or flops = [...]")
        if min((*self.tokens, *self.flops)) <= 0:
            raise ValueError("budgets are above zero")
        return self


class LadderTuning(Tuning):
    """The search of learning rates, at some of the sizes."""

    sizes: Listed[Key] = Field(min_length=1)


class LadderClaim(Frozen):
    """A claim about two arms' laws. The rules' texts are `headtohead.measure.ladders.RULES`."""

    key: Text
    sentence: Text
    source: str = ""
    rule: Literal["same-exponents", "lower-frontier"]
    first: Key = Field(alias="from")
    second: Key = Field(alias="to")
    supported_by: str = ""
    contradicted_by: str = ""


class Ladder(Frozen):
    """Arms × sizes × budgets × seeds. `margin`: differences of exponents inside ± it count as none. `region`: what is
    fitted.
    """

    kind: Literal["ladder"]
    name: Key
    title: Text
    question: Text
    description: str = ""
    margin: float = Field(gt=0)
    seeds: Listed[Seed] = Field(min_length=1)
    horizon_exponent: float = Field(default=0.0, ge=0, le=1)
    resamples: int = Field(default=1000, ge=100)
    data: DataSettings
    parts: NetworkParts = NetworkParts()
    recipe: dict[str, Any]
    tuning: LadderTuning
    budgets: Budgets
    evaluation: Evaluation = Evaluation()
    arms: Listed[LadderArm] = Field(min_length=1)
    sizes: Listed[Size] = Field(min_length=2)
    claims: Listed[LadderClaim] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        arms, sizes = [arm.key for arm in self.arms], [size.name for size in self.sizes]
        for what, names in (
            ("arms", arms),
            ("sizes", sizes),
            ("claims", [claim.key for claim in self.claims]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{what}: '{name}' is there twice")
        for size in self.sizes:
            for arm in arms:
                if arm not in size.depths:
                    raise ValueError(f"size '{size.name}' gives no depths for arm '{arm}'")
            for arm in size.depths:
                if arm not in arms:
                    raise ValueError(f"size '{size.name}' gives depths for '{arm}': {suggest(arm, arms)}")
        for name in self.tuning.sizes:
            if name not in sizes:
                raise ValueError(f"tuning.sizes names a size '{name}': {suggest(name, sizes)}")
        for arm in self.arms:
            if arm.match is not None and (arm.match not in arms or arm.match == arm.key):
                raise ValueError(
                    f"arm '{arm.key}' is matched to '{arm.match}', which is no other arm: {suggest(arm.match, arms)}"
                )
        for claim in self.claims:
            for end in (claim.first, claim.second):
                if end not in arms:
                    raise ValueError(f"claim '{claim.key}' is about an arm '{end}': {suggest(end, arms)}")
        for what, there in (
            ("data.out_of_domain", self.data.out_of_domain),
            ("evaluation.lengths", self.evaluation.lengths),
            ("evaluation.tasks", self.evaluation.tasks),
        ):
            if there:
                raise ValueError(f"{what}: a ladder's runs are scored on its own text alone; leave it out")
        if len(self.data.regions) != 1:
            raise ValueError("data.regions: a ladder fits one loss, so it has one region")
        return self

    def key(self, arm: str, size: str) -> str:
        """What an arm of a size is called among the runs."""
        return f"{arm}-{size}"

    def study(self, where: str) -> Study:
        """All arms of all sizes as the arms of one study, for all that studies do alike."""

        def described(arm: LadderArm, size: Size) -> dict[str, Any]:
            own = {"objective": arm.objective.model_dump()} if arm.objective else {}
            return {
                "key": self.key(arm.key, size.name),
                "label": f"{arm.label}, {size.name}",
                "supervise": arm.supervise,
                **own,
                "match": None if arm.match is None else self.key(arm.match, size.name),
                "architecture": {"preset": arm.preset, "depths": size.depths[arm.key],
                                 **{name: getattr(size, name) for name in WIDTHS}},
            }  # fmt: skip

        first = self.sizes[0]
        return validated(Study, {
            "name": self.name,
            "title": self.title,
            "question": self.question,
            "description": self.description,
            "margin": self.margin,
            "seeds": self.seeds,
            "tuning": {name: getattr(self.tuning, name) for name in Tuning.model_fields},
            "horizon_exponent": self.horizon_exponent,
            "data": self.data,
            "architecture": {**{name: getattr(first, name) for name in WIDTHS},
                             **{name: getattr(self.parts, name) for name in NetworkParts.model_fields}},
            "recipe": self.recipe,
            "rungs": {"full": {"steps": self.tuning.steps, "warmup_steps": warmup(self.tuning.steps)}},
            "evaluation": self.evaluation,
            "arms": [described(arm, size) for size in self.sizes for arm in self.arms],
        }, where)  # fmt: skip


WIDTHS = ("d_model", "heads", "d_head", "d_ff")


def warmup(steps: int) -> int:
    """Steps of warm-up in a run of so many."""
    return max(1, round(steps * WARMUP_SHARE))


def is_ladder(file: Path) -> bool:
    """Whether a study file is a ladder.

    Raises:
        UserError: no such file, or no TOML.
    """
    return read_toml(file, "the study file").get("kind") == "ladder"


def load_ladder(file: Path, overrides: Sequence[str] = ()) -> tuple[Ladder, Study]:
    """A ladder and all its arms as one study.

    Raises:
        UserError: naming the file and the first key that is wrong.
    """
    ladder = validated(Ladder, set_values(read_toml(file, "the study file"), overrides), str(file))
    study = ladder.study(str(file))
    check_study(file, study)
    return ladder, study


@dataclass(frozen=True)
class Rungs:
    """The runs of a ladder, and what was left out: (arm, budget, why)."""

    runs: list[Run]
    left_out: list[tuple[str, str, str]]


def tuning_runs(ladder: Ladder, basis: Basis) -> list[Run]:
    """The search: at the sizes that are tuned."""
    tuned = {ladder.key(arm.key, size) for arm in ladder.arms for size in ladder.tuning.sizes}
    return [run for run in trials(basis) if run.arm in tuned]


def rates_of(ladder: Ladder, parameters: Mapping[str, int], optima: Mapping[str, float]) -> dict[str, float]:
    """Each arm's learning rate at each size, for runs as long as the search: on the line through its optima in
    log N and log rate (one size that was tuned: the same for all).

    Args:
        parameters, optima: by the keys of the arms at their sizes; optima where they were searched.
    """
    found: dict[str, float] = {}
    for arm in ladder.arms:
        keys = [ladder.key(arm.key, size.name) for size in ladder.sizes]
        known = [key for key in keys if key in optima]
        x = np.log([parameters[key] for key in known])
        y = np.log([optima[key] for key in known])
        line = np.polyfit(x, y, 1) if len(known) > 1 else np.array([0.0, y[0]])
        for key in keys:
            found[key] = float(f"{math.exp(np.polyval(line, math.log(parameters[key]))):.4g}")
    return found


def ladder_runs(ladder: Ladder, basis: Basis, rates: Mapping[str, float]) -> Rungs:
    """Every run: arms × sizes × budgets × seeds.

    Raises:
        UserError: no budget of an arm is long enough and within a pass.
    """
    runs: dict[str, Run] = {}
    left_out: list[tuple[str, str, str]] = []
    rows = basis.study.recipe["rows_per_step"]
    train = basis.data["splits"]["train"]
    in_pass = min(basis.rows_in_pass.values())
    longest = in_pass // rows
    examples = rows * train["examples"] / in_pass  # of a step
    tokens = examples * sum(basis.typical)
    evaluation = {"split": "test", "windows": ladder.evaluation.test_windows, "prompts": 0}
    for arm in basis.arms:
        of_step = examples * basis.work(arm)["training"]
        wanted = [(f"{value:.3g} tokens", value / tokens) for value in ladder.budgets.tokens]
        wanted += [(f"{value:.3g} FLOPs", value / of_step) for value in ladder.budgets.flops]
        for budget, exact in wanted:
            steps = round(exact)
            if steps < ladder.budgets.fewest_steps:
                left_out.append((arm, budget, f"{steps} steps, fewer than {ladder.budgets.fewest_steps}"))
                continue
            if steps > longest:
                left_out.append(
                    (arm, budget, f"more than a pass over the text ({steps:,} steps of {longest:,})")
                )
                continue
            rate = for_horizon(rates[arm], ladder.tuning.steps, steps, ladder.horizon_exponent)
            rung = Rung(steps=steps, warmup_steps=warmup(steps), curve_points=4)
            for seed in ladder.seeds:
                run = basis.run(arm, seed, "ladder", rung, rate, evaluation)
                runs[run.name] = run
        if not any(run.arm == arm for run in runs.values()):
            raise UserError(
                f"no budget of arm '{arm}' is between {ladder.budgets.fewest_steps} steps and a pass over the text: "
                "give other budgets, or more text"
            )
    return Rungs(in_order(runs.values()), left_out)
