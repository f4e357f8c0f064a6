"""How a claim about the cost of a dialogue is decided: what is kept from turn to turn, and how turns' times grow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headtohead.measure.claims import ClaimOutcome, together

RULES: dict[str, str] = {
    "grows-apart": (
        "What is kept is counted from the visibility rules, and compared with what the decoding engine kept. Times are "
        "of whole turns, all networks in each round; the gap is another network's turn less the turn of the first "
        "that looks back only, and its growth the gap of the last turn less that of the second, as a share of the "
        "latter network's second turn. Supported: the networks said to look back only read no token of the input "
        "twice, the others keep none of it in any turn, and of each of these the whole 95 % interval of the growth "
        "(Student's t over rounds) lies above the margin. Contradicted: one that looks back only reads a token twice, "
        "another reads none twice, or one's whole interval lies below the margin. Undecided: anything else."
    ),
}
"""Decision rules by name, as they are printed."""


@dataclass(frozen=True)
class Held:
    """One network's dialogue: of each turn, tokens of the streams that hold the input that were kept and that were
    read; and milliseconds by round and turn (R, T).
    """

    kept: Sequence[int]
    read: Sequence[int]
    milliseconds: Sequence[Sequence[float]]

    @property
    def reads_nothing_twice(self) -> bool:
        """Whether each turn keeps all that the turn before had kept or read."""
        before = [kept + read for kept, read in zip(self.kept, self.read, strict=True)]
        return all(kept >= there for kept, there in zip(self.kept[1:], before[:-1], strict=True))

    @property
    def keeps_nothing(self) -> bool:
        return not any(self.kept)


@dataclass(frozen=True)
class Growth:
    """Of the gap between a network's turns and another's, from the second turn to the last: mean over rounds with
    its 95 % interval, as a share of the other's second turn.
    """

    value: float
    low: float
    high: float


def growth(network: Held, beside: Held) -> Growth:
    """The growth of the gap between two dialogues that were held in the same rounds (two at least)."""
    from scipy import stats  # half a second, which a plan needn't wait for

    ours, theirs = np.array(network.milliseconds), np.array(beside.milliseconds)
    gaps = ours - theirs
    shares = (gaps[:, -1] - gaps[:, 1]) / theirs[:, 1]
    mean, count = float(shares.mean()), len(shares)
    off = float(stats.t.ppf(0.975, count - 1)) * float(shares.std(ddof=1)) / math.sqrt(count)
    return Growth(mean, mean - off, mean + off)


def grows_apart(
    held: Mapping[str, Held], back_only: Sequence[str], others: Sequence[str], margin: float
) -> tuple[ClaimOutcome, str]:
    """RULES["grows-apart"], and why."""
    outcomes: list[ClaimOutcome] = []
    reasons: list[str] = []
    for name in back_only:
        fits = held[name].reads_nothing_twice
        outcomes.append("supported" if fits else "contradicted")
        reasons.append(f"{name}: reads {'nothing' if fits else 'some of the input'} twice")
    for name in others:
        found = growth(held[name], held[back_only[0]])
        if held[name].reads_nothing_twice:
            outcomes.append("contradicted")
            reasons.append(f"{name}: reads nothing twice")
            continue
        if not held[name].keeps_nothing:
            outcomes.append("undecided")
            reasons.append(f"{name}: keeps some of the input")
            continue
        grows, stays = found.low > margin, found.high < margin
        outcomes.append("supported" if grows else "contradicted" if stays else "undecided")
        said = "grows" if grows else "does not grow" if stays else "may grow or not"
        reasons.append(f"{name}: keeps nothing, and the gap {said}")
    return together(outcomes), ", ".join(reasons)
