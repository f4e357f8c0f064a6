"""The recipes of docs/recipes.md are recipes, and its tables have every key with its default."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from headtohead.train.recipe import OPTIMIZER_KEYS, SCHEDULE_KEYS, Recipe
from headtohead.validation import validated

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")


def test_its_recipes_are_recipes() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    paper, averaging = (validated(Recipe, tomllib.loads(block)["recipe"], "docs") for block in blocks)
    assert (paper.optimizer, paper.learning_rate, paper.weight_decay) == ("adafactor", 0.01, 0.0)
    assert paper.with_steps(400_000).steps == 400_000
    assert list(averaging.averaged_steps) == [9200, 9400, 9600, 9800, 10000]


def test_every_key_is_told() -> None:
    keys = {key for table in (OPTIMIZER_KEYS, SCHEDULE_KEYS) for some in table.values() for key in some}
    keys |= {
        "optimizer",
        "schedule",
        "keep_last",
        "keep_best",
        "average_last",
        "average_every",
        "warmup_steps",
    }
    for key in keys:
        assert f"`{key}`" in PAGE, key
    for key in ("momentum", "second_moment_decay", "update_clip", "keep_last", "checkpoint_every"):
        assert re.search(rf"\| `{key}` \| {Recipe.model_fields[key].default} \|", PAGE), key
