"""Small text, examples and networks for the tests of the data room."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from headtohead.data.corpora import Document
from headtohead.data.shards import CONTINUE, Example
from headtohead.model.architecture import Architecture, one_stack, two_stacks

SIZES = {"d_model": 8, "heads": 2, "d_head": 4, "vocabulary": 32}
CAUSAL = one_stack("causal", "causal", depth=2, d_ff=16, **SIZES)
PREFIX = one_stack("prefix", "prefix", depth=2, d_ff=16, **SIZES)
TWO = two_stacks("two", "full", depths=(1, 2), d_ff=16, **SIZES)
ARCHITECTURES: tuple[Architecture, ...] = (CAUSAL, PREFIX, TWO)


def prose(seed: int, size: int) -> str:
    """About `size` bytes of made-up sentences with a few accents, different for each seed."""
    made = random.Random(seed)
    words = ["".join(made.choices("aeioubcdfglmnprsté", k=made.randint(2, 9))) for _ in range(200)]
    lines = []
    while sum(map(len, lines)) < size:
        lines.append(" ".join(made.choices(words, k=12)).capitalize() + made.choice([". ", ".\n"]))
    return "".join(lines)


def documents(count: int, size: int = 2000) -> list[Document]:
    return [Document(f"{i:02d}.txt", prose(i, size), f"{i:02d}.txt") for i in range(count)]


def example(
    input: Sequence[int],
    output: Sequence[int],
    mode: int = CONTINUE,
    ends: bool = False,
    document: int = 0,
    region: str = "continuation",
) -> Example:
    ids = (np.array(input, np.int32), np.array(output, np.int32))
    return Example(
        *ids, mode, ends, document, region, output_bytes=3 * len(output), input_bytes=2 * len(input)
    )


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    """A folder with these files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder
