"""What the laws are tried on: architectures × tasks × positions, registered here and nowhere else.

A family that gets a preset is under the laws by that alone; a description without one is added to
`DESCRIPTIONS`. `SENSELESS` lists the cells that make no sense and `EXCEPTIONS` the laws that an architecture
can't obey, each with its reason; both are checked: a senseless cell must be refused by the package, an
exception must really fail.

`cells()` is a pairwise covering of the cross (every architecture with every task, and both with each kind of
positions); the rest of the cross is marked slow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import pytest
import torch

from headtohead.data.corpora import Document, Pair
from headtohead.data.layouts import Layout
from headtohead.data.objectives import CausalLM, Objective, PrefixLM, Restoration, examples, pair_examples
from headtohead.data.shards import Example
from headtohead.data.tokenizers import ByteTokenizer
from headtohead.errors import UserError
from headtohead.model.architecture import Architecture, Layer, Read, Stream, two_stacks
from headtohead.model.batch import Batch
from headtohead.model.parts import Norms
from headtohead.model.presets import architecture, preset_names
from headtohead.model.transformer import Transformer

SIZES: dict[str, Any] = {"d_model": 32, "heads": 4, "d_head": 8, "vocabulary": ByteTokenizer.vocabulary}
D_FF = 48
ALL_NORMS = Norms(query_key=True, value=True, output=True)


def _read(keys: str, visibility: str, merged: bool = False) -> Read:
    return Read.model_validate(
        {"keys": keys, "visibility": f"({visibility}) & same_document", "merged": merged}
    )


def _stream(name: str, holds: Literal["both", "input", "output"], *reads: Read) -> Stream:
    return Stream(name=name, holds=holds, layers=(Layer(reads=reads, d_ff=D_FF, repeat=2),))


def merged_attention() -> Architecture:
    """T5Gemma 2 (arXiv 2512.14856): decoder self- and cross-attention in one softmax, with one set of
    weights.
    """
    return Architecture(
        name="merged-attention",
        streams=(
            _stream("input", "input", _read("input", "full")),
            _stream("output", "output", _read("output", "causal"), _read("input", "full", merged=True)),
        ),
        norms=ALL_NORMS,
        **SIZES,
    )


def block_double_decoder(block: int = 4) -> Architecture:
    """Two stacks over the whole text (arXiv 2605.18807): the second attends causally within its block, and
    across to the first stack's states of earlier blocks alone. The first may then see all of each block at
    once.
    """
    return Architecture(
        name="block-double-decoder",
        streams=(
            _stream("context", "both", _read("context", f"same_block({block}) | earlier_block({block})")),
            _stream(
                "text",
                "both",
                _read("text", f"causal & same_block({block})"),
                _read("context", f"earlier_block({block})"),
            ),
        ),
        norms=ALL_NORMS,
        **SIZES,
    )


def _small(name: str) -> Architecture:
    a = architecture(name)
    return a.resized(**SIZES, d_ff=D_FF, depths=(2,) * len(a.streams), name=name.removesuffix("-nano"))


DESCRIPTIONS: tuple[Architecture, ...] = (
    two_stacks(
        "half-and-half-encoder",
        "by_head(causal, anticausal)",
        depths=(2, 2),
        d_ff=D_FF,
        norms=ALL_NORMS,
        **SIZES,
    ),
    merged_attention(),
    block_double_decoder(),
)
ARCHITECTURES: dict[str, Architecture] = {
    a.name: a for a in (*(_small(n) for n in preset_names() if n.endswith("-nano")), *DESCRIPTIONS)
}


@dataclass(frozen=True)
class Task:
    """What is asked: how examples are cut, and which tokens carry loss."""

    name: str
    supervise: Literal["output", "all"]
    objectives: tuple[Objective, ...] = ()  # none: pairs


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("causal-lm", "output", (CausalLM(),)),
        Task("causal-lm, all", "all", (CausalLM(),)),
        Task("continuation", "output", (PrefixLM("middle"),)),
        Task("continuation, all", "all", (PrefixLM("middle"),)),
        Task("random-split", "output", (PrefixLM("random", seed=1),)),
        Task("restoration", "output", (Restoration(),)),
        Task("mixture", "output", (PrefixLM("middle"), Restoration())),
        Task("mixture, all", "all", (PrefixLM("middle"), Restoration())),
        Task("pairs", "output"),
    )
}
POSITIONS = ("rope", "none")

# Public domain: the opening of three State of the Union addresses, short enough to be packed by threes.
TEXTS = (
    "I embrace with great satisfaction",
    "Fellow-Citizens of the Senate and",
    "The Congress, at its last session — naïve",
)
PAIRS = (
    ("2+3", "5"),
    ("4+17", "21"),
    ("capital of Peru?", "Lima"),
    ("x", "y z"),
    ("ab", "ba"),
    ("hm", "mh?!"),
)
WINDOW_BYTES = 9


@lru_cache
def task_examples(name: str) -> tuple[Example, ...]:
    """Real examples of a task: 3 to 20 tokens each, of different lengths."""
    task = TASKS[name]
    if not task.objectives:
        return tuple(pair_examples([Pair(str(i), *p, str(i)) for i, p in enumerate(PAIRS)], ByteTokenizer()))
    documents = [Document(str(i), text, str(i)) for i, text in enumerate(TEXTS)]
    return tuple(examples(documents, task.objectives, ByteTokenizer(), WINDOW_BYTES))


@dataclass(frozen=True)
class Cell:
    """An architecture at a task, with one kind of positions."""

    family: str
    task: Task
    positions: str

    def __str__(self) -> str:
        return f"{self.family}, {self.task.name}, {self.positions}"

    @cached_property
    def architecture(self) -> Architecture:
        return ARCHITECTURES[self.family].resized(positions=self.positions)

    @property
    def model(self) -> Transformer:
        """Random weights, fp32, kept between tests: nothing here trains it."""
        return _model(self.family, self.positions)

    @property
    def examples(self) -> list[Example]:
        return list(task_examples(self.task.name))

    def layout(self, row: int = 60, side: int = 34) -> Layout:
        return Layout(self.architecture, self.task.supervise, row, side)

    def packed(self) -> Batch:
        """Three short documents in one row, padding after them."""
        return self.layout().batch([self.examples[:3]])

    def alone(self, count: int | None = None) -> Batch:
        """One document a row, ragged."""
        return self.layout(40, 24).batch([[example] for example in self.examples[:count]])


@lru_cache
def _model(family: str, positions: str) -> Transformer:
    model = Transformer(ARCHITECTURES[family].resized(positions=positions), seed=7)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():  # norm weights too: all at 1 they would hide a norm that is left out
        for name, parameter in sorted(model.named_parameters()):
            if parameter.ndim == 1:
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
            elif name.endswith(("out.weight", "down.weight")):
                parameter.mul_(2.0)  # our init holds branches back; the laws want to see every way through
    return model.eval().requires_grad_(False)


# ------------------------------------------------------------------------------------------------------------
# Which cells make sense, and who is exempt from which law: with reasons.

SENSELESS: tuple[tuple[Callable[[Cell], bool], str], ...] = (
    (
        lambda cell: cell.task.supervise == "all" and cell.architecture.output_stream.holds == "output",
        "an input stream predicts nothing",
    ),
    (
        lambda cell: cell.task.supervise == "all" and cell.family == "prefix",
        "who sees the input's later tokens can't be asked to predict them",
    ),
)
EXCEPTIONS: tuple[tuple[str, Callable[[Cell], bool], str], ...] = (
    (
        "cached equals full",
        lambda cell: cell.family == "block-double-decoder",
        "a context token sees its whole block: its states change until the block is complete",
    ),
    (
        "cached one by one",
        lambda cell: cell.family == "block-double-decoder",
        "as above",
    ),
    (
        "cached one by one",
        lambda cell: cell.family == "prefix" and not cell.task.name.startswith("causal-lm"),
        "an input that sees itself whole must be read at once",
    ),
)


def senseless(cell: Cell) -> str | None:
    """Why a cell makes no sense, if it doesn't."""
    return next((reason for holds, reason in SENSELESS if holds(cell)), None)


def cross() -> list[Cell]:
    """Every architecture × task × positions, the senseless ones among them."""
    return [Cell(family, task, p) for family in ARCHITECTURES for task in TASKS.values() for p in POSITIONS]


def cells(law: str | None = None, tasks: bool = True) -> list[Any]:
    """The cells that make sense, as pytest parameters; those outside the covering are marked slow.

    `law`: cells exempt from it are expected to fail. `tasks=False`: each architecture once for each kind of
    positions, for laws in which the task plays no part.
    """
    found = []
    seen: set[tuple[str, str]] = set()
    for cell in (cell for cell in cross() if senseless(cell) is None):
        marks = []
        if not tasks:
            if (cell.family, cell.positions) in seen or cell.task.name != "mixture":
                continue
            seen.add((cell.family, cell.positions))
        else:
            row = list(ARCHITECTURES).index(cell.family) + list(TASKS).index(cell.task.name)
            if POSITIONS[row % 2] != cell.positions:
                marks.append(pytest.mark.slow)
        for name, holds, reason in EXCEPTIONS:
            if name == law and holds(cell):
                marks.append(
                    pytest.mark.xfail(strict=True, reason=reason, raises=(AssertionError, UserError))
                )
        found.append(pytest.param(cell, id=str(cell).replace(", ", "-"), marks=marks))
    return found
