"""One network and one corpus, described: what `headtohead train` is given, as a file or in flags.

The words are those of a study's arm. What is left out is chosen here, by rules that are told in the fields. Nothing
here imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from headtohead.data.objectives import CausalLM, MaskedLM, Objective, ObjectiveField, PrefixLM
from headtohead.data.objectives.text import TextToText
from headtohead.errors import UserError
from headtohead.model.architecture import Architecture
from headtohead.model.parts import Listed
from headtohead.model.presets import architecture as preset_of
from headtohead.model.reach import sees_its_answer
from headtohead.study.arms import network_of
from headtohead.study.parts import ArmArchitecture, DataSettings, Frozen, Key, Shared, Text
from headtohead.study.plan import Arm, Evaluation, Rung, Rungs, Study
from headtohead.study.reading import read_toml, set_values
from headtohead.train.recipe import Recipe
from headtohead.validation import validated

Supervise = Literal["output", "all", "holes"]
STEPS = 1000
LEARNING_RATE = 1e-3
ROWS_PER_STEP = 8
ROW = 512
BYTES_PER_TOKEN = 3
"""Of English text, about: by how many bytes a window fills a row."""


def _named(value: Any) -> Any:
    """``architecture = "decllm-mini"`` is short for ``{ preset = "decllm-mini" }``."""
    return {"preset": value} if isinstance(value, str) else value


CUT_ALREADY = ("field", "tokenizer", "vocabulary", "window_bytes", "tune", "test")
"""What sharded data have settled."""


class SoloData(Frozen):
    """What is read, and how it becomes rows. `text`: files or folders; `pairs`: a .jsonl file of inputs and outputs;
    `shards`: a folder of `headtohead shard`, whose text is tokenized and cut already.

    Left out: `vocabulary` is the preset's, `row` 512 tokens, `side` the row (half of it for two streams),
    `window_bytes` what fills a row.
    """

    text: Listed[str] = ()
    pairs: str | None = None
    shards: str | None = None
    field: str = "text"
    tokenizer: Literal["bpe", "bytes"] = "bpe"
    vocabulary: PositiveInt | None = None
    row: int | None = Field(default=None, ge=8, le=2**16)
    side: int | None = Field(default=None, ge=4, le=2**16)
    window_bytes: int | None = Field(default=None, ge=16)
    tune: float = Field(default=0.05, gt=0, lt=0.5)
    test: float = Field(default=0.08, gt=0, lt=0.5)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = {"text": bool(self.text), "pairs": self.pairs is not None, "shards": self.shards is not None}
        if len(found := [name for name, there in given.items() if there]) > 1:
            raise ValueError(f"{' and '.join(found)} can't be given together: choose one")
        cut = [name for name in CUT_ALREADY if name in self.model_fields_set]
        if self.shards is not None and cut:
            raise ValueError(f"{cut[0]} can't be set with shards: they are tokenized and cut already")
        return self


class Watching(Frozen):
    """What is scored: `points` times while it learns, on `curve_windows` windows of the tuning part; at the end
    `windows` of the test part.
    """

    points: PositiveInt = 10
    curve_windows: PositiveInt = 32
    windows: PositiveInt = 200
    rows_per_batch: PositiveInt = 8
    prompts: int = Field(default=2, ge=0)
    prompt_tokens: PositiveInt = 48


class Solo(Frozen):
    """A training run of its own.

    Left out: `architecture` is that of `init_from`; `objective` is "causal" for a decoder that sees nothing ahead,
    "masked" for a network that fills holes, else "prefix"; `supervise` is "holes" for holes, else "output".
    """

    kind: Literal["train"] = "train"
    name: Key | None = None
    title: Text | None = None
    architecture: Annotated[ArmArchitecture | None, BeforeValidator(_named)] = None
    objective: ObjectiveField | None = None
    supervise: Supervise | None = None
    init_from: str | None = None
    data: SoloData = SoloData()
    recipe: dict[str, Any] = Field(default_factory=dict)
    evaluation: Watching = Watching()

    @model_validator(mode="after")
    def _something_to_train(self) -> Self:
        if self.architecture is None and self.init_from is None:
            raise ValueError(
                "there is no network to train: name a preset (architecture = 'decllm-nano'), or init_from = 'RUN'"
            )
        return self

    def on_bytes(self) -> Solo:
        """The same with the tokenizer that its first weights came with, bytes."""
        return self.model_copy(update={"data": self.data.model_copy(update={"tokenizer": "bytes"})})


class Settings(DataSettings):
    """Data whose scored regions are those of the objective itself."""

    regions: Listed[str] = Field(min_length=1)  # pyright: ignore[reportIncompatibleVariableOverride]
    own: ObjectiveField | None = None

    def objective(self, region: str) -> Objective:
        """What cuts a window for a region."""
        return self.own if self.own is not None and self.own.region == region else super().objective(region)


class SoloEvaluation(Evaluation):
    """Held-out text of any size, even of one document: no claim about seeing the input is made of it."""

    swaps: ClassVar[bool] = False


def read_solo(what: str | None, flags: Mapping[str, Any], overrides: Sequence[str]) -> tuple[Solo, str]:
    """The description in a .toml file, or of a preset's name; and what to call it in errors.

    Args:
        flags: dotted keys that the command line's own options set, over the file's.
        overrides: of ``--set``, over both.

    Raises:
        UserError: no such file or preset, or a key or value that is wrong.
    """
    tables: dict[str, Any] = {}
    where = "train"
    if what is not None and what.endswith(".toml"):
        tables, where = read_toml(Path(what), "the training file"), what
        if tables.get("kind", "train") != "train":
            raise UserError(
                f"{what}: kind = {tables['kind']!r} is a study: run it with headtohead study {what}"
            )
    elif what is not None:
        preset_of(what)  # an unknown name is told with those it resembles
        tables = {"architecture": {"preset": what}}
    if isinstance(tables.get("architecture"), str):
        tables["architecture"] = {"preset": tables["architecture"]}  # so that --set reaches into it
    for path, value in flags.items():
        place = tables
        *tables_on_the_way, last = path.split(".")
        for word in tables_on_the_way:
            place = place.setdefault(word, {})
            if not isinstance(place, dict):
                raise UserError(f"{where}: {word} should be a table")
        place[last] = value
    solo = validated(Solo, set_values(tables, overrides), where)
    validated(Recipe, _recipe(solo, 1), f"{where}: recipe")
    return solo, where


def network(solo: Solo, where: str, inherited: Architecture | None, vocabulary: int | None) -> Architecture:
    """The network that is trained, with the vocabulary of its tokenizer.

    Args:
        inherited: the network that the first weights are from.
        vocabulary: of a tokenizer that is given; None for one that is yet to be made.

    Raises:
        UserError: no network, or no preset.
    """
    own, name = solo.architecture, named(solo)
    if own is None:
        assert inherited is not None
        return inherited.resized(vocabulary=vocabulary or inherited.vocabulary)
    size = vocabulary or solo.data.vocabulary
    if size is None:
        size = (
            preset_of(own.preset).vocabulary
            if own.preset is not None
            else DataSettings.model_fields["vocabulary"].default
        )
    return network_of(own, name, where, size)


def named(solo: Solo) -> str:
    """What a run is called where nobody gave it a name: after its preset."""
    preset = None if solo.architecture is None else solo.architecture.preset
    return solo.name or (preset or "network").replace(".", "-")


def objective_of(solo: Solo, a: Architecture) -> Objective:
    """The objective that is given, or the one that this kind of network was made for."""
    if solo.objective is not None:
        return solo.objective
    if sees_its_answer(a, "output"):
        return MaskedLM()
    if a.output_stream.holds == "both" and not sees_its_answer(a, "all"):
        return CausalLM()
    return PrefixLM()


def supervise_of(solo: Solo, objective: Objective | None) -> Supervise:
    """Which tokens carry loss."""
    return solo.supervise or ("holes" if objective is not None and objective.in_place else "output")


class Rows(NamedTuple):
    """How long rows are, in tokens."""

    row: int
    side: int


def as_study(solo: Solo, a: Architecture, objective: Objective | None, rows: Rows | None = None) -> Study:
    """The run as a study of one arm, which is what `prepare` and `Basis` take.

    Args:
        objective: None for pairs, which are an input and an output already.
        rows: of data that is cut already.
    """
    data, watched = solo.data, solo.evaluation
    settings = _settings(data, a, objective, rows)
    seed = solo.recipe.get("seed", 0)
    steps = solo.recipe.get("steps", STEPS)
    rung = Rung(steps=steps, curve_points=watched.points)
    width = a.width(a.output_stream)
    # Objectives that cut text into text are the region that is scored; the others learn apart from it.
    apart = objective is not None and not isinstance(objective, TextToText)
    kept = {
        key: value
        for key, value in _recipe(solo, steps).items()
        if key not in ("seed", "steps", "learning_rate")
    }
    return Study(
        name=named(solo),
        title=solo.title or a.name,
        question="How well does it learn?",
        margin=0.01,
        seeds=(seed,),
        data=settings,
        architecture=Shared(
            d_model=width.d_model, heads=width.heads, d_head=width.d_head, d_ff=a.output_stream.layers[0].d_ff
        ),
        recipe=kept,
        rungs=Rungs(rehearsal=rung, full=rung),
        evaluation=SoloEvaluation(
            test_windows=watched.windows,
            rehearsal_windows=watched.windows,
            curve_windows=watched.curve_windows,
            rows_per_batch=watched.rows_per_batch,
            prompts=0 if objective is not None and objective.in_place else watched.prompts,
            prompt_tokens=watched.prompt_tokens,
        ),
        arms=(
            Arm(
                key=named(solo),
                label=solo.title or a.name,
                supervise=supervise_of(solo, objective),
                objective=objective if apart else None,
                architecture=solo.architecture or ArmArchitecture(preset=a.name),
            ),
        ),
    )


def learning_rate(solo: Solo) -> float:
    """The peak of the schedule."""
    return solo.recipe.get("learning_rate", LEARNING_RATE)


def _recipe(solo: Solo, steps: int) -> dict[str, Any]:
    """The recipe's table with what is left out: all cores, a tenth of the steps (at most 100) to warm up."""
    told = solo.recipe.get("steps", steps)
    steps = told if isinstance(told, int) else steps
    return {
        "learning_rate": LEARNING_RATE,
        "rows_per_step": ROWS_PER_STEP,
        "warmup_steps": min(100, steps // 10),
        "threads": os.cpu_count() or 1,
        **solo.recipe,
    }


def _settings(data: SoloData, a: Architecture, objective: Objective | None, rows: Rows | None) -> Settings:
    row = rows.row if rows else data.row or ROW
    side = rows.side if rows else data.side or (max(4, row // 2) if a.two_streams else row)
    longest = row if not a.two_streams else 2 * side
    window = data.window_bytes or max(
        16, (longest - 16) * (BYTES_PER_TOKEN if data.tokenizer == "bpe" else 1)
    )
    written = objective is not None and not objective.in_place and not isinstance(objective, TextToText)
    scored = PrefixLM() if written else objective
    return Settings(
        tokenizer=data.tokenizer,
        vocabulary=a.vocabulary,
        window_bytes=window,
        row=row,
        side=side,
        regions=("answer",) if scored is None else (scored.region,),
        own=scored,
        tune=data.tune,
        test=data.test,
    )
