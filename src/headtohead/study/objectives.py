"""The objectives for people: docs/objectives.md, made from the objectives themselves, and the table in the terminal."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from headtohead.data.objectives import KINDS, Codes, Objective, objective
from headtohead.data.sense import senseless
from headtohead.data.shards import SPECIALS, Example
from headtohead.data.tokenizers import ByteTokenizer
from headtohead.model.architecture import Architecture
from headtohead.model.presets import architecture

NETWORKS = {
    "causal decoder": "decllm-nano",
    "prefix decoder": "prefix-nano",
    "encoder": "bert-nano",
    "encoder-decoder": "redllm-nano",
    "double decoder": "block-double-decoder-nano",
    "GLM": "glm-nano",
}
"""A network of each kind that the table has a column for."""
WINDOW = "Fellow citizens, we meet again. The work is not done."
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "prefix": ({}, {"split": "random"}),
    "masked": ({}, {"rate": 0.3, "replace": "mask"}, {"rate": 0.3, "replace": "mask", "whole_words": True}),
    "glm": ({}, {"spans": "sentences"}, {"spans": "document"}),
    "bart": (
        {},
        {"mask": 0.0},
        {"permute": False, "rotate": True, "mask": 0.0},
        {"permute": False, "delete": 0.3, "mask": 0.0},
        {"permute": False, "mask": 0.3, "masks": "tokens"},
        {"permute": False, "mask": 0.3},
    ),
    "gap-sentences": ({}, {"score": "lcs", "blanks": False}),
}
"""The settings that are shown at work, where the ones of itself are not enough."""
SEEDS = 64
"""How many are tried for the ways of a mixture."""


def sense(networks: Mapping[str, Architecture]) -> tuple[dict[str, list[str]], list[str]]:
    """For each objective a word for each network, "yes" or the number of a reason; and the reasons."""
    reasons: list[str] = []
    rows: dict[str, list[str]] = {}
    for kind in KINDS:
        one = objective(kind)
        found = [senseless(one, a, "holes" if one.in_place else "output") for a in networks.values()]
        reasons += [reason for reason in dict.fromkeys(found) if reason and reason not in reasons]
        rows[kind] = ["yes" if reason is None else str(1 + reasons.index(reason)) for reason in found]
    return rows, reasons


def print_objectives(names: Sequence[str]) -> None:
    """Print which objectives make sense for which networks: those named, or one of each kind.

    Raises:
        UserError: an unknown name.
    """
    networks = {name: architecture(name) for name in names} if names else _networks()
    rows, reasons = sense(networks)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("objective", no_wrap=True)
    for name in networks:
        table.add_column(name, justify="center")
    for kind, words in rows.items():
        table.add_row(kind, *(word if word == "yes" else f"no ({word})" for word in words))
    console = Console(highlight=False)
    console.print(table)
    for number, reason in enumerate(reasons, 1):
        console.print(f"({number}) {reason}")


def _networks() -> dict[str, Architecture]:
    return {kind: architecture(name) for kind, name in NETWORKS.items()}


def page() -> str:
    """docs/objectives.md."""
    rows, reasons = sense(_networks())
    lines = [
        "# Objectives",
        "",
        "How a document is cut into an input and an output. This page is made from the code (`make docs`): the",
        "examples are what each objective makes of one window of text, read byte by byte.",
        "",
        'An arm of a study names its objective: `objective = "ul2"`, or a table with its settings,',
        '`objective = { kind = "span-corruption", rate = 0.5, mean = 8 }`. All arms see the same',
        "windows in the same order; what is scored is the same text for all, shown to each as its objective does.",
        "",
        "## Which make sense for which network",
        "",
        f"| objective | {' | '.join(NETWORKS)} |",
        f"|---{'|:-:' * len(NETWORKS)}|",
        *(f"| [`{kind}`](#{kind}) | {' | '.join(words)} |" for kind, words in rows.items()),
        "",
        "Asking for one of the others is an error, with the reason:",
        "",
        *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1)),
        "",
        "## One real batch",
        "",
        "`headtohead explain-batch STUDY --arm KEY` shows the first batch that an arm trains on. Span corruption with",
        "two stacks (the spans are the output, after their sentinels), and GLM's blanks, where an output belongs to",
        "the place of its blank:",
        "",
        "![explain-batch: span corruption](explain-batch-span-corruption.png)",
        "",
        "![explain-batch: GLM](explain-batch-glm.png)",
        "",
    ]
    for kind, made in KINDS.items():
        lines += ["", f"## {kind}", "", *_text(made), "", *_examples(kind), ""]
    return "\n".join(lines).rstrip() + "\n"


def _text(kind: type[Objective]) -> list[str]:
    """The docstring, and what is promised."""
    told = inspect.getdoc(kind) or ""
    settings = [name for name in kind.model_fields if name != "kind"]
    said = ", ".join(f"`{name}` = {_value(kind.model_fields[name].default)}" for name in settings)
    promise = kind().conserves
    end = [f"Settings: {said}.", ""] if settings else []
    return [told, "", *end, f"Conserved: {promise}."]


def _value(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def _examples(kind: str) -> list[str]:
    """Each variant at work; of a mixture, the first seed's that comes out each way."""
    found: list[str] = []
    for settings in VARIANTS.get(kind, ({},)):
        one = objective({"kind": kind, **settings})
        ways: dict[str, list[str]] = {}
        for seed in range(SEEDS) if "seed" in type(one).model_fields else (None,):
            drawn = one if seed is None else one.model_copy(update={"seed": seed})
            mode, lines = _example(drawn)
            ways.setdefault(mode, [_named(settings, seed), "", *lines, ""])
        found += [line for lines in ways.values() for line in lines]
    return found[:-1]


def _named(settings: Mapping[str, Any], seed: int | None) -> str:
    """What is not as it is when nothing is said."""
    told = [f"`{name}` = {_value(value)}" for name, value in settings.items()]
    told += [f"`seed` = {seed}"] if seed else []
    return f"With {', '.join(told)}:" if told else "As it is:"


def _example(one: Objective) -> tuple[str, list[str]]:
    """The mode token that the input begins with, and the example."""
    tokenizer = ByteTokenizer(one.specials(len(WINDOW)))
    e = one.make(WINDOW, tokenizer.encode_many(one.texts(WINDOW)), Codes(tokenizer)).example(0, one.region)
    first = tokenizer.vocabulary - len(tokenizer.extra)
    mode = tokenizer.extra[e.mode - first] if e.mode >= first else SPECIALS[e.mode]
    rows = [("window", WINDOW), ("mode", mode), ("input", _shown(tokenizer, e.input.tolist()))]
    if len(e.shown):
        rows.append(("output part", _shown(tokenizer, e.shown.tolist())))
    rows.append(("answers" if one.in_place else "output", _answers(tokenizer, e)))
    return mode, ["```", *(f"{name:12}{text}" for name, text in rows), "```"]


def _shown(tokenizer: ByteTokenizer, ids: Sequence[int]) -> str:
    first = tokenizer.vocabulary - len(tokenizer.extra)
    text = [tokenizer.extra[i - first] if i >= first else tokenizer.decode([i]) for i in ids]
    return "".join(text).replace("\ufffd", "\u25a1") or "(nothing)"


def _answers(tokenizer: ByteTokenizer, e: Example) -> str:
    if not e.in_place or e.where is None:
        return _shown(tokenizer, e.output.tolist())
    pairs = zip(e.where.tolist(), e.output.tolist(), strict=True)
    return ", ".join(f"{place}: {tokenizer.decode([token])!r}" for place, token in pairs)
