"""The recipe is strict, and what can't work is told before anything runs."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

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


def test_steps_settled_later_are_checked_as_in_a_file() -> None:
    recipe = Recipe(learning_rate=1e-3, rows_per_step=4, warmup_steps=10)
    assert recipe.with_steps(10).steps == 10
    with pytest.raises(ValueError, match="warm-up should end within the run"):
        recipe.with_steps(9)


def test_reading_a_recipe_needs_no_torch() -> None:
    code = "import sys, headtohead.train.recipe, headtohead.validation; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
