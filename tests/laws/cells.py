"""What the laws are tried on: architectures × tasks × positions, registered here and nowhere else.

A family that gets a preset is under the laws by that alone; a description without one is added to
`DESCRIPTIONS`. `SENSELESS` lists the cells that make no sense and `EXCEPTIONS` the laws that an architecture
can't obey, each with its reason; both are checked: a senseless cell must be refused by the package, an
exception must really fail.

`cells()` is a pairwise covering of the cross (every architecture with every task, and both with each kind of
positions); the rest of the cross is marked slow.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import pytest
import torch

from headtohead.data import sense
from headtohead.data.corpora import Document, Pair
from headtohead.data.layouts import Layout
from headtohead.data.objectives import (
    UL2,
    Answer,
    BlankInfilling,
    CausalLM,
    Denoising,
    GapSentences,
    MaskedLM,
    Objective,
    PrefixLM,
    Restoration,
    SpanCorruption,
    T5Gemma2Mixture,
    UniLM,
    examples,
    pair_examples,
)
from headtohead.data.packing import Supervise
from headtohead.data.shards import Example
from headtohead.data.tokenizers import ByteTokenizer
from headtohead.errors import UserError
from headtohead.model.architecture import Architecture, Layer, Read, Stream, one_stack, two_stacks
from headtohead.model.batch import Batch
from headtohead.model.blocks import is_table
from headtohead.model.parts import (
    Alibi,
    AnyPositions,
    Biases,
    Embeddings,
    Head,
    Learned,
    NoPositions,
    Norms,
    RelativeBias,
    Rope,
    Scores,
    Sinusoidal,
    TwoDimensional,
)
from headtohead.model.presets import Family, Size, families
from headtohead.model.reach import sees_its_answer
from headtohead.model.transformer import Transformer

SIZES: dict[str, Any] = {"d_model": 32, "heads": 4, "d_head": 8, "vocabulary": 320}
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


def double_decoder_full_blocks(block: int = 4) -> Architecture:
    """Two stacks over the whole text (arXiv 2605.18807): the second attends causally within its block, and
    across to the first stack's states of earlier blocks alone. The first may then see all of each block at
    once.
    """
    return Architecture(
        name="double-decoder-full-blocks",
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


def small_window() -> Architecture:
    """Local and global layers in turn, each with a rotation of its own, a window that short texts outgrow."""
    near = Layer(reads=(_read("text", "causal & window(4)"),), d_ff=D_FF, positions=Rope(base=100.0))
    wide = Layer(reads=(_read("text", "causal"),), d_ff=D_FF)
    stream = Stream(name="text", holds="both", layers=(near, wide), cycle_to=3)
    return Architecture(name="small-window", streams=(stream,), norms=ALL_NORMS, **SIZES)


def every_option(two: bool) -> Architecture:
    """Whatever no preset asks for, together: caps that bite, ReLU², a LayerNorm on both sides, biases, grouped
    heads, tables of their own.
    """
    options: dict[str, Any] = {
        "norms": Norms(kind="layer", place="both", bias=True, query_key_weights=True, output=True),
        "feed_forward": "relu2",
        "scores": Scores(scale=0.7, soft_cap=1.5),
        "biases": Biases(attention=True, feed_forward=True),
        "embeddings": Embeddings(shared=False, tied=False, scaled=True, norm=True, segments=True),
        "head": Head(transform=True, bias=True, scaled=True, soft_cap=2.0),
        "key_heads": 2,
    }
    if two:
        return two_stacks("every-option-two", "causal", depths=(2, 2), d_ff=D_FF, **options, **SIZES)
    return one_stack("every-option-one", "prefix", depth=2, d_ff=D_FF, **options, **SIZES)


def _small(family: Family) -> Architecture:
    depths = (3,) if family.streams == 1 else (2, 2)
    size = Size(
        SIZES["d_model"], D_FF, SIZES["heads"], SIZES["d_head"], SIZES["vocabulary"], depths, context=64
    )
    return family.describe(family.name, size)


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
    double_decoder_full_blocks(),
    small_window(),
    every_option(two=False),
    every_option(two=True),
)
ARCHITECTURES: dict[str, Architecture] = {
    **{name: _small(family) for name, family in families().items()},
    **{a.name: a for a in DESCRIPTIONS},
}


@dataclass(frozen=True)
class Task:
    """What is asked: how examples are cut, and which tokens carry loss. `form`: tasks of one form are laid out
    alike, and the covering holds each form against each architecture.
    """

    name: str
    supervise: Supervise
    objectives: tuple[Objective, ...] = ()  # none: pairs
    form: str = "text to text"


SPANS, HOLES = "spans", "holes"
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("causal-lm", "output", (CausalLM(),), "all output"),
        Task("causal-lm, all", "all", (CausalLM(),), "all output"),
        Task("continuation", "output", (PrefixLM(),)),
        Task("continuation, all", "all", (PrefixLM(),), "input too"),
        Task("random-split", "output", (PrefixLM(split="random", seed=1),)),
        Task("restoration", "output", (Restoration(),)),
        Task("mixture", "output", (PrefixLM(), Restoration())),
        Task("mixture, all", "all", (PrefixLM(), Restoration()), "input too"),
        Task("pairs", "output"),
        # Windows of nine bytes: rates are higher than the papers', so that there are spans and holes to see.
        Task("span-corruption", "output", (SpanCorruption(rate=0.5, mean=2),), SPANS),
        Task("ul2", "output", (UL2(seed=1),), SPANS),
        Task("t5gemma2", "output", (T5Gemma2Mixture(),), SPANS),
        Task("one blank", "output", (BlankInfilling(spans="document"),), SPANS),
        Task("blanks", "output", (BlankInfilling(rate=0.5, seed=2),), SPANS),
        Task("denoising", "output", (Denoising(),)),
        Task("gap-sentences", "output", (GapSentences(), GapSentences(score="lcs", blanks=False))),
        Task("masked", "holes", (MaskedLM(rate=0.4),), HOLES),
        Task("whole words", "holes", (MaskedLM(rate=0.4, replace="mask", whole_words=True),), HOLES),
        Task("unilm", "holes", (UniLM(rate=0.3),), HOLES),
    )
}
EXTRA = tuple(
    dict.fromkeys(
        name for task in TASKS.values() for objective in task.objectives for name in objective.specials(16)
    )
)
OWN = "own"
"""The positions of the description itself, where they are none of the others."""
POSITIONS: dict[str, AnyPositions] = {
    "rope": Rope(),
    "rope restarted": Rope(across="restarted"),
    "rope off": Rope(across="off"),
    "learned": Learned(length=64),
    "sinusoidal": Sinusoidal(),
    "t5": RelativeBias(),
    "t5 both": RelativeBias(directions="both", buckets=8, farthest=12, across="restarted"),
    "alibi": Alibi(),
    "glm": TwoDimensional(length=64),
    "none": NoPositions(),
}
ACROSS = ("rope restarted", "rope off")
"""Kinds that differ from another only where a stream reads another's places of another part."""


def placed(family: str, positions: str) -> Architecture:
    """A family's network with positions of one kind in all of its layers.

    Raises:
        ValueError: the description can't have them.
    """
    a = ARCHITECTURES[family]
    if positions == OWN:
        return a
    streams = []
    for stream in a.streams:
        layers = [Layer(reads=x.reads, d_ff=x.d_ff, repeat=x.repeat) for x in stream.layers]
        fields = {name: getattr(stream, name) for name in Stream.model_fields}
        streams.append(Stream(**{**fields, "layers": layers}))
    return a.resized(streams=streams, positions=POSITIONS[positions])


@lru_cache
def kinds_of(family: str) -> list[str]:
    """The kinds of positions that make different networks of a family, those it refuses among them."""
    a = ARCHITECTURES[family]
    apart = a.output_stream.holds == "output"
    kinds = [name for name in POSITIONS if apart or name not in ACROSS]
    uniform = all(layer.positions is None for stream in a.streams for layer in stream.layers)
    same = uniform and any(a.positions == POSITIONS[name] for name in kinds)
    return kinds if same else [OWN, *kinds]


def impossible(family: str, positions: str) -> str | None:
    """Why a description can't have positions of that kind, in the package's words, if it can't."""
    try:
        placed(family, positions)
    except ValueError as error:
        return str(error)
    return None


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
TOKENIZER = ByteTokenizer(EXTRA)


@lru_cache
def task_examples(name: str) -> tuple[Example, ...]:
    """Real examples of a task: 3 to 20 tokens each, of different lengths."""
    task = TASKS[name]
    if not task.objectives:
        return tuple(pair_examples([Pair(str(i), *p, str(i)) for i, p in enumerate(PAIRS)], TOKENIZER))
    documents = [Document(str(i), text, str(i)) for i, text in enumerate(TEXTS)]
    return tuple(examples(documents, task.objectives, TOKENIZER, WINDOW_BYTES))


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
        return placed(self.family, self.positions)

    @property
    def model(self) -> Transformer:
        """Random weights, fp32, kept between tests: nothing here trains it."""
        return _model(self.family, self.positions)

    @property
    def exact(self) -> Transformer:
        """The same network in fp64, where two ways to one answer differ by far less than any fault."""
        return _exact(self.family, self.positions)

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
    model = Transformer(placed(family, positions), seed=7)
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():  # norm weights too: all at 1 they would hide a norm that is left out
        for name, parameter in sorted(model.named_parameters()):
            if is_table(name) and name.startswith("relative"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            elif parameter.ndim == 1:
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
            elif name.endswith(("out.weight", "down.weight")):
                parameter.mul_(2.0)  # our init holds branches back; the laws want to see every way through
    return model.eval().requires_grad_(False)


@lru_cache
def _exact(family: str, positions: str) -> Transformer:
    return copy.deepcopy(_model(family, positions)).double()


# ------------------------------------------------------------------------------------------------------------
# Which cells make sense, and who is exempt from which law: with reasons.


@lru_cache
def fills_holes(family: str) -> bool:
    """Whether a place that predicts sees its answer: such a network learns by filling holes in its input."""
    return sees_its_answer(ARCHITECTURES[family], "output")


def sees_ahead(family: str) -> bool:
    """Whether a place of the input sees a later one: then it can't be asked to predict it."""
    return sees_its_answer(ARCHITECTURES[family], "all")


def has_rule(family: str, *words: str) -> bool:
    """Whether a rule of the description is of that kind."""
    rules = {
        str(read.visibility)
        for stream in ARCHITECTURES[family].streams
        for layer in stream.layers
        for read in layer.reads
    }
    return any(word in rule for word in words for rule in rules)


FILLS = (
    "it sees its answers: it learns by filling holes, and its states change with every token that is added"
)
EXCEPTIONS: tuple[tuple[str, Callable[[Cell], bool], str], ...] = (
    ("cached one by one", lambda cell: fills_holes(cell.family), FILLS),
    (
        "cached equals full",
        lambda cell: cell.family == "double-decoder-full-blocks",
        "a context token sees its whole block: its states change until the block is complete",
    ),
    (
        "greedy",
        lambda cell: cell.family == "double-decoder-full-blocks",
        "as above",
    ),
    (
        "cached one by one",
        lambda cell: cell.family == "double-decoder-full-blocks",
        "as above",
    ),
    (
        "cached one by one",
        lambda cell: (
            has_rule(cell.family, "prefix", "backward_input")
            and not fills_holes(cell.family)
            and cell.task.form != "all output"
        ),
        "an input that sees itself whole must be read at once",
    ),
)


def senseless(cell: Cell) -> str | None:
    """Why a cell makes no sense, in the package's words, if it doesn't."""
    a, task = cell.architecture, cell.task
    reasons = (sense.senseless(objective, a, task.supervise) for objective in task.objectives or (Answer(),))
    return next((reason for reason in reasons if reason), None)


@lru_cache
def cross() -> tuple[Cell, ...]:
    """Every architecture × task × positions that can be described, the senseless ones among them."""
    return tuple(
        Cell(family, task, kind)
        for family in ARCHITECTURES
        for task in TASKS.values()
        for kind in kinds_of(family)
        if impossible(family, kind) is None
    )


@lru_cache
def sensible() -> tuple[Cell, ...]:
    """The cells that laws run on."""
    return tuple(cell for cell in cross() if senseless(cell) is None)


@lru_cache
def covering() -> frozenset[Cell]:
    """Few of them, in which every two of (architecture, positions), (architecture, form of task) and (task,
    positions) that make sense together are.
    """
    chosen: list[Cell] = []
    for number, family in enumerate(ARCHITECTURES):
        own = [cell for cell in sensible() if cell.family == family]
        tasks = list(dict.fromkeys(cell.task for cell in own))
        kinds = list(dict.fromkeys(cell.positions for cell in own))
        for turn, kind in enumerate(kinds):
            possible = [task for task in tasks if Cell(family, task, kind) in own]
            chosen.append(Cell(family, possible[(number + turn) % len(possible)], kind))
    met = {pair for cell in chosen for pair in _pairs(cell)}
    for cell in sensible():
        if not met.issuperset(_pairs(cell)):
            chosen.append(cell)
            met |= _pairs(cell)
    return frozenset(chosen)


def _pairs(cell: Cell) -> set[tuple[str, str]]:
    form, task, kind = f"form {cell.task.form}", f"task {cell.task.name}", f"positions {cell.positions}"
    return {(cell.family, form), (cell.family, kind), (task, kind)}


@lru_cache
def cells(
    law: str | None = None, tasks: bool = True, *, holes: bool = True, written: bool = True
) -> list[Any]:
    """The cells of a law, as pytest parameters; those outside the covering are marked slow.

    `holes`, `written`: whether those of tasks that answer in place, or write an output, are among them.

    `law`: cells exempt from it are expected to fail. `tasks=False`: each architecture once for each kind of
    positions, for laws in which the task plays no part; its own kind, or the first, is not slow.
    """
    found = []
    seen: set[tuple[str, str]] = set()
    for cell in sensible():
        marks = []
        if not (holes if cell.task.form == HOLES else written):
            continue
        if not tasks:
            if (cell.family, cell.positions) in seen or cell.task.name not in ("mixture", "masked"):
                continue
            seen.add((cell.family, cell.positions))
            if cell.positions != kinds_of(cell.family)[0]:
                marks.append(pytest.mark.slow)
        elif cell not in covering():
            marks.append(pytest.mark.slow)
        for name, holds, reason in EXCEPTIONS:
            if name == law and holds(cell):
                raises = (AssertionError, UserError, ValueError)
                marks.append(pytest.mark.xfail(strict=True, reason=reason, raises=raises))
        found.append(pytest.param(cell, id=str(cell).replace(", ", "-").replace(" ", "_"), marks=marks))
    return found
