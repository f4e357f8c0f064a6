"""Study files read and checked as a whole, and the learning rates that their arms train with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from headtohead.errors import UserError
from headtohead.files import read_json
from headtohead.study.plan import Arm, RatesStudy, Study
from headtohead.study.reading import read_toml, set_values
from headtohead.train.recipe import Recipe
from headtohead.validation import validated


def load(path: Path, overrides: Sequence[str] = ()) -> tuple[Study, RatesStudy | None]:
    """A study file with its overrides; for a rates file, the study it is about and the file itself.

    Overrides of a rates study reach its own keys; those that start with ``study.`` reach the study it is
    about.

    Raises:
        UserError: naming the file and the first key that is wrong.
    """
    tables = read_toml(path, "the study file")
    kind = tables.get("kind", "compare")
    if kind not in ("compare", "rates"):
        raise UserError(f"{path}: kind = {kind!r}: it should be 'compare', 'rates', 'ladder' or 'dialogue'")
    if kind == "compare":
        return _study(path, tables, overrides), None
    inner = [assignment.removeprefix("study.") for assignment in overrides if assignment.startswith("study.")]
    own = [assignment for assignment in overrides if not assignment.startswith("study.")]
    rates = validated(RatesStudy, set_values(tables, own), str(path))
    about = path.parent / rates.study
    about_tables = read_toml(about, "the study file")
    if about_tables.get("kind") == "rates":
        raise UserError(
            f"{path}: study = '{rates.study}' is a search of learning rates itself: name the comparison "
            "whose arms need them"
        )
    for searched in ("rates", "tuning"):  # the rates are what is being looked for
        about_tables.pop(searched, None)
    study = _study(about, about_tables, inner)
    for arm in study.arms:
        study.recipe_for(
            arm, rates.rung, rates.grid[0], rates.seed, rates.steps, f"{path}: with the recipe of {about}"
        )
    return study, rates


def _study(path: Path, tables: dict[str, Any], overrides: Sequence[str]) -> Study:
    study = validated(Study, set_values(tables, overrides), str(path))
    check_study(path, study)
    return study


def check_study(path: Path, study: Study) -> None:
    """Whether every arm has a recipe, and says nothing there that is said elsewhere.

    Raises:
        UserError: naming the file and the key.
    """
    for where, recipe in _recipes(study):
        for name in ELSEWHERE:
            if name in recipe:
                raise UserError(f"{path}: {where}.{name} is not set here: {ELSEWHERE[name]}")
        if study.rates is not None and "learning_rate" in recipe:
            raise UserError(
                f"{path}: {where}.learning_rate and rates = '{study.rates}' are both given: keep one of them"
            )
    for arm in study.arms:
        if "rows_per_step" in arm.recipe:
            raise UserError(
                f"{path}: arms.{arm.key}.recipe.rows_per_step is not set here: all arms read the same rows at "
                "the same step, recipe.rows_per_step"
            )
        # A wrong recipe is an error before anything is prepared.
        rate = study.settings(arm, None).get("learning_rate", 1e-3)
        where = f"{path}: arms.{arm.key}.recipe" if arm.recipe else f"{path}: recipe"
        study.recipe_for(arm, None, rate, 0, LONG, where)
        for name, rung in (("rehearsal", study.rungs.rehearsal), ("full", study.rungs.full)):
            if rung is not None:
                study.recipe_for(arm, rung, rate, 0, rung.steps or LONG, f"{where} and rungs.{name}")
        if study.tuning is not None:
            _check_tuning(path, study, arm)


def _check_tuning(path: Path, study: Study, arm: Arm) -> None:
    """Whether every run of the search has a recipe, and none says what is being looked for."""
    tuning = study.tuning
    assert tuning is not None
    for name in ("learning_rate", *tuning.settings):
        if name in study.settings(arm, None):
            what = "the grid" if name == "learning_rate" else f"settings.{name}"
            raise UserError(
                f"{path}: recipe.{name} is given and {what} of [tuning] looks for it: keep one of them"
            )
    for settings in tuning.combinations:
        study.recipe_for(
            arm, tuning.rung, tuning.grid[0], 0, tuning.steps, f"{path}: [tuning] with the recipe", settings
        )
        study.recipe_for(arm, study.rungs.full, 1e-3, 0, study.rungs.full.steps or LONG, f"{path}", settings)


def _recipes(study: Study) -> Iterator[tuple[str, dict[str, Any]]]:
    """The study's recipe and what arms have of their own, each with its place in the file."""
    yield "recipe", study.recipe
    for arm in study.arms:
        yield f"arms.{arm.key}.recipe", arm.recipe


LONG = 10**9
"""Steps of a run whose length is not known yet: no warm-up is longer."""


ELSEWHERE = {
    "seed": "write 'seeds = [1, 2, 3]' at the top",
    "steps": "each rung has its own, such as rungs.full.steps",
}


def learning_rates(study: Study, folder: Path) -> tuple[dict[str, float], dict[str, Any] | None]:
    """Each arm's learning rate, and the whole committed search they come from (None: untuned, the file's
    own).

    Raises:
        UserError: no such file, an arm that it doesn't hold, or a search with another optimizer, whose rates mean
            something else.
    """
    if study.rates is None:
        given = {arm.key: study.settings(arm, None).get("learning_rate") for arm in study.arms}
        for key, rate in given.items():
            if rate is None:
                raise UserError(
                    f"study '{study.name}' has no learning rate for arm '{key}': name the file of a pre-study, "
                    f"rates = '{study.name}-rates.json', or give all arms one, recipe.learning_rate"
                )
        return {key: rate for key, rate in given.items() if rate is not None}, None
    path = folder / study.rates
    found = read_json(path, "the learning rates")
    search = validated(_Rates, found, f"the learning rates {path}")
    rates, by = search.arms, search.recipe.get("optimizer", Recipe.model_fields["optimizer"].default)
    for arm in study.arms:
        if study.optimizer(arm) != by and "optimizer" not in arm.recipe:
            raise UserError(
                f"the learning rates {path} were searched with optimizer = '{by}', and arm '{arm.key}' trains with "
                f"'{study.optimizer(arm)}': run their search again, or set recipe.optimizer = '{by}'"
            )
        if arm.key not in rates:
            raise UserError(
                f"the learning rates {path} hold none for arm '{arm.key}', only for "
                f"{', '.join(rates) or 'none'}: run their search again"
            )
    return {arm.key: rates[arm.key].optimum for arm in study.arms}, found


class _Found(BaseModel):
    """Of an arm in a file of learning rates, what is used; the page shows the grid."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    best: float = Field(gt=0)
    optimum: float = Field(gt=0)
    edge: bool
    grid: list[float]
    bits_per_byte: list[float | None]


class _Rates(BaseModel):
    model_config = ConfigDict(strict=True)
    steps: PositiveInt
    recipe: dict[str, Any] = Field(default_factory=dict)
    arms: dict[str, _Found]
