"""The architectures that are tried, how large they are for a budget, and the study files that try them.

All candidates are of the laboratory's recipe with one set of norms, and cost as much as the causal decoder to answer
a request of the length that is to be served. At equal steps on the same rows they then cost about as much to train,
too. Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from headtohead.model.budget import flops
from headtohead.model.presets import architecture
from headtohead.study.pace import START_SECONDS, TRAINING, Pace

Kind = Literal["text", "pairs"]


@dataclass(frozen=True)
class Candidate:
    """An architecture that may be recommended, by a preset's name. `all_tokens`: of text it learns every token, its
    input too.
    """

    key: str
    label: str
    preset: str
    note: str
    all_tokens: bool = False


CANDIDATES = (
    Candidate(
        "causal",
        "causal decoder",
        "causal-nano",
        "one stack; every token sees what was before it; a dialogue's cache is kept whole",
        all_tokens=True,
    ),
    Candidate(
        "prefix",
        "prefix decoder",
        "prefix-nano",
        "one stack; the input is seen whole, and read again when it grows",
    ),
    Candidate(
        "encoder-decoder",
        "encoder-decoder",
        "redllm-nano",
        "two stacks; the encoder sees the input whole; the decoder alone writes",
    ),
    Candidate(
        "causal-encoder",
        "encoder-decoder, causal encoder",
        "redllm-causal-encoder-nano",
        "two stacks; the encoder sees what was before, so its cache is kept when the input grows",
    ),
)

REFERENCE = CANDIDATES[0].key
"""Whose cost to serve the others are brought to."""


@dataclass(frozen=True)
class Shape:
    """Width and depth of the causal decoder on the upper rung of the ladder; the lower has half of the layers."""

    d_model: int
    depth: int

    @property
    def lower(self) -> Shape:
        return Shape(self.d_model, max(2, self.depth // 2))

    @property
    def sizes(self) -> dict[str, int]:
        return {
            "d_model": self.d_model,
            "heads": self.d_model // 32,
            "d_head": 32,
            "d_ff": 4 * self.d_model,
        }


SHAPES = tuple(
    Shape(*sizes)
    for sizes in ((64, 4), (96, 4), (128, 4), (128, 6), (192, 6), (256, 6), (256, 8), (384, 8), (512, 8), (768, 12))
)  # fmt: skip
TOKENS_PER_PARAMETER = 10
"""A network is chosen that sees at least so many tokens for each of its weights: small runs gain from more data
longer than from more weights (Hoffmann et al. 2022 find 20 to be optimal; half of it leaves room for larger ones)."""
MOST_PASSES = 4
"""Over the training data: beyond it repeated data are worth less and less (Muennighoff et al. 2023)."""

SHARES = {"rates": 0.24, "lower": 0.16, "upper": 0.38, "winner": 0.18}
"""Of the time; the rest is preparing, timing and the pages."""
WITHIN = 0.03
"""Of the reference's cost to serve: at width 64 a step of 16 in d_ff is as much as that."""
GRID = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)
HORIZON_EXPONENT = 0.32
"""See `study.tuning.for_horizon`."""
ROWS_PER_STEP = 8
FEWEST_STEPS = 40
"""Of a run whose data are enough for so many."""
REHEARSAL_STEPS = 20
NORMS = {"query_key": True, "value": True, "output": True}
EVALUATION = {
    "test_windows": 400,
    "rehearsal_windows": 16,
    "curve_windows": 24,
    "prompts": 3,
    "prompt_tokens": 48,
}


@dataclass(frozen=True)
class Lengths:
    """What examples look like, in tokens, and rows that hold them: `input` and `output` of the average training
    example (special tokens included), `per_row` how many share a row, `rows` how many rows a pass has.
    """

    input: int
    output: int
    row: int
    side: int
    per_row: float
    rows: int


def most_steps(lengths: Lengths) -> int:
    """Of any run: after so many all training data have been read `MOST_PASSES` times."""
    return max(1, MOST_PASSES * lengths.rows // ROWS_PER_STEP)


@dataclass(frozen=True)
class Budget:
    """What is run: the upper rung's shape, seeds, and steps of each kind of run."""

    shape: Shape
    seeds: tuple[int, ...]
    rates_steps: int
    lower_steps: int
    upper_steps: int


def budget(
    kind: Kind,
    lengths: Lengths,
    vocabulary: int,
    minutes: float,
    workers: int,
    here: Pace,
    shapes: Sequence[Shape],
) -> Budget:
    """The largest shape that sees `TOKENS_PER_PARAMETER` tokens for each weight in the time there is, and how long
    its runs are then.

    Args:
        shapes: those that may be chosen, the smallest first; the smallest is taken where none sees enough.
    """
    seeds = (1, 2, 3)
    # Runs of one thread each: how many have to go one after the other.
    turns: dict[str, float] = {"rates": -(-len(CANDIDATES) * len(GRID) // workers)}
    turns["lower"] = -(-len(CANDIDATES) * len(seeds) // workers) + 0.3 * -(-len(CANDIDATES) // workers)
    turns["upper"] = turns["lower"]
    each = {part: max(minutes * 60 * SHARES[part] / turns[part] - START_SECONDS * 0.7, 4.0) for part in turns}
    rate = here.matmul * TRAINING["bf16" if here.bf16 else "fp32"]

    def steps(shape: Shape, part: str) -> int:
        work = flops(
            described(shape, vocabulary), lengths.input, lengths.output, _supervised(CANDIDATES[0], kind)
        )
        found = each[part] * rate / (work["training"] * lengths.per_row * ROWS_PER_STEP)
        return min(max(FEWEST_STEPS, round(found)), most_steps(lengths))

    chosen = shapes[0]
    for shape in shapes:
        tokens = steps(shape, "upper") * ROWS_PER_STEP * lengths.per_row * (lengths.input + lengths.output)
        weights = (
            flops(described(shape, vocabulary), 1, 1)["forward"] / 4
        )  # two FLOPs a weight and token, two tokens
        if tokens >= TOKENS_PER_PARAMETER * weights:
            chosen = shape
    return Budget(
        chosen, seeds, steps(chosen.lower, "rates"), steps(chosen.lower, "lower"), steps(chosen, "upper")
    )


def described(shape: Shape, vocabulary: int) -> Any:
    """The causal decoder of a shape, as an `Architecture`."""
    preset = architecture(CANDIDATES[0].preset)
    return preset.resized(depths=[shape.depth], vocabulary=vocabulary, **shape.sizes)


def _supervised(candidate: Candidate, kind: Kind) -> Literal["all", "output"]:
    return "all" if candidate.all_tokens and kind == "text" else "output"


def _depths(candidate: Candidate, shape: Shape) -> list[int]:
    """A start for the solver, which brings the cost to that of the reference."""
    if len(architecture(candidate.preset).streams) == 1:
        return [shape.depth]
    return [(shape.depth + 1) // 2, shape.depth // 2]


DECLARED = {
    "visibility": "what is being chosen",
    "sharing": "what is being chosen",
    "depth": "at equal cost to serve, two stacks have other depths than one",
    "d_ff": "closes what is left of a gap in cost, in multiples of 16",
    "parameters": "two stacks of equal cost to serve hold more weights: a token goes through one of them",
    "visible_pairs": "seeing more or fewer tokens is what visibility means",
    "flops": "equal for a request as it is served; training examples may be of other lengths",
    "tokens_padding": "one row of text and two rows of one side each leave different holes",
    "supervision": "a causal decoder learns from every token of a text, as it is used",
    "tokens_supervised": "follows from it",
    "learning_rate": "tuned for each with the same grid and the same number of trials",
}


@dataclass(frozen=True)
class Plan:
    """All that the study files are made of."""

    kind: Kind
    title: str
    budget: Budget
    lengths: Lengths
    data: Mapping[str, Any]
    serve: tuple[int, int]
    arms: tuple[str, ...]
    """Keys of the candidates that are tried."""


def comparison(plan: Plan, rung: Literal["lower", "upper"]) -> dict[str, Any]:
    """The tables of the study file that compares the candidates on a rung of the ladder."""
    b = plan.budget
    shape, steps = (b.shape, b.upper_steps) if rung == "upper" else (b.shape.lower, b.lower_steps)
    tried = [candidate for candidate in CANDIDATES if candidate.key in plan.arms]
    rehearsed = min(REHEARSAL_STEPS, steps)
    told = f"{shape.depth} layers of width {shape.d_model} in the causal decoder"
    return {
        "kind": "compare",
        "name": f"choose-{rung}",
        "title": f"{plan.title}: {told}",
        "question": "Which architecture serves this data best at equal cost to serve?",
        "margin": 0.01,
        "seeds": list(b.seeds),
        "rates": "rates.json",
        "horizon_exponent": HORIZON_EXPONENT,
        "declared_differences": DECLARED,
        "data": dict(plan.data),
        "architecture": {**shape.sizes, "positions": "rope", "norms": NORMS},
        "recipe": {"rows_per_step": ROWS_PER_STEP, "betas": [0.9, 0.99], "weight_decay": 0.1},
        "rungs": {
            "rehearsal": {"steps": rehearsed, "warmup_steps": rehearsed // 4, "curve_points": 1},
            "full": {"steps": steps, "warmup_steps": max(1, min(200, steps // 10)), "curve_points": 6},
        },
        "evaluation": EVALUATION,
        "arms": [_arm(candidate, plan, shape) for candidate in tried],
        "contrasts": [_contrast(one, two) for one, two in combinations(tried, 2)],
    }  # fmt: skip


def _arm(candidate: Candidate, plan: Plan, shape: Shape) -> dict[str, Any]:
    given, written = plan.serve
    equal = {"to": REFERENCE, "on": "inference_flops", "input": given, "output": written, "within": WITHIN}
    return {
        "key": candidate.key,
        "label": candidate.label,
        "note": candidate.note,
        "supervise": _supervised(candidate, plan.kind),
        **({} if candidate.key == REFERENCE else {"match": equal}),
        "architecture": {"preset": candidate.preset, "depths": _depths(candidate, shape)},
    }


def _contrast(one: Candidate, two: Candidate) -> dict[str, Any]:
    return {
        "name": f"{one.key}-or-{two.key}",
        "from": one.key,
        "to": two.key,
        "factor": "architecture",
        "sentence": f"The {two.label} in place of the {one.label}.",
    }


def rates_search(plan: Plan) -> dict[str, Any]:
    """The tables of the search for learning rates, on the lower rung."""
    steps = plan.budget.rates_steps
    return {
        "kind": "rates",
        "name": "choose-rates",
        "title": f"{plan.title}: learning rates",
        "study": "lower.toml",
        "grid": list(GRID),
        "seed": 101,
        "steps": steps,
        "warmup_steps": max(1, steps // 10),
        "tune_windows": 100,
        "writes": "rates.json",
    }


def written(tables: Mapping[str, Any]) -> str:
    """Tables as TOML: what is nested deeper than one level is written inline."""
    plain = {key: value for key, value in tables.items() if not _is_table(value)}
    text = "".join(f"{_word(key)} = {_inline(value)}\n" for key, value in plain.items())
    for key, value in tables.items():
        if isinstance(value, Mapping):
            text += f"\n[{_word(key)}]\n" + "".join(
                f"{_word(k)} = {_inline(v)}\n" for k, v in value.items() if v is not None
            )
        elif _is_table(value):
            for entry in value:
                text += f"\n[[{_word(key)}]]\n" + "".join(
                    f"{_word(k)} = {_inline(v)}\n" for k, v in entry.items()
                )
    return text


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
    )


def _word(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _inline(key)


def _inline(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, Mapping):
        return (
            "{ " + ", ".join(f"{_word(k)} = {_inline(v)}" for k, v in value.items() if v is not None) + " }"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inline(inner) for inner in value) + "]"
    return repr(value)
