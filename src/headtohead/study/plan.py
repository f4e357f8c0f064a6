"""A study file as a validated description: the question, the arms, what is to be compared, and the margin.

Everything that decides what a result may say is written here before the first run: `Study` for a comparison,
`RatesStudy` for the search of each arm's learning rate that comes before it. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, model_validator

from headtohead.data.objectives import Objective, ObjectiveField
from headtohead.data.packing import Supervise
from headtohead.model.parts import Listed
from headtohead.study.parts import (
    DIMENSIONS,
    IN_PLACE,
    RISE,
    ArmArchitecture,
    DataSettings,
    Frozen,
    Key,
    Matching,
    Region,
    Seed,
    Shared,
    Text,
    as_matching,
)
from headtohead.train.recipe import Recipe
from headtohead.validation import suggest, validated


def _file_name(text: str) -> str:
    if Path(text).name != text or not text.endswith(".json"):
        raise ValueError("name a .json file, without a folder")
    return text


class Arm(Frozen):
    """One architecture under one way of supervising it.

    `objective`: what it learns by, where that is not the study's regions in turn (`data.objectives`).
    `recipe`: the settings of its training that are not the study's. `regions`: those of the study that it is scored
    in, where it isn't all of them.
    """

    key: Key
    label: Text
    note: str = ""
    supervise: Supervise
    regions: Listed[Region] | None = Field(default=None, min_length=1)
    objective: ObjectiveField | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    match: Annotated[Matching | None, BeforeValidator(as_matching)] = None
    architecture: ArmArchitecture


class Contrast(Frozen):
    """Two arms that differ in one factor. `declares`: what else differs between them, on purpose."""

    name: Key
    first: Key = Field(alias="from")
    second: Key = Field(alias="to")
    factor: Text
    claim: str | None = None
    sentence: Text
    declares: Listed[str] = ()


Rule = Literal["does-not-beat", "edge-goes-away", "beats", "keeps-where-other-loses", "steadier"]


class Claim(Frozen):
    """A sentence from the literature, the contrasts it stands or falls with, and the rule by which it does.

    The rules' texts are `headtohead.measure.claims.RULES`. `supported_by` and `contradicted_by`: what would settle
    this claim, in its own words.
    """

    key: Text
    sentence: Text
    source: str = ""
    rule: Rule
    contrasts: Listed[Key] = Field(min_length=1)
    regions: Listed[Region | Literal["rise"]] | None = Field(default=None, min_length=1)
    supported_by: str = ""
    contradicted_by: str = ""


class Rung(Frozen):
    """How long the runs of one rung are: `steps`, or whole `passes` over the training text."""

    steps: PositiveInt | None = None
    passes: float | None = Field(default=None, gt=0)
    warmup_steps: int | None = Field(default=None, ge=0)
    curve_points: PositiveInt = 12

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.steps is None) == (self.passes is None):
            raise ValueError("give either 'steps' or 'passes'")
        return self


class Rungs(Frozen):
    """`rehearsal` may be left out where the tuning already shows that every arm works."""

    rehearsal: Rung | None = None
    full: Rung


class Tuning(Frozen):
    """The search of each arm's learning rate inside a study: the same values and as many runs for every arm, under
    seeds of its own, scored on the tuning split.

    `settings`: other settings of the recipe, each with the values that are tried, with every rate. `windows`: of each
    region.
    """

    grid: Listed[float] = Field(min_length=3)
    seeds: Listed[Seed] = Field(default=(101,), min_length=1)
    steps: PositiveInt
    warmup_steps: int | None = Field(default=None, ge=0)
    windows: PositiveInt = 200
    settings: dict[str, Listed[Any]] = Field(default_factory=dict)

    @property
    def rung(self) -> Rung:
        """How long its runs are."""
        return Rung(steps=self.steps, warmup_steps=self.warmup_steps, curve_points=4)

    @property
    def combinations(self) -> list[dict[str, Any]]:
        """The other settings that are tried, every value with every other; one, empty, where there are none."""
        return [dict(zip(self.settings, values, strict=True)) for values in product(*self.settings.values())]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _ascending(self.grid)
        _unique(self.seeds, "seeds")
        for name, values in self.settings.items():
            if name == "learning_rate":
                raise ValueError("settings.learning_rate: the values of the learning rate are the grid")
            if len(values) < 2:
                raise ValueError(f"settings.{name}: give two values or more to choose from")
            _unique(values, f"settings.{name}")
        return self


class Evaluation(Frozen):
    """What is scored, in windows for each region. A curve's points are scored on the tuning split.

    `lengths`: multiples of the window that continuations are scored at too, ascending from 1 (`measure.lengths`), on
    `length_blocks` stretches of the test split, each as long as the longest. The region `rise` is then what the
    longest costs more than 1. `tasks`: files of questions with choices (`measure.tasks`), by the name of data that was
    fetched and a file in it, or paths.
    """

    swaps: ClassVar[bool] = True
    """Whether outputs are also scored with wrong inputs, which takes held-out text of two documents or more."""
    test_windows: PositiveInt = 600
    rehearsal_windows: PositiveInt = 200
    curve_windows: PositiveInt = 64
    rows_per_batch: PositiveInt = 16
    prompts: int = Field(default=3, ge=0)
    prompt_tokens: PositiveInt = 48
    lengths: Listed[float] = ()
    length_blocks: PositiveInt = 24
    tasks: Listed[Text] = ()

    @model_validator(mode="after")
    def _lengths(self) -> Self:
        if self.lengths and (
            list(self.lengths) != sorted(set(self.lengths)) or self.lengths[0] != 1 or len(self.lengths) < 2
        ):
            raise ValueError("lengths: write multiples of the window, ascending from 1, such as [1, 2, 4, 8]")
        return self


class Study(Frozen):
    """A comparison: arms × seeds on the same documents in the same order."""

    kind: Literal["compare"] = "compare"
    name: Key
    title: Text
    question: Text
    description: str = ""
    margin: float = Field(gt=0)
    seeds: Listed[Seed] = Field(min_length=1)
    rates: str | None = None
    tuning: Tuning | None = None
    horizon_exponent: float = Field(default=0.0, ge=0, le=1)
    data: DataSettings
    architecture: Shared
    recipe: dict[str, Any]
    rungs: Rungs
    evaluation: Evaluation = Evaluation()
    declared_differences: dict[str, str] = Field(default_factory=dict)
    arms: Listed[Arm] = Field(min_length=1)
    contrasts: Listed[Contrast] = ()
    claims: Listed[Claim] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        keys = [arm.key for arm in self.arms]
        _unique(keys, "arms")
        _unique(self.seeds, "seeds")
        _unique(self.data.regions, "data.regions")
        if self.tuning is not None and self.rates is not None:
            raise ValueError(
                f"rates = '{self.rates}' and [tuning] both say where learning rates come from: keep one"
            )
        for arm in self.arms:
            self._check_regions(arm)
        if self.evaluation.lengths and "continuation" not in self.data.regions:
            raise ValueError("evaluation.lengths are of continuations: put 'continuation' among data.regions")
        names = [contrast.name for contrast in self.contrasts]
        _unique(names, "contrasts")
        _unique([claim.key for claim in self.claims], "claims")
        for arm in self.arms:
            if arm.match is not None and (arm.match.to == arm.key or arm.match.to not in keys):
                others = [key for key in keys if key != arm.key]
                raise ValueError(
                    f"arm '{arm.key}' is matched to '{arm.match.to}', which is no other arm: "
                    f"{suggest(arm.match.to, others)}"
                )
        for contrast in self.contrasts:
            for end in (contrast.first, contrast.second):
                if end not in keys:
                    raise ValueError(f"contrast '{contrast.name}' names an arm '{end}': {suggest(end, keys)}")
            claims = [claim.key for claim in self.claims]
            if contrast.claim is not None and contrast.claim not in claims:
                raise ValueError(
                    f"contrast '{contrast.name}' names a claim '{contrast.claim}': "
                    f"{suggest(contrast.claim, claims) if claims else 'there is none'}"
                )
            if contrast.first == contrast.second:
                raise ValueError(f"contrast '{contrast.name}' compares '{contrast.first}' with itself")
            for dimension in contrast.declares:
                _known_dimension(dimension)
        for dimension in self.declared_differences:
            _known_dimension(dimension)
        for claim in self.claims:
            for name in claim.contrasts:
                if name not in names:
                    raise ValueError(
                        f"claim '{claim.key}' rests on a contrast '{name}': {suggest(name, names)}"
                    )
            judged = [*self.data.regions, *((RISE,) if self.evaluation.lengths else ())]
            for region in claim.regions or ():
                if region not in judged:
                    raise ValueError(
                        f"claim '{claim.key}' is about a region '{region}': {suggest(region, judged)}"
                    )
            if claim.rule == "steadier" and self.tuning is None:
                raise ValueError(
                    f"claim '{claim.key}': rule 'steadier' counts the runs of [tuning], and there is none"
                )
            if claim.rule == "keeps-where-other-loses" and len(claim.contrasts) != 2:
                raise ValueError(
                    f"claim '{claim.key}': rule 'keeps-where-other-loses' needs two contrasts, the one that keeps "
                    "and the one that loses"
                )
            if claim.rule == "edge-goes-away":
                chain = [self.contrasts[names.index(name)] for name in claim.contrasts]
                if len(chain) != 2 or chain[0].second != chain[1].first:
                    raise ValueError(
                        f"claim '{claim.key}': rule 'edge-goes-away' needs two contrasts, the second going "
                        "on from the arm that the first goes to"
                    )
        return self

    def _check_regions(self, arm: Arm) -> None:
        """Whether an arm is scored where it can be: holes by those that fill them, outputs by those that write."""
        for region in arm.regions or ():
            if region not in self.data.regions:
                raise ValueError(
                    f"arm '{arm.key}' is scored in '{region}', which is not among data.regions: "
                    f"{suggest(region, self.data.regions)}"
                )
        fills = arm.supervise == "holes"
        for region in self.regions_of(arm, self.data.regions):
            if (region in IN_PLACE) != fills:
                what = "fills holes" if fills else "writes its output"
                some = [r for r in self.data.regions if (r in IN_PLACE) == fills]
                right = (
                    f"regions = {some}".replace("'", '"')
                    if some
                    else f"supervise = '{'output' if fills else 'holes'}'"
                )
                raise ValueError(f"arm '{arm.key}' {what} and can't be scored in '{region}': set {right}")
        if arm.objective is None and arm.regions is not None and len(arm.regions) < len(self.data.regions):
            raise ValueError(
                f"arm '{arm.key}' would learn from {' and '.join(self.data.regions)} in turn and be scored in "
                f"{' and '.join(arm.regions)} alone: give it an objective of its own, such as 'prefix' or 'masked'"
            )

    def regions_of(self, arm: Arm, regions: Sequence[str]) -> tuple[str, ...]:
        """Those of `regions` that an arm is scored in."""
        elsewhere = set(regions) - set(self.data.regions)  # those that the user's pairs have
        return tuple(r for r in regions if arm.regions is None or r in arm.regions or r in elsewhere)

    def arm(self, key: str) -> Arm:
        """The arm of that key."""
        return next(arm for arm in self.arms if arm.key == key)

    @property
    def own_objectives(self) -> dict[str, Objective]:
        """The objectives that arms have of their own, each by the name of its training examples."""
        distinct = {str(arm.objective): arm.objective for arm in self.arms if arm.objective is not None}
        return {f"train-{number}": found for number, found in enumerate(distinct.values(), 1)}

    def trains_on(self, arm: Arm) -> str:
        """The name of an arm's training examples."""
        own = self.own_objectives
        return next((name for name in own if own[name] == arm.objective), "train")

    @property
    def extra_tokens(self) -> tuple[str, ...]:
        """The special tokens that its objectives need at the end of the vocabulary."""
        regions = (self.data.objective(region) for region in self.data.regions if region in IN_PLACE)
        learnt = (*self.own_objectives.values(), *regions)
        found = (objective.specials(self.data.window_bytes) for objective in learnt)
        return tuple(dict.fromkeys(name for names in found for name in names))

    def optimizer(self, arm: Arm) -> str:
        """The optimizer of an arm."""
        return self.settings(arm, None).get("optimizer", Recipe.model_fields["optimizer"].default)

    def settings(self, arm: Arm, rung: Rung | None) -> dict[str, Any]:
        """The recipe's table of an arm: its own settings before the rung's, and those before the study's."""
        warmup = {} if rung is None or rung.warmup_steps is None else {"warmup_steps": rung.warmup_steps}
        return {**self.recipe, **warmup, **arm.recipe}

    def recipe_for(
        self,
        arm: Arm,
        rung: Rung | None,
        learning_rate: float,
        seed: int,
        steps: int,
        where: str = "recipe",
        settings: Mapping[str, Any] | None = None,
    ) -> Recipe:
        """One run's recipe: the study's, with what the arm has of its own, the rung's length, and `settings` that were
        tuned over all of them.

        Raises:
            UserError: it is no recipe, or its warm-up is longer than the run; begins with `where`.
        """
        own = {"learning_rate": learning_rate, "seed": seed, "steps": steps}
        tables = {**self.settings(arm, rung), **(settings or {}), **own}
        return validated(Recipe, tables, where)


class RatesStudy(Frozen):
    """The search of each arm's learning rate: every arm gets the same values, scored on the tuning split."""

    kind: Literal["rates"]
    name: Key
    title: Text
    description: str = ""
    study: str
    grid: Listed[float] = Field(min_length=5)
    seed: Seed
    steps: PositiveInt
    warmup_steps: int | None = Field(default=None, ge=0)
    tune_windows: PositiveInt = 200
    writes: Annotated[str, AfterValidator(_file_name)]

    @property
    def rung(self) -> Rung:
        """How long its runs are."""
        return Rung(steps=self.steps, warmup_steps=self.warmup_steps, curve_points=4)

    @model_validator(mode="after")
    def _sorted(self) -> Self:
        _ascending(self.grid)
        return self


def _ascending(grid: Sequence[float]) -> None:
    _unique(grid, "grid")
    if list(grid) != sorted(grid) or grid[0] <= 0:
        raise ValueError("grid: write positive learning rates in ascending order")


def _unique(values: Sequence[Any], what: str) -> None:
    for value in values:
        if list(values).count(value) > 1:
            raise ValueError(f"{what}: '{value}' is there twice")


def _known_dimension(dimension: str) -> None:
    if dimension not in DIMENSIONS:
        raise ValueError(
            f"'{dimension}' is no dimension that arms can be declared to differ in: "
            f"{suggest(dimension, list(DIMENSIONS))}"
        )
