"""The training loop: one, for every architecture.

What it needs from lower rooms it is handed: evaluators, batches, the ledger. What a step computes is in
``objective`` and ``backward``; everything around it serves two promises. A run that was stopped at any
moment, by ``kill -9`` too, and started again is bit for bit the run that never stopped. And a run that can't
go on says where and why.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headtohead.errors import UserError
from headtohead.model.batch import Batch
from headtohead.model.transformer import Transformer
from headtohead.train import checkpoint
from headtohead.train.averaging import Average
from headtohead.train.compiling import compiled_or_eager
from headtohead.train.devices import ahead
from headtohead.train.metrics import MetricsFile
from headtohead.train.nonfinite import NonFinite, first_nonfinite_layer, nonfinite_gradient
from headtohead.train.optimizers import make_optimizer, set_learning_rate
from headtohead.train.parallel import ALONE, Team, clip_
from headtohead.train.progress import Clock, Progress
from headtohead.train.recipe import Recipe
from headtohead.train.runtime import Notice, Runtime, configure, to_stderr
from headtohead.train.schedules import learning_rate
from headtohead.train.staging import sweep
from headtohead.train.stopping import Stopped, stop_signals
from headtohead.train.watch import WINDOW, check_start, is_spike

Evaluate = Callable[[Transformer, int], Mapping[str, Any]]
OnProgress = Callable[[int, int, float, float], None]
OnLine = Callable[[str, Mapping[str, Any]], None]

BEST = "best"
"""Folder of the run's best checkpoint, where ``recipe.keep_best`` keeps it; it outlives the others."""

# These settle when a run is written down, not what it computes: they may change from one start to the next.
# Nor is the number of processes: it changes in which order a sum is made, not what is summed.
_NOT_IDENTITY = ("checkpoint_every", "keep_last", "keep_best", "device", "parallel")


@dataclass(frozen=True)
class Trained:
    """A finished run; its weights are in the model and in the last checkpoint.

    With ``recipe.average_last`` the model has the mean of the last weights, which the checkpoint holds beside the
    weights of the last step; ``averaged`` says of which steps, and what the evaluation says of it.
    """

    ledger: Any
    curve: list[dict[str, Any]]
    seconds: dict[str, float]
    runtime: Runtime
    checkpoint: Path
    averaged: dict[str, Any] | None = None
    ranks: list[list[int]] = field(default_factory=list)
    """See ``Progress``."""


def objective(total: Tensor, weight: float) -> Tensor:
    """THE loss reduction: a sum over supervised tokens, divided once by the number of them in the whole step.

    Summed over the micro-batches of a step it gives the loss of the big batch; a mean of means would weigh a
    token by how many others share its micro-batch.

    Args:
        total: over one micro-batch, Σ cross-entropy + z_loss · log² Z: both have the same denominator.
        weight: supervised tokens of the step, over all its micro-batches.
    """
    return total / weight


def backward(
    model: Transformer, batches: Sequence[Batch], z_loss: float, runtime: Runtime, team: Team = ALONE
) -> tuple[float, float]:
    """Gradients of one step into ``.grad``; returns its nats (a sum) and its supervised tokens.

    Of a team, ``batches`` are this rank's share, and nats, tokens and gradients are sums over all ranks.
    """
    (weight,) = team.total(sum(float(batch.weights.sum()) for batch in batches))
    if not weight:
        raise ValueError("the batches of this step hold no supervised token")
    nats = torch.zeros((), dtype=torch.float64, device=batches[0].weights.device)
    for number, batch in enumerate(batches, 1):
        with runtime.autocast():
            sums = team.loss(model, batch, z_loss, last=number == len(batches))
        objective(sums.total, weight).backward()
        nats += sums.nats.detach()
    return team.total(float(nats))[0], weight


def train(
    model: Transformer,
    batch_at: Callable[[int], Sequence[Batch]],
    recipe: Recipe,
    folder: Path,
    *,
    ledger: Any,
    flops_of: Callable[[Batch], float],
    identity: Mapping[str, Any] | None = None,
    evaluate: Evaluate | None = None,
    evaluate_at: Collection[int] = (),
    on_progress: OnProgress | None = None,
    on_line: OnLine | None = None,
    documents_of: Callable[[Any], Sequence[str]] = lambda batch: (),
    fresh: bool = False,
    notice: Notice = to_stderr,
    team: Team = ALONE,
) -> Trained:
    """Train ``model`` by ``recipe`` in ``folder``, going on from the newest usable checkpoint there.

    Args:
        model: with its first weights, from wherever they are.
        batch_at: the micro-batches of a step, counted from 0; a function of the step alone, which is what
            makes the place in the data need no saving.
        recipe: with its ``steps`` settled.
        folder: gets ``checkpoints/``, ``metrics.jsonl`` and, with ``recipe.keep_best``, ``best/``; the caller
            holds its lock.
        ledger: counts what is consumed, ``add(batch, flops)``; goes through checkpoints by ``as_dict`` and
            ``from_dict``.
        flops_of: training FLOPs of a batch.
        identity: what else makes this run this run (checksums of corpus and tokenizer, version); JSON.
        evaluate: called after the steps in ``evaluate_at`` (0: before the first) with the model and the step;
            its results become a point of the learning curve. Random numbers it draws don't touch training.
        on_progress: called after each step with step, steps, seconds left, nats per supervised token.
        on_line: called with "metrics" and each line of the metrics, with "point" and each point of the curve.
        documents_of: names of the documents in a batch, to be told where a step isn't finite.
        fresh: the weights are those of the init function, so the loss has to start at ln V (`watch`).
        notice: gets the one-line notices.
        team: the processes that share the run, each of which calls this with its share of every step's rows
            (``parallel.shares``) in ``batch_at`` and a ledger that counts the whole of it.

    Raises:
        NonFinite: a loss or gradient that isn't finite.
        Stopped: on SIGTERM or Ctrl-C, after a checkpoint.
        UserError: a checkpoint of another run stands in ``folder``, or a file can't be written; a fresh network
            that doesn't start at ln V.
    """
    if recipe.steps is None:
        raise ValueError("the number of steps is not settled: use recipe.with_steps(n)")
    if recipe.keep_best and (evaluate is None or not any(0 < at <= recipe.steps for at in evaluate_at)):
        raise UserError("recipe.keep_best = true, but nothing is evaluated on the way: leave it out")
    notice = team.notice(notice)
    runtime = configure(recipe, notice)
    runtime, compiling = _ready(model, batch_at, recipe, runtime, team, notice)
    identity = identity_of(model, recipe, runtime, identity or {})
    saved = folder / "checkpoints"
    for where in (saved, folder / BEST) if team.leads else ():
        sweep(where)
    optimizer = make_optimizer(model, recipe)
    torch.manual_seed(recipe.seed)
    progress = Progress()
    last = checkpoint.latest(saved, identity, notice, team)
    if last is not None:
        last.restore(model, optimizer)
        progress = Progress(**last.state["progress"])
        ledger = type(ledger).from_dict(last.state["ledger"])
    elif fresh:
        first = [batch.to(model.device) for batch in batch_at(0)]
        team.together(lambda: check_start(model, first, runtime))
    average = Average(recipe, last.average_for(model) if last else None)
    progress.seconds["compile"] += compiling
    progress.by_ranks(team)
    last_path = last.path if last else None
    del last
    parameters = [p for p in model.parameters() if p.requires_grad]

    def evaluated() -> Mapping[str, Any]:
        if evaluate is None:
            return {}
        own = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(own), torch.no_grad():
            return evaluate(model, progress.step)

    def measure_point() -> bool:
        """Whether the point is the best so far, and its checkpoint is to be kept."""
        if evaluate is None or progress.step not in evaluate_at:
            return False
        began = time.perf_counter()
        results = evaluated()
        counts = ledger.as_dict()
        nats, weight = progress.since_point
        progress.curve.append(
            {
                "step": progress.step,
                "tokens": counts["tokens_shown"],
                "flops": counts["flops"],
                "train_nats": nats / weight if weight else None,
                **results,
            }
        )
        progress.since_point = [0.0, 0.0]
        if on_line and team.leads:
            on_line("point", progress.curve[-1])
        progress.seconds["evaluate"] += time.perf_counter() - began
        if not (recipe.keep_best and progress.step):
            return False
        bits = mean_bits_per_byte(results)
        if progress.best is not None and progress.best <= bits:
            return False
        progress.best = bits
        return True

    def save(where: Path, keep: int) -> Path:
        began = time.perf_counter()
        team.together(metrics.sync)
        state = {"progress": vars(progress), "ledger": ledger.as_dict()}
        path = checkpoint.save(
            where,
            progress.step,
            model,
            optimizer,
            identity,
            state,
            average=average.tensors,
            keep=keep,
            team=team,
        )
        progress.seconds["checkpoint"] += time.perf_counter() - began
        return path

    with (
        MetricsFile(folder / "metrics.jsonl" if team.leads else None, progress.step) as metrics,
        stop_signals(team) as asked,
        ahead(batch_at, model.device, recipe.steps) as batches_ahead,
    ):
        clock = Clock(recipe.steps, evaluate_at if evaluate else ())
        if progress.step == 0:
            measure_point()
        while progress.step < recipe.steps:
            began = time.perf_counter()
            batches = team.together(lambda: batches_ahead.at(progress.step))
            rate = learning_rate(recipe, progress.step + 1)
            set_learning_rate(optimizer, rate)
            optimizer.zero_grad(set_to_none=True)
            nats, weight = backward(model, batches, recipe.z_loss, runtime, team)
            norm = clip_(parameters, recipe.clip)
            if not (math.isfinite(nats) and math.isfinite(norm)):
                names = tuple(dict.fromkeys(name for batch in batches for name in documents_of(batch)))
                blamed = _blame(model, batches, nats, runtime, team)
                raise NonFinite(progress.step + 1, blamed, last_path, names)
            optimizer.step()
            for batch in batches:
                ledger.add(batch, flops_of(batch))
            progress.step += 1
            average.add(progress.step, checkpoint.named_tensors(model))
            for sums in (progress.since_log, progress.since_point):
                sums[0] += nats
                sums[1] += weight
            if is_spike(progress.recent, nats / weight):
                progress.spikes.append({"step": progress.step, "nats": nats / weight})
            progress.recent = [*progress.recent, nats / weight][-WINDOW:]
            progress.seconds["train"] += time.perf_counter() - began

            if progress.step % recipe.log_every == 0 or progress.step == recipe.steps:
                counts = ledger.as_dict()
                line = {
                    "step": progress.step,
                    "tokens": counts["tokens_shown"],
                    "flops": counts["flops"],
                    "nats": progress.since_log[0] / progress.since_log[1],
                    "grad_norm": norm,
                    "learning_rate": rate,
                    "seconds": round(progress.seconds["train"], 3),
                    **({"spikes": progress.spikes} if progress.spikes else {}),
                }
                team.together(lambda line=line: metrics.append(line))
                progress.since_log, progress.spikes = [0.0, 0.0], []
                if on_line and team.leads:
                    on_line("metrics", line)
            if measure_point():
                save(folder / BEST, keep=1)
            stop = team.first(asked()) if progress.step < recipe.steps else None
            if progress.step % recipe.checkpoint_every == 0 or progress.step == recipe.steps or stop:
                last_path = save(saved, recipe.keep_last)
            if on_progress and team.leads:
                on_progress(progress.step, recipe.steps, clock.left(progress), nats / weight)
            if stop:
                raise Stopped(progress.step, stop)
    assert last_path is not None
    averaged = None
    if average.steps:
        average.put(checkpoint.named_tensors(model))
        averaged = {"steps": list(average.steps), **evaluated()}
    return Trained(ledger, progress.curve, progress.seconds, runtime, last_path, averaged, progress.ranks)


def _ready(
    model: Transformer,
    batch_at: Callable[[int], Sequence[Batch]],
    recipe: Recipe,
    runtime: Runtime,
    team: Team,
    notice: Notice,
) -> tuple[Runtime, float]:
    """The network on its device, shared out and compiled, before a run's identity is settled: a compiler that fails
    makes it eager. Also the seconds that compiling took.
    """
    team.prepare(model, recipe, runtime)
    if not runtime.compiled and team.size == 1:
        return runtime, 0.0
    began = time.perf_counter()
    first = team.together(lambda: [batch.to(model.device) for batch in batch_at(0)])
    if runtime.compiled:
        found = compiled_or_eager(runtime, lambda: backward(model, first, recipe.z_loss, runtime), notice)
        runtime = team.agreed(found)
    if team.size > 1:
        # DDP orders its buckets by the first pass, and so its sums: were it a step's, going on would differ in bits.
        backward(model, first, recipe.z_loss, runtime, team)
    return runtime, time.perf_counter() - began if runtime.compiled else 0.0


def mean_bits_per_byte(results: Mapping[str, Any]) -> float:
    """What an evaluation is judged by: its ``bits_per_byte``, of several regions their mean.

    Raises:
        UserError: it has none.
    """
    found = results.get("bits_per_byte")
    if isinstance(found, Mapping):
        found = sum(found.values()) / len(found) if found else None
    if found is None:
        raise UserError("recipe.keep_best = true needs an evaluation that tells bits per byte: leave it out")
    return float(found)


def identity_of(
    model: Transformer, recipe: Recipe, runtime: Runtime, more: Mapping[str, Any]
) -> dict[str, Any]:
    """What two runs must share for their weights to be equal bit for bit; the place of a run is not in it."""
    shapes = {name: list(tensor.shape) for name, tensor in checkpoint.named_tensors(model).items()}
    network = json.dumps([model.architecture.model_dump(mode="json"), shapes], sort_keys=True)
    return {
        **more,
        "architecture": hashlib.sha256(network.encode()).hexdigest(),
        "recipe": {k: v for k, v in recipe.model_dump(mode="json").items() if k not in _NOT_IDENTITY},
        "runtime": runtime.identity,
    }


def _blame(model: Transformer, batches: Sequence[Batch], nats: float, runtime: Runtime, team: Team) -> str:
    """Where a step stopped being finite: its batches once more, eagerly and watched, all ranks together."""
    for batch in batches:
        with runtime.autocast():
            layer = first_nonfinite_layer(model, lambda batch=batch: model.loss(batch))
        found = [there for there in team.gather(layer) if there]
        if found:
            return found[0]
    return "loss" if not math.isfinite(nats) else team.gather(nonfinite_gradient(model))[0]
