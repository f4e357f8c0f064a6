"""Tables of bits from the lines of results.jsonl: by arm, seed and document, for each region that is judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from headtohead.errors import UserError
from headtohead.measure.statistics import Scores

Result = Mapping[str, Any]
Runs = Mapping[tuple[str, int], Result]
"""Full runs, by arm and seed."""

RISE = "rise"
"""Judged as a region: what the longest of the lengths that runs are scored at costs more than the training length."""


def given_up(result: Result) -> bool:
    """Whether a run ended for what went on around it, and not at a step of its own: it is to be done again."""
    return result.get("status") == "stopped" and "step" not in result


def judged_regions(study: Mapping[str, Any]) -> list[str]:
    """The study's regions, and the rise where lengths are scored."""
    regions = list(study["data"]["regions"])
    return [*regions, RISE] if lengths_of(study) else regions


def lengths_of(study: Mapping[str, Any]) -> list[float]:
    """The multiples of the training length at which runs are scored, ascending; often none."""
    return sorted(study.get("evaluation", {}).get("lengths") or ())


def arms_scored(study: Mapping[str, Any], region: str) -> list[str]:
    """Keys of the arms that are scored in a region."""
    region = "continuation" if region == RISE else region
    return [arm["key"] for arm in study["arms"] if arm.get("regions") is None or region in arm["regions"]]


def scores_of(finished: Runs, study: Mapping[str, Any], region: str) -> Scores | None:
    """The table of one region, None while there is no run. Documents of one group are added up.

    Raises:
        UserError: runs that were scored on different text.
    """
    arms, seeds, lengths = [arm["key"] for arm in study["arms"]], study["seeds"], lengths_of(study)
    found = {
        key: about for key, r in finished.items() if (about := _documents(r, region, lengths)) is not None
    }
    if not found:
        return None
    first_key, about = next(iter(found.items()))
    names, sizes = about["names"], np.array(about["bytes"][region], dtype=np.float64)
    groups = about.get("groups", names)
    clusters = list(dict.fromkeys(groups))
    member = np.array([[g == cluster for g in groups] for cluster in clusters], dtype=np.float64)
    bits = np.full((len(arms), len(seeds), len(clusters)), math.nan)
    for (arm, seed), there in found.items():
        if there["names"] != names or there["bytes"][region] != about["bytes"][region]:
            raise UserError(
                f"the runs of {arm} (seed {seed}) and {first_key[0]} (seed {first_key[1]}) were scored on "
                f"different {region} text: they cannot be compared"
            )
        if arm in arms and seed in seeds:
            bits[arms.index(arm), list(seeds).index(seed)] = member @ np.array(there["bits"][region])
    whole = member @ sizes
    kept = whole > 0
    return Scores(
        tuple(arms),
        tuple(seeds),
        tuple(c for c, keep in zip(clusters, kept, strict=True) if keep),
        bits[:, :, kept],
        whole[kept],
    )


def _documents(result: Result, region: str, lengths: Sequence[float]) -> Mapping[str, Any] | None:
    """What a run needed for each document of a region; None where it isn't scored there. Of the rise, stretches of text
    are the documents, grouped as the documents are that they were cut from; a run that can't read the longest has none.
    """
    if region != RISE:
        return result["documents"] if region in result["documents"]["bytes"] else None
    found = result.get("length_blocks")
    ends = [f"{length:g}" for length in (lengths[0], lengths[-1])]
    if found is None or any(end not in found["bits"] for end in ends):
        return None
    one, longest = (found["bits"][end] for end in ends)
    names = [f"stretch {number}" for number in range(1, len(one) + 1)]
    rise = [after - before for before, after in zip(one, longest, strict=True)]
    return {
        "names": names,
        "groups": found.get("groups", names),
        "bytes": {RISE: found["bytes"]},
        "bits": {RISE: rise},
    }


def kinds(finished: Runs) -> dict[str, str]:
    """Arms by the number of their streams: known before the run, and what a threshold in training hangs
    on.
    """
    return {arm: f"{len(r['description']['streams'])} stacks" for (arm, _), r in finished.items()}


def value_of_input(finished: Runs, arm: str, region: str) -> float:
    """What the input is worth to an arm in a region: the mean over its seeds in bits per byte, NaN where unknown."""
    values = [
        r["value_of_input"][region]
        for (a, _), r in finished.items()
        if a == arm and region in r["value_of_input"]
    ]
    return float(np.mean(values)) if values else math.nan
