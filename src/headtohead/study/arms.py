"""The arms of a study as networks, brought to equal total parameters, with what that cost in other
quantities.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from headtohead.data import sense
from headtohead.data.objectives import MaskedLM, Objective
from headtohead.data.packing import Supervise
from headtohead.errors import UserError, about
from headtohead.model.architecture import Architecture
from headtohead.model.budget import Parameters, parameters
from headtohead.model.matching import On, match, quantity
from headtohead.model.presets import architecture
from headtohead.model.reach import check_supervision, crossing
from headtohead.study.parts import ArmArchitecture, Shared
from headtohead.study.plan import Arm, Study
from headtohead.validation import explained, validated

SIZED = tuple(Shared.model_fields)
"""The sizes and parts of a network that a study may share among its arms."""
BYTE_VOCABULARY = 7 + 256


@dataclass(frozen=True)
class Matched:
    """One arm's network. `mismatch` is found / target - 1 in the quantity `on`, None for an arm that is matched
    to no other; `changes` is what the solver did to the description, in words.
    """

    arm: Arm
    architecture: Architecture
    parameters: Parameters
    matched_to: str | None = None
    mismatch: float | None = None
    changes: tuple[str, ...] = ()
    on: On = "parameters"


def matched_arms(study: Study) -> dict[str, Matched]:
    """Every arm's network, those with `match` solved for, in the order of the study file.

    Raises:
        UserError: a description that is not a network, or one that couldn't learn or be trained here; no sizes
        near enough to the target (`Matching.within`).
    """
    drawn = {arm.key: described(study, arm) for arm in study.arms}
    for arm in study.arms:
        _check(arm, drawn[arm.key])
    found: dict[str, Matched] = {}
    for arm in study.arms:
        if arm.match is None:
            network = drawn[arm.key]
            found[arm.key] = Matched(arm, network, parameters(network))
            continue
        to, on = arm.match.to, arm.match.on
        if study.arm(to).match is not None:
            raise UserError(
                f"arm '{arm.key}' is matched to '{to}', which is itself matched to another: "
                "match both to that one"
            )
        example = (arm.match.input or 0, arm.match.output or 0)
        try:
            with about(f"arm '{arm.key}'"):
                target = quantity(on, *example)(drawn[to])
                match_ = match(drawn[arm.key], target, on, *example, tolerance=arm.match.within)
        except UserError as unmatched:
            # A slip in a size makes both impossible: the arm that is to be matched is where it was made.
            if reason := too_large(study.arm(to), drawn[to], study.optimizer(study.arm(to))):
                raise UserError(reason) from unmatched
            raise
        sizes = parameters(match_.architecture)
        found[arm.key] = Matched(arm, match_.architecture, sizes, to, match_.mismatch, match_.changes, on=on)
    return found


def _check(arm: Arm, network: Architecture) -> None:
    if arm.objective is not None and arm.objective.in_place and not isinstance(arm.objective, MaskedLM):
        raise UserError(
            f"arm '{arm.key}' learns to answer holes in place, and a study scores the holes of 'masked' alone: "
            "give it that objective, or one that writes, such as 'prefix' or 'span-corruption'"
        )
    objective = MaskedLM() if arm.objective is None and arm.supervise == "holes" else arm.objective
    check_learns(f"arm '{arm.key}'", network, objective, arm.supervise)


def check_learns(what: str, network: Architecture, objective: Objective | None, supervise: Supervise) -> None:
    """Whether a network can learn this way, from rows that hold several documents.

    Args:
        what: it is, to the person: the start of an error.

    Raises:
        UserError: with the reason.
    """
    if objective is not None:
        with about(what):
            sense.check([objective], network, supervise)
    if supervise != "holes":
        check_supervision(network, supervise)
    if found := crossing(network):
        stream, read = found
        raise UserError(
            f"{what}: stream '{stream}' reads '{read.keys}' under '{read.visibility}', by which the "
            "documents that share a row see each other: add '& same_document'"
        )


TRAINING_BYTES = {"adamw": 16, "muon": 12, "adafactor": 8}
"""A parameter in training, at least: the weight, its gradient and what the optimizer keeps for most of them, in
fp32; see `train.optimizers.kept`."""


def too_large(arm: Arm | str, network: Architecture, optimizer: str) -> str | None:
    """Why an arm (or what is called so) can't be trained on this machine, whatever its batch; None if it can. A slip
    in a size is told before a machine runs out of memory over it.
    """
    count = parameters(network)["total"]
    needed, there = (
        count * TRAINING_BYTES[optimizer],
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )
    if needed > there:
        what = arm if isinstance(arm, str) else f"arm '{arm.key}'"
        return (
            f"{what} has {count:,} parameters: to train them takes {needed / 2**30:,.0f} GiB, and this "
            f"machine has {there / 2**30:,.0f}"
        )
    return None


def described(study: Study, arm: Arm) -> Architecture:
    """The network an arm describes, before any matching: the study's shared sizes, with the arm's own over
    them.
    """
    shared = {name: getattr(study.architecture, name) for name in type(study.architecture).model_fields}
    return network_of(arm.architecture, arm.key, f"arm '{arm.key}'", vocabulary(study), shared)


def network_of(
    own: ArmArchitecture, name: str, where: str, vocabulary: int, shared: Mapping[str, Any] | None = None
) -> Architecture:
    """The network that a table of a file describes, under a name.

    Args:
        where: what it is to the person, the start of an error.
        shared: sizes and parts that go over those of a preset, and under the table's own.

    Raises:
        UserError: it is no network, or no preset.
    """
    sizes: dict[str, Any] = {key: (shared or {}).get(key) for key in SIZED}
    sizes.update({key: getattr(own, key) for key in sizes if getattr(own, key) is not None})
    sizes = {key: value for key, value in sizes.items() if value is not None}
    sizes["vocabulary"] = vocabulary
    if own.preset is None:
        d_ff = sizes.pop("d_ff", None)
        tables = {**sizes, "name": name, "streams": _with_d_ff(own.streams, d_ff)}
        return validated(Architecture, tables, where)
    with about(where):
        preset = architecture(own.preset)
    depths = {} if own.depths is None else {"depths": own.depths}
    try:
        return preset.resized(name=name, **depths, **sizes)
    except ValidationError as error:
        raise UserError(f"{where}: {explained(Architecture, error)}") from error
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def vocabulary(study: Study) -> int:
    """Token ids, special tokens included."""
    if study.data.tokenizer == "bytes":
        return BYTE_VOCABULARY + len(study.extra_tokens)
    return study.data.vocabulary


def _with_d_ff(streams: Any, d_ff: int | None) -> Any:
    """Layers that don't say how wide their feed-forward is get the shared width; anything odd is left to
    validation.
    """

    def layer(entry: Any) -> Any:
        return {"d_ff": d_ff, **entry} if isinstance(entry, dict) and d_ff is not None else entry

    def stream(entry: Any) -> Any:
        if isinstance(entry, dict) and isinstance(entry.get("layers"), list | tuple):
            return {**entry, "layers": [layer(inner) for inner in entry["layers"]]}
        return entry

    return [stream(entry) for entry in streams]
