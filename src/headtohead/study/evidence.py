"""What the results of a study say of a claim: one form for all kinds of studies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Evidence:
    """A difference that a claim rests on, as it is printed: of which arms, where, and how it ended.

    value, low, high: bits per byte, or what `where` says; None where there is no figure.
    """

    arms: str
    where: str
    value: float | None
    low: float | None
    high: float | None
    detectable: str
    value_of_input: float | None
    outcome: str
    sentence: str


@dataclass(frozen=True)
class Trial:
    """A claim in the results of one study: how it ended, what it rests on, and at what scale.

    rule: the text of its decision rule. findings: (where, outcome, why). repeated: under how many seeds, in words.
    scale: parameters and tokens, in words. command: what repeats it.
    """

    folder: Path
    study: str
    stated: Mapping[str, Any]
    rule: str
    outcome: str
    findings: tuple[tuple[str, str, str], ...]
    evidence: tuple[Evidence, ...]
    repeated: str
    scale: str
    margin: str
    command: str
    version: str

    @property
    def key(self) -> str:
        return self.stated["key"]
