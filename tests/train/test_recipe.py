"""The recipe is strict, and what can't work is told before anything runs."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest
from tests.train import small

from headtohead.errors import UserError
from headtohead.train.recipe import Recipe
from headtohead.validation import validated

GOOD = """
learning_rate = 3e-3
warmup_steps = 50
betas = [0.9, 0.95]
rows_per_step = 16
micro_batches = 2
steps = 500
precision = "bf16"
"""


def test_loads_from_toml() -> None:
    recipe = validated(Recipe, tomllib.loads(GOOD), "a.toml: recipe")
    assert (recipe.learning_rate, recipe.betas, recipe.final_fraction) == (3e-3, (0.9, 0.95), 0.1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learning_rat = 1", "unknown key 'learning_rat': did you mean 'learning_rate'?"),
        ("learning_rate = 0", "learning_rate = 0: it should be greater than 0"),
        ("learning_rate = nan", "learning_rate = nan: it should be a finite number"),
        ('learning_rate = "3e-4"', 'learning_rate = "3e-4": it should be a number'),
        ("betas = [0.9, 1.0]", "betas[1] = 1.0: it should be less than 1"),
        ("final_fraction = 1.5", "final_fraction = 1.5: it should be less than or equal to 1"),
        ('precision = "bf61"', "precision = \"bf61\": it should be 'bf16' or 'fp32'; did you mean 'bf16'?"),
        ("threads = 0", "threads = 0: it should be greater than or equal to 1"),
        ("steps = 2.5", "steps = 2.5: it should be a whole number"),
        ("compile = 1", "compile = 1: it should be true or false"),
        ("micro_batches = 3", "micro_batches = 3 does not divide rows_per_step = 16"),
        (
            "warmup_steps = 501",
            "warmup_steps = 501 is more than steps = 500: the warm-up should end within the run",
        ),
    ],
)
def test_refuses(line: str, message: str) -> None:
    tables = {**tomllib.loads(GOOD), **tomllib.loads(line)}
    with pytest.raises(UserError) as caught:
        validated(Recipe, tables, "a.toml: recipe")
    assert str(caught.value) == f"a.toml: recipe: {message}"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('optimizer = "adam"', "optimizer = \"adam\": it should be 'adamw', 'muon' or 'adafactor'"),
        (
            "momentum = 0.9",
            "momentum means nothing for optimizer = 'adamw': leave it out, or set optimizer = 'muon'",
        ),
        (
            'optimizer = "adafactor"',
            "betas means nothing for optimizer = 'adafactor': leave it out, or set optimizer = 'adamw' or 'muon'",
        ),
        (
            'optimizer = "muon"\nfactored = true',
            "factored means nothing for optimizer = 'muon': leave it out, or set optimizer = 'adafactor'",
        ),
        (
            'schedule = "constant"\nfinal_fraction = 0.1',
            "final_fraction means nothing for schedule = 'constant': leave it out, or set "
            "schedule = 'cosine' or 'linear' or 'wsd'",
        ),
        (
            "decay_fraction = 0.1",
            "decay_fraction means nothing for schedule = 'cosine': leave it out, or set schedule = 'wsd'",
        ),
        (
            'schedule = "wsd"\ndecay_fraction = 0.95',
            "warmup_steps = 50 and the last 475 steps of decay_fraction = 0.95 are more than steps = 500: the "
            "warm-up should end before the decay",
        ),
        (
            "average_every = 3",
            "average_every means nothing without average_last: set that too, or leave it out",
        ),
        (
            "average_last = 5\naverage_every = 200",
            "average_last = 5 with average_every = 200 reaches back before the first of steps = 500: average "
            "fewer, or nearer to each other",
        ),
        ("average_last = 1", "average_last = 1: it should be greater than or equal to 2"),
    ],
)
def test_only_what_means_something_may_be_set(lines: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        validated(Recipe, {**tomllib.loads(GOOD), **tomllib.loads(lines)}, "a.toml: recipe")
    assert str(caught.value).startswith(f"a.toml: recipe: {message}")


@pytest.mark.parametrize("optimizer", ["muon", "adafactor"])
def test_parts_want_an_optimizer_that_can_do_with_them(optimizer: str) -> None:
    with pytest.raises(
        ValueError, match=f"optimizer = '{optimizer}' looks at whole matrices, of which each process"
    ):
        small.recipe(optimizer=optimizer, parallel="fsdp")
    small.recipe(optimizer=optimizer, parallel="ddp")


def test_a_recipe_of_before_is_written_as_before() -> None:
    """The keys of version 0.1, in their order: a run's identity is made of them."""
    assert list(Recipe(learning_rate=1e-3, rows_per_step=4).model_dump()) == [
        "learning_rate", "warmup_steps", "final_fraction", "betas", "eps", "weight_decay", "clip", "z_loss",
        "rows_per_step", "micro_batches", "steps", "precision", "compile", "threads", "checkpoint_every",
        "log_every", "seed",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", small.KINDS)
def test_what_is_written_is_read_again(kind: str) -> None:
    recipe = small.recipe(**small.KINDS[kind])
    written = recipe.model_dump(mode="json")
    assert Recipe.model_validate(written) == recipe
    assert Recipe.model_validate(written).model_dump(mode="json") == written


def test_defaults_that_depend_on_other_keys() -> None:
    plain = {"learning_rate": 1e-2, "rows_per_step": 4}
    assert Recipe(**plain).weight_decay == Recipe(**plain, optimizer="muon").weight_decay == 0.1
    assert Recipe(**plain, optimizer="adafactor").weight_decay == 0.0
    assert Recipe(**plain, optimizer="adafactor", weight_decay=0.2).weight_decay == 0.2
    averaging = Recipe(**plain, average_last=5, checkpoint_every=20, steps=100)
    assert list(averaging.averaged_steps) == [20, 40, 60, 80, 100]
    assert list(Recipe(**plain, steps=100).averaged_steps) == []


def test_steps_settled_later_are_checked_as_in_a_file() -> None:
    recipe = Recipe(learning_rate=1e-3, rows_per_step=4, warmup_steps=10)
    assert recipe.with_steps(10).steps == 10
    with pytest.raises(ValueError, match="warm-up should end within the run"):
        recipe.with_steps(9)


def test_reading_a_recipe_needs_no_torch() -> None:
    code = "import sys, headtohead.train.recipe, headtohead.validation; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
