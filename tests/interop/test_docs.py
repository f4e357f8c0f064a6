"""docs/api.md is true: its examples run, on a network of each kind that it speaks of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.interop.test_loading import WRITERS, held

from headtohead.interop.folders import write_folder
from headtohead.model.architecture import Architecture

BLOCKS = re.findall(
    r"^```python\n(.*?)^```$",
    (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8"),
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.parametrize("a", WRITERS, ids=lambda a: a.name)
def test_the_examples_run(a: Architecture, tmp_path: Path) -> None:
    write_folder(tmp_path / "run", held(a))
    names: dict[str, object] = {"RUN": tmp_path / "run"}
    assert len(BLOCKS) == 3
    for block in BLOCKS:
        exec(block, names)
