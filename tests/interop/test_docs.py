"""docs/api.md is true: its examples run, on a network of each kind that it speaks of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.interop.test_loading import WRITERS, held

from headtohead.interop.folders import write_folder
from headtohead.interop.hub import export_network
from headtohead.model.architecture import Architecture

pytest.importorskip("transformers")
BLOCKS = re.findall(
    r"^```python\n(.*?)^```$",
    (Path(__file__).parents[2] / "docs" / "api.md").read_text("utf-8"),
    re.MULTILINE | re.DOTALL,
)


@pytest.mark.parametrize("a", WRITERS, ids=lambda a: a.name)
def test_the_examples_run(a: Architecture, tmp_path: Path) -> None:
    write_folder(tmp_path / "run", held(a))
    export_network(tmp_path / "run", tmp_path / "theirs")
    names: dict[str, Any] = {"RUN": tmp_path / "run", "DIR": tmp_path / "theirs"}
    assert len(BLOCKS) == 4
    for block in BLOCKS:
        if a.two_streams:
            block = block.replace("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
        exec(block, names)
    written, text, model = names["written"], names["text"], names["model"]
    new = written[0, 1 if a.two_streams else text("of the people", return_tensors="pt").input_ids.shape[1] :]
    ids = [int(i) for i in new if int(i) not in model.frame.ends]
    assert model.tokenizer.decode(ids) == model.generate("of the people", max_tokens=16)
