"""A study file as a validated description: the question, the arms, what is to be compared, and the margin.

Everything that decides what a result may say is written here before the first run: `Study` for a comparison,
`RatesStudy` for the search of each arm's learning rate that comes before it. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StringConstraints, model_validator

from headtohead.errors import UserError
from headtohead.files import read_json
from headtohead.model.architecture import Norms
from headtohead.study.reading import read_toml, set_values
from headtohead.train.recipe import Recipe
from headtohead.validation import suggest, validated

Key = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$")]
"""What names a folder, a column and a `--set` path: lower-case letters, digits and hyphens."""
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Region = Literal["continuation", "restoration"]

DIMENSIONS: dict[str, str] = {
    "depth": "layers in all streams together",
    "d_ff": "width of the feed-forward",
    "d_model": "width",
    "heads": "attention heads",
    "norms": "parameter-free norms",
    "positions": "position encoding",
    "visibility": "who sees whom",
    "sharing": "one stack or two",
    "supervision": "which tokens carry loss",
    "parameters": "total parameters, beyond 1 %",
    "tokens_supervised": "tokens that carry loss",
    "tokens_padding": "padding in the rows",
    "visible_pairs": "visible (query, key, head) triples",
    "flops": "training FLOPs",
    "learning_rate": "learning rate, tuned for each arm with as many trials",
    "recipe": "any other setting of the training",
}
"""What two arms may differ in, if the study says so. The same documents in the same order are not on the
list.
"""


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class DataSettings(Frozen):
    """From documents to rows. Sizes of `row` and `side` are tokens, `window_bytes` is bytes of text."""

    tokenizer: Literal["bpe", "bytes"] = "bpe"
    vocabulary: PositiveInt = 2048
    window_bytes: int = Field(ge=16)
    row: int = Field(ge=8)
    side: int = Field(ge=4)
    regions: tuple[Region, ...] = Field(default=("continuation", "restoration"), min_length=1)
    tune: float = Field(default=0.05, gt=0, lt=0.5)
    test: float = Field(default=0.08, gt=0, lt=0.5)

    def fits(self, input_tokens: int, output_tokens: int) -> bool:
        """Whether an example fits a row of one stream and both sides of two (`data.packing.plan_rows`)."""
        n, m = 1 + input_tokens, 1 + output_tokens
        return n + m <= self.row and max(n, m) <= self.side


class Shared(Frozen):
    """The sizes that all arms share; an arm's own `architecture` table goes over them."""

    d_model: PositiveInt
    heads: PositiveInt
    d_head: PositiveInt
    d_ff: PositiveInt
    positions: Literal["rope", "none"] = "rope"
    norms: Norms = Norms()


class ArmArchitecture(Frozen):
    """An arm's network: a preset's streams, or streams written out; sizes of its own where they are given."""

    preset: str | None = None
    depths: tuple[PositiveInt, ...] | None = None
    streams: tuple[Any, ...] | None = None
    d_model: PositiveInt | None = None
    heads: PositiveInt | None = None
    d_head: PositiveInt | None = None
    d_ff: PositiveInt | None = None
    positions: Literal["rope", "none"] | None = None
    norms: Norms | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.preset is None) == (self.streams is None):
            raise ValueError("give either 'preset' or 'streams'")
        if self.depths is not None and self.preset is None:
            raise ValueError("'depths' goes with 'preset'; in 'streams' each layer says 'repeat'")
        return self


class Arm(Frozen):
    """One architecture under one way of supervising it."""

    key: Key
    label: Text
    note: str = ""
    supervise: Literal["output", "all"]
    match: Key | None = None
    architecture: ArmArchitecture


class Contrast(Frozen):
    """Two arms that differ in one factor. `declares`: what else differs between them, on purpose."""

    name: Key
    first: Key = Field(alias="from")
    second: Key = Field(alias="to")
    factor: Text
    claim: str | None = None
    sentence: Text
    declares: tuple[str, ...] = ()


class Claim(Frozen):
    """A sentence from the literature, the contrasts it stands or falls with, and the rule by which it does.

    The rules' texts are `headtohead.measure.verdicts.RULES`.
    """

    key: Text
    sentence: Text
    source: str = ""
    rule: Literal["does-not-beat", "edge-goes-away"]
    contrasts: tuple[Key, ...] = Field(min_length=1)


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
    rehearsal: Rung
    full: Rung


class Evaluation(Frozen):
    """What is scored, in windows for each region. A curve's points are scored on the tuning split."""

    test_windows: PositiveInt = 600
    rehearsal_windows: PositiveInt = 200
    curve_windows: PositiveInt = 64
    rows_per_batch: PositiveInt = 16
    prompts: int = Field(default=3, ge=0)
    prompt_tokens: PositiveInt = 48


class Study(Frozen):
    """A comparison: arms × seeds on the same documents in the same order."""

    kind: Literal["compare"] = "compare"
    name: Key
    title: Text
    question: Text
    description: str = ""
    margin: float = Field(gt=0)
    seeds: tuple[int, ...] = Field(min_length=1)
    rates: str | None = None
    data: DataSettings
    architecture: Shared
    recipe: dict[str, Any]
    rungs: Rungs
    evaluation: Evaluation = Evaluation()
    declared_differences: dict[str, str] = {}
    arms: tuple[Arm, ...] = Field(min_length=1)
    contrasts: tuple[Contrast, ...] = ()
    claims: tuple[Claim, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        keys = [arm.key for arm in self.arms]
        _unique(keys, "arms")
        _unique(self.seeds, "seeds")
        _unique(self.data.regions, "data.regions")
        names = [contrast.name for contrast in self.contrasts]
        _unique(names, "contrasts")
        _unique([claim.key for claim in self.claims], "claims")
        for arm in self.arms:
            if arm.match is not None and (arm.match == arm.key or arm.match not in keys):
                others = [key for key in keys if key != arm.key]
                raise ValueError(
                    f"arm '{arm.key}' is matched to '{arm.match}', which is no other arm: "
                    f"{suggest(arm.match, others)}"
                )
        for contrast in self.contrasts:
            for end in (contrast.first, contrast.second):
                if end not in keys:
                    raise ValueError(f"contrast '{contrast.name}' names an arm '{end}': {suggest(end, keys)}")
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
            if claim.rule == "edge-goes-away":
                chain = [self.contrasts[names.index(name)] for name in claim.contrasts]
                if len(chain) != 2 or chain[0].second != chain[1].first:
                    raise ValueError(
                        f"claim '{claim.key}': rule 'edge-goes-away' needs two contrasts, the second going "
                        "on from the arm that the first goes to"
                    )
        return self

    def arm(self, key: str) -> Arm:
        """The arm of that key."""
        return next(arm for arm in self.arms if arm.key == key)

    def recipe_for(self, rung: Rung, learning_rate: float, seed: int, steps: int) -> Recipe:
        """One run's recipe: the study's, with the rung's length and the arm's learning rate."""
        tables = {**self.recipe, "learning_rate": learning_rate, "seed": seed, "steps": steps}
        if rung.warmup_steps is not None:
            tables["warmup_steps"] = rung.warmup_steps
        return validated(Recipe, tables, "recipe")


class RatesStudy(Frozen):
    """The search of each arm's learning rate: every arm gets the same values, scored on the tuning split."""

    kind: Literal["rates"]
    name: Key
    title: Text
    description: str = ""
    study: str
    grid: tuple[float, ...] = Field(min_length=5)
    seed: int
    steps: PositiveInt
    warmup_steps: int | None = Field(default=None, ge=0)
    tune_windows: PositiveInt = 200
    writes: str

    @model_validator(mode="after")
    def _sorted(self) -> Self:
        _unique(self.grid, "grid")
        if list(self.grid) != sorted(self.grid) or self.grid[0] <= 0:
            raise ValueError("grid: write positive learning rates in ascending order")
        return self


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


def load(path: Path, overrides: Sequence[str] = ()) -> tuple[Study, RatesStudy | None]:
    """A study file with its overrides; for a rates file, the study it is about and the file itself.

    Overrides of a rates study reach its own keys; those that start with ``study.`` reach the study it is
    about.

    Raises:
        UserError: naming the file and the first key that is wrong.
    """
    tables = read_toml(path, "the study file")
    if tables.get("kind") != "rates":
        return _study(path, tables, overrides), None
    inner = [assignment.removeprefix("study.") for assignment in overrides if assignment.startswith("study.")]
    own = [assignment for assignment in overrides if not assignment.startswith("study.")]
    rates = validated(RatesStudy, set_values(tables, own), str(path))
    about = path.parent / rates.study
    about_tables = read_toml(about, "the study file")
    about_tables.pop("rates", None)  # the rates are what is being looked for
    return _study(about, about_tables, inner), rates


def _study(path: Path, tables: dict[str, Any], overrides: Sequence[str]) -> Study:
    study = validated(Study, set_values(tables, overrides), str(path))
    for rung in (
        study.rungs.rehearsal,
        study.rungs.full,
    ):  # a wrong recipe is an error before anything is prepared
        study.recipe_for(rung, 1e-3, 0, rung.steps or 10**9)
    for name in ELSEWHERE:
        if name in study.recipe:
            raise UserError(f"{path}: recipe.{name} is not set here: {ELSEWHERE[name]}")
    if study.rates is not None and "learning_rate" in study.recipe:
        raise UserError(
            f"{path}: recipe.learning_rate and rates = '{study.rates}' are both given: keep one of them"
        )
    return study


ELSEWHERE = {
    "seed": "write 'seeds = [1, 2, 3]' at the top",
    "steps": "each rung has its own, such as rungs.full.steps",
}


def learning_rates(study: Study, folder: Path) -> tuple[dict[str, float], dict[str, Any] | None]:
    """Each arm's learning rate, and the whole committed search they come from (None: one rate, untuned, for
    all).

    Raises:
        UserError: no such file, or an arm that it doesn't hold.
    """
    if study.rates is None:
        if "learning_rate" not in study.recipe:
            raise UserError(
                f"study '{study.name}' has no learning rates: name the file of a pre-study, "
                f"rates = '{study.name}-rates.json', or give all arms one, recipe.learning_rate"
            )
        return {arm.key: float(study.recipe["learning_rate"]) for arm in study.arms}, None
    path = folder / study.rates
    found = read_json(path, "the learning rates")
    try:
        rates = {arm.key: float(found["arms"][arm.key]["optimum"]) for arm in study.arms}
    except (KeyError, TypeError, ValueError) as error:
        keys = ", ".join(arm.key for arm in study.arms)
        raise UserError(
            f"{path} has no learning rate for {error}: it should hold one for each of {keys}"
        ) from error
    return rates, found
