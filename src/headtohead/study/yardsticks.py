"""The baselines of a study: xz and a 5-gram model on the very bytes that its runs are scored on.

Made from the prepared data alone: windows join to whole documents, and the tokenizers are lossless.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from headtohead.data.shards import CONTINUE, Example, ExampleStore
from headtohead.data.tokenizers import Tokenizer, load_tokenizer
from headtohead.files import read_json, write_atomic
from headtohead.measure.baselines import baselines
from headtohead.study.parts import IN_PLACE
from headtohead.study.prepare import held_out

FILE = "baselines.json"


def found_baselines(data: Path, windows: int) -> dict[str, Any] | None:
    """The baselines measured before on that many windows of each region, None where they are still to be
    measured.
    """
    if not (data / FILE).is_file():
        return None
    found = read_json(data / FILE, "the baselines")
    return found["bits_per_byte"] if found.get("windows") == windows else None


def write_baselines(data: Path, windows: int) -> None:
    """Measure the baselines on `windows` held-out windows of each region, into DATA/baselines.json."""
    tokenizer = load_tokenizer(data / "tokenizer.json")
    told = read_json(data / "data.json", "the prepared data")["regions"]
    regions = [region for region in told if region not in IN_PLACE]  # holes are no text of their own
    test = ExampleStore.open(data, "test")
    scored = [test[int(i)] for i in held_out(test, windows, regions)] if regions else []
    pairs = {
        region: [
            (_text(tokenizer, e)[0] if e.mode == CONTINUE else "", _text(tokenizer, e)[1])
            for e in scored
            if e.region == region
        ]
        for region in regions
    }
    measured = baselines(_documents(data, tokenizer), pairs) if pairs else {}
    found = {"windows": windows, "bits_per_byte": measured}
    write_atomic(data / FILE, json.dumps(found, indent=1) + "\n")


def _text(tokenizer: Tokenizer, example: Example) -> tuple[str, str]:
    return tokenizer.decode(example.input.tolist()), tokenizer.decode(example.output.tolist())


def _filled(example: Example) -> Example:
    """An example of holes as the text it was made of: all output."""
    assert example.where is not None
    text = example.input.copy()
    text[example.where] = example.output
    return replace(example, input=text[:0], output=text, in_place=False, where=None)


def _documents(data: Path, tokenizer: Tokenizer) -> list[str]:
    """The training documents: of a continuation, input and output are the window; of other examples, the
    output.
    """
    train = ExampleStore.open(data, "train")
    texts: dict[int, list[str]] = {}
    for example in train:
        if example.in_place:
            example = _filled(example)
        before, after = _text(tokenizer, example)
        texts.setdefault(example.document, []).append(before + after if example.mode == CONTINUE else after)
    return ["".join(pieces) for pieces in texts.values()]
