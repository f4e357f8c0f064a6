"""A run's work: train by its description, score held-out text, show how it writes. Imports torch.

Wires the rooms above: rows of examples from `data`, the loop from `train`, decoding from `generate`, scoring
from `measure`.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from headtohead.data.layouts import Layout, Ledger
from headtohead.data.objectives import wrong_inputs
from headtohead.data.shards import Example
from headtohead.errors import UserError, about
from headtohead.files import read_bytes
from headtohead.generate.decoding import greedy
from headtohead.measure.scoring import (
    Nats,
    all_token_nats,
    bits_per_byte,
    by_document,
    score_examples,
    value_of_input,
)
from headtohead.model.architecture import Architecture
from headtohead.model.batch import Batch
from headtohead.model.budget import flops
from headtohead.model.transformer import Transformer
from headtohead.study.beyond import beyond
from headtohead.study.prepare import held_out
from headtohead.study.rundata import RunData
from headtohead.train.checkpoint import named_tensors
from headtohead.train.inherit import put
from headtohead.train.loop import OnLine, Trained, train
from headtohead.train.metrics import read_metrics
from headtohead.train.nonfinite import NonFinite
from headtohead.train.parallel import ALONE, Team, built, shares, whole
from headtohead.train.recipe import Recipe
from headtohead.train.runtime import configure

Report = Callable[[str, int, float, float | None], None]
"""Stage, step, seconds left, nats per supervised token: for the display."""


@dataclass(frozen=True)
class Shown(Batch):
    """A batch that remembers the rows it was made of, for the ledger: those of the other processes of the run too,
    which count them nowhere else.
    """

    layout: Layout
    rows: tuple[tuple[Example, ...], ...]


class RunLedger:
    """`data.layouts.Ledger` as the loop wants it: counts `Shown` batches, goes through checkpoints as one
    dict.
    """

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.ledger = ledger or Ledger()

    def add(self, batch: Shown, flops: float) -> None:
        self.ledger.add(batch.layout, batch.rows, flops=flops)

    def as_dict(self) -> dict[str, Any]:
        return self.ledger.state()

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> RunLedger:
        return cls(Ledger.from_state(dict(state)))


def trained(
    folder: Path,
    description: dict[str, Any],
    report: Report,
    on_line: OnLine | None = None,
    team: Team = ALONE,
) -> tuple[dict[str, Any], bytes | None, dict[str, float]]:
    """The result of the run that `description` (run.json) describes, its weights (None if it had to stop),
    seconds. `on_line` gets each line of the metrics and each point of the curve (`train.loop.train`). All
    processes of a team call it; the first of them has the weights.

    Raises:
        UserError: data or first weights that are not what the description names, a checkpoint of another run, a
            full disk.
    """
    recipe = Recipe.model_validate(description["recipe"])
    runtime = configure(recipe, lambda line: None)  # what the machine lacks is told once, by the loop
    data = team.together(lambda: RunData(folder, description))
    network = Architecture.model_validate(description["architecture"])
    layout = Layout(network, description["supervise"], data.row, data.side)
    evaluation = description["evaluation"]
    longer = Layout(network, description["supervise"], evaluation["row"], evaluation["side"])
    model = built(network, recipe.seed, recipe, team, torch.device(runtime.device))
    if "initial" in description:
        team.together(lambda: _put_initial(model, folder, description["initial"]))
    identity = {
        "version": description["version"],
        "commit": description.get("commit"),
        "torch": runtime.torch,
        "threads": runtime.threads,
        "dtype": runtime.precision,
        "compiled": runtime.compiled,
        "corpus_sha256": description["data"]["corpus_sha256"],
        "tokenizer_sha256": description["data"]["tokenizer_sha256"],
    }
    result: dict[str, Any] = {
        "arm": description["arm"],
        "seed": description["seed"],
        "rung": description["rung"],
        "status": "finished",
        "parameters": description["parameters"]["total"],
        "learning_rate": recipe.learning_rate,
    }
    about = {
        **{key: description[key] for key in ("objective", "initial") if key in description},
        "description": description["architecture"],
        "recipe": description["recipe"],
        "identity": identity,
    }
    try:
        done = _train(folder, description, model, layout, longer, data, recipe, report, on_line, team)
    except NonFinite as stop:
        return (
            {
                **result,
                "spikes": _spikes(folder),
                "status": "stopped",
                "reason": str(stop),
                "step": stop.step,
                "layer": stop.layer,
                "documents": list(stop.documents),
                **about,
            },
            None,
            {},
        )
    identity["compiled"] = done.runtime.compiled  # where the compiler failed it is not what was asked for
    began = time.monotonic()
    report("scoring", recipe.steps or 0, 0.0, None)
    model.eval()
    result.update(_scored(model, longer, data, description))
    result["ledger"] = {**_counts(done.ledger.ledger), "steps": recipe.steps}
    result["curve"] = done.curve
    result["spikes"] = _spikes(folder)
    if done.averaged:
        result["averaged"] = done.averaged
    if done.ranks:
        result["processes"] = {"parallel": recipe.parallel, "from_step": done.ranks}
    result["samples"] = _samples(model, longer, data, evaluation)
    result.update(beyond(model, longer, data, folder, description))
    tensors = {name: whole(tensor.detach()).cpu() for name, tensor in named_tensors(model).items()}
    weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    result["weights_sha256"] = hashlib.sha256(weights).hexdigest()
    return {**result, **about}, weights, {**done.seconds, "score": time.monotonic() - began}


def _train(
    folder: Path,
    description: Mapping[str, Any],
    model: Transformer,
    layout: Layout,
    longer: Layout,
    data: RunData,
    recipe: Recipe,
    report: Report,
    on_line: OnLine | None,
    team: Team,
) -> Trained:
    rows = data.rows(recipe)
    evaluation = description["evaluation"]
    chosen = held_out(data.tune, evaluation["curve_windows"], data.regions)
    watched = data.presented([data.tune[int(i)] for i in chosen])
    per_batch = evaluation["rows_per_batch"]

    def batch_at(step: int) -> list[Shown]:
        parts = shares(rows.at(step), recipe.micro_batches, team)
        return [Shown(**vars(layout.batch(own)), layout=layout, rows=counted) for own, counted in parts]

    def evaluate(_: Any, step: int) -> dict[str, Any]:
        report("evaluating", step, 0.0, None)
        nats = score_examples(model, longer, watched, per_batch)
        return {"bits_per_byte": {region: bits_per_byte(watched, nats, region) for region in data.regions}}

    def documents_of(batch: Shown) -> list[str]:
        return [data.name_of(example.document) for row in batch.rows for example in row]

    decisive = ("version", "data", "supervise", *(["initial"] if "initial" in description else []))
    return train(
        model,
        batch_at,
        recipe,
        folder,
        ledger=RunLedger(),
        flops_of=_flops_counter(layout),
        identity={key: description[key] for key in decisive},
        evaluate=evaluate,
        evaluate_at=evaluation["curve_steps"],
        on_progress=lambda step, steps, left, nats: report("training", step, left, nats),
        on_line=on_line,
        documents_of=documents_of,
        fresh="initial" not in description,
        team=team,
    )


INITIAL = "initial.safetensors"
"""First weights of a run that has not those of the init function, in its folder."""


def _put_initial(model: Transformer, folder: Path, initial: Mapping[str, Any]) -> None:
    """Give a network the first weights that its run was written down with, checked by their SHA-256."""
    path, again = folder / INITIAL, "start the run again in another folder"
    content = read_bytes(path, "the first weights")
    if hashlib.sha256(content).hexdigest() != initial["sha256"]:
        raise UserError(f"{path} has been altered since it was written: {again}")
    with about(path):
        put(model, safetensors.torch.load(content))


def _spikes(folder: Path) -> list[int]:
    """The steps at which the loss stood out from those before (`train.watch.is_spike`)."""
    return [
        spike["step"] for line in read_metrics(folder / "metrics.jsonl") for spike in line.get("spikes", ())
    ]


def _flops_counter(layout: Layout) -> Callable[[Any], float]:
    """Training FLOPs of a batch: the exact sum over its examples; padding costs nothing (see
    `model.budget`).
    """

    @cache
    def of_one(input: int, output: int, supervised: int) -> int:
        return flops(layout.architecture, 1 + input, 1 + output, supervised)["training"]

    def of_batch(batch: Shown) -> float:
        return float(sum(of_one(*e.held, layout.supervised(e)) for row in batch.rows for e in row))

    return of_batch


def _counts(ledger: Ledger) -> dict[str, Any]:
    """The ledger for a result: without seconds, which differ from run to run of the same thing."""
    return {key: value for key, value in ledger.as_dict().items() if key != "seconds"}


def _scored(
    model: Transformer, layout: Layout, data: RunData, description: Mapping[str, Any]
) -> dict[str, Any]:
    """Bits per byte on the held-out text, by region and by document, and the value of the input."""
    evaluation = description["evaluation"]
    per_batch = evaluation["rows_per_batch"]
    found = [data.scored[int(i)] for i in held_out(data.scored, evaluation["windows"], data.regions)]
    shown = data.presented(found)
    nats = score_examples(model, layout, shown, per_batch)
    apart = {region: by_document(shown, nats, region) for region in data.regions}
    names = {region: [data.scored.documents[d] for d in found.documents] for region, found in apart.items()}
    first = next(iter(names.values()))
    if any(other != first for other in names.values()):
        raise UserError(
            "the held-out windows of the regions are not of the same documents: give longer documents"
        )
    return {
        "split": evaluation["split"],
        "bits_per_byte": {region: bits_per_byte(shown, nats, region) for region in data.regions},
        **_value_of_input(model, layout, found, shown, nats, data, evaluation),
        "all_tokens_bits_per_byte": _all_tokens(model, layout, shown, per_batch),
        "documents": {
            "names": first,
            "groups": [data.groups[d] for d in apart[data.regions[0]].documents],
            "bytes": {region: list(found.bytes) for region, found in apart.items()},
            "bits": {region: list(found.bits) for region, found in apart.items()},
        },
    }


def _value_of_input(
    model: Transformer,
    layout: Layout,
    found: Sequence[Example],
    shown: Sequence[Example],
    nats: Nats,
    data: RunData,
    evaluation: Mapping[str, Any],
) -> dict[str, Any]:
    if not evaluation.get("swaps", True):
        return {}
    wrong, per_batch = data.presented(wrong_inputs(found)), evaluation["rows_per_batch"]
    value = value_of_input(model, layout, shown, wrong, nats, data.regions, per_batch)
    return {"value_of_input": value}


def _all_tokens(
    model: Transformer, layout: Layout, shown: Sequence[Example], rows_per_batch: int
) -> float | None:
    """Bits per byte over input and output together, where the arm learnt to predict both: its own figure,
    apart.

    Of the region whose input and output are the window itself, a continuation.
    """
    whole = [e for e in shown if e.region == "continuation"]
    if layout.supervise != "all" or not whole:
        return None
    nats = float(all_token_nats(model, layout, whole, rows_per_batch).sum())
    return nats / math.log(2) / sum(e.input_bytes + e.output_bytes for e in whole)


def _samples(
    model: Transformer, layout: Layout, data: RunData, evaluation: Mapping[str, Any]
) -> list[dict[str, str]]:
    """How the run goes on, greedily, from the same prompts as every other: of each region, from different
    documents.
    """
    found: list[dict[str, str]] = []
    for region in data.regions:
        own = data.scored.region_of(region)
        places = [
            int(own[len(own) * (2 * k + 1) // (2 * evaluation["prompts"])])
            for k in range(evaluation["prompts"])
        ]
        given = [data.scored[i] for i in places]
        prompts = data.presented(given)
        if not prompts:
            continue
        written = greedy(model, layout, prompts, evaluation["prompt_tokens"])
        for example, tokens in zip(given, written, strict=True):
            decode = data.tokenizer.decode
            found.append(
                {
                    "region": region,
                    "input": decode(example.input.tolist()),
                    "reference": decode(example.output.tolist()),
                    "output": decode(tokens),
                }
            )
    return found
