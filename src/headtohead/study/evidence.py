"""What the results of a study say of a claim: one form for all kinds of studies."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STUDIES = Path("studies/claims")
"""Where the study files of the claims are."""


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


def command(plan: Mapping[str, Any], studies: Path = STUDIES, claim: str | None = None) -> str:
    """What repeats the study of a plan, with what was set otherwise: its file, in `studies` or beside that folder; of
    a file in `studies`, the command of its claim where one is named.
    """
    name = plan["study_file"]["name"]
    there = (studies / name).is_file()
    words = ["headtohead", "study", str((studies if there else studies.parent) / name)]
    if there and claim is not None:
        words = ["headtohead", "claims", "run", claim]
    for assignment in plan.get("overrides", ()):
        words += ["--set", assignment]
    return shlex.join(words)
