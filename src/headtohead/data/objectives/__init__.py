"""Objectives: how a document is cut into Examples, each an input and an output.

A document is cut into windows on bytes (the same windows for every arm); an objective makes a window the input
and the output. Nothing here knows an architecture; which network can learn what is in `sense.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from headtohead.data.objectives.base import Codes, Draws, Made, Objective
from headtohead.data.objectives.blanks import BlankInfilling
from headtohead.data.objectives.gaps import GapSentences
from headtohead.data.objectives.holes import MaskedLM, UniLM
from headtohead.data.objectives.making import aligned, examples, pair_examples, tokenizer_texts, wrong_inputs
from headtohead.data.objectives.noise import Denoising
from headtohead.data.objectives.spans import UL2, SpanCorruption, T5Gemma2Mixture
from headtohead.data.objectives.text import Answer, CausalLM, PrefixLM, Restoration
from headtohead.data.objectives.windows import windows
from headtohead.errors import UserError
from headtohead.validation import suggest, validated

__all__ = [
    "KINDS",
    "UL2",
    "Answer",
    "BlankInfilling",
    "CausalLM",
    "Codes",
    "Denoising",
    "Draws",
    "GapSentences",
    "Made",
    "MaskedLM",
    "Objective",
    "ObjectiveField",
    "PrefixLM",
    "Restoration",
    "SpanCorruption",
    "T5Gemma2Mixture",
    "UniLM",
    "aligned",
    "examples",
    "objective",
    "of_region",
    "pair_examples",
    "tokenizer_texts",
    "windows",
    "wrong_inputs",
]

KINDS: dict[str, type[Objective]] = {
    kind.model_fields["kind"].default: kind
    for kind in (
        CausalLM,
        PrefixLM,
        Restoration,
        SpanCorruption,
        UL2,
        T5Gemma2Mixture,
        MaskedLM,
        UniLM,
        BlankInfilling,
        Denoising,
        GapSentences,
    )
}
"""Every objective that cuts windows, by its word in a file; the user's own pairs need none."""


def objective(value: str | Mapping[str, Any] | Objective, where: str = "objective") -> Objective:
    """An objective from its word, or from a table of its settings: `kind` and the rest.

    Raises:
        UserError: no such kind, or a setting that it doesn't have; begins with `where`.
    """
    if isinstance(value, Objective):
        return value
    table = {"kind": value} if isinstance(value, str) else dict(value)
    kind = table.get("kind")
    if kind not in KINDS:
        raise UserError(f"{where}: no objective is called {kind!r}: {suggest(str(kind), list(KINDS))}")
    return validated(KINDS[kind], table, where)


def of_region(region: str) -> Objective:
    """The objective that cuts texts, or the user's pairs, into the examples of a scored region."""
    kinds = (PrefixLM, Restoration, CausalLM, Answer, MaskedLM)
    return next(kind() for kind in kinds if kind().region == region)


def _objective(value: Any) -> Any:
    if not isinstance(value, str | Mapping | Objective):
        raise ValueError("write the name of an objective, or a table with its kind and settings")
    try:
        return objective(value)
    except UserError as error:
        raise ValueError(str(error).removeprefix("objective: ")) from error


ObjectiveField = Annotated[SerializeAsAny[Objective], BeforeValidator(_objective)]
"""An objective as a field of a description."""
