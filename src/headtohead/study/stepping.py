"""How long a training step takes on this CPU: steps of shallow networks of the same widths, the rest worked out.

A step is so much for each layer of a stream, and so much for all else (embeddings, loss, the optimizer's share in
them). How fast this machine does each is measured at the network's own shapes, with the training loop's own code,
compiled as training is. So a kernel that gets better, or another machine, needs no new
constant. The whole network is never run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture
from headtohead.model.batch import Batch
from headtohead.model.budget import Supervise, flops
from headtohead.model.transformer import Transformer
from headtohead.train.compiling import compiled_or_eager
from headtohead.train.loop import backward
from headtohead.train.memory import example
from headtohead.train.optimizers import make_optimizer
from headtohead.train.recipe import Recipe
from headtohead.train.runtime import Runtime, configure

ROUNDS = 5
PEAK_SIDE = 2048


@dataclass(frozen=True)
class Stepped:
    """Seconds of one step: of a layer of each stream, and of all that isn't layers; with the rate of products."""

    layers: tuple[float, ...]
    rest: float
    peak: float
    """FLOP/s of a square product in what is computed in."""
    compiled: bool
    precision: str
    seconds: float
    """How long the measurement took, compiling included."""

    def step(self, depths: tuple[int, ...]) -> float:
        """Seconds of a step of the network with so many layers in each stream."""
        return self.rest + sum(n * each for n, each in zip(depths, self.layers, strict=True))


def measure(
    a: Architecture, rows: int, input: int, output: int, recipe: Recipe, supervise: Supervise = "output"
) -> Stepped:
    """Time steps of the network with one layer in each stream, and with two in one of them, in turns.

    Raises:
        UserError: layers that aren't alike within a stream, whose times can't be told from two depths.
    """
    if any(len(stream.layers) > 1 for stream in a.streams) or any(s.shares for s in a.streams):
        raise UserError(
            f"{a.name}: its layers are not all alike: this CPU's time can't be told from shallow ones"
        )
    began = time.perf_counter()
    runtime = configure(recipe, lambda line: None)
    ones = (1,) * len(a.streams)
    shapes = [ones, *(tuple(1 + 2 * (i == j) for j in range(len(ones))) for i in range(len(ones)))]
    steps = []
    for depths in shapes:
        step, runtime = stepper(a.resized(depths=depths), rows, input, output, recipe, runtime, supervise)
        steps.append(step)
    times: list[list[float]] = [[] for _ in shapes]
    rates = []
    for _ in range(ROUNDS):
        rates.append(_product_rate(runtime))
        for step, found in zip(steps, times, strict=True):
            found.append(seconds_of(step))
    first, *deeper = (statistics.median(found) for found in times)
    layers = tuple((found - first) / 2 for found in deeper)
    rest = first - sum(layers)
    took = time.perf_counter() - began
    return Stepped(layers, rest, max(rates), runtime.compiled, runtime.precision, took)


def stepper(
    a: Architecture,
    rows: int,
    input: int,
    output: int,
    recipe: Recipe,
    runtime: Runtime,
    supervise: Supervise = "output",
) -> tuple[Callable[[], None], Runtime]:
    """A function that makes one training step of `a`, run once already, as the training loop does it."""
    model = Transformer(a)
    batch = whole_batch(a, rows, input, output, supervise)
    parameters = [p for p in model.parameters() if p.requires_grad]
    if runtime.compiled:
        model.compile_blocks()
        runtime = compiled_or_eager(
            runtime, lambda: backward(model, [batch], recipe.z_loss, runtime), lambda line: None
        )
    optimizer = make_optimizer(model, recipe)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        backward(model, [batch], recipe.z_loss, runtime)
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        optimizer.step()

    step()
    return step, runtime


def whole_batch(a: Architecture, rows: int, input: int, output: int, supervise: Supervise) -> Batch:
    """Rows of one example each, filled to the last place, with a loss at the output's places, or at all."""
    streams = example(a, rows, input, output)
    part = streams[a.output_stream.name].part
    weights = torch.ones(part.shape) if supervise == "all" else (part == part.max()).float()
    zeros = torch.zeros_like(part)
    return Batch(streams, zeros, weights, zeros, weights > 0)


def seconds_of(step: Callable[[], None]) -> float:
    """Wall time of one step."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def share_of_peak(
    a: Architecture, found: Stepped, rows: int, input: int, output: int, supervise: Supervise
) -> float:
    """Training FLOPs of a step by its time, as a share of the measured rate of products."""
    work = rows * flops(a, input, output, supervise)["training"]
    return work / found.step(a.depths) / found.peak


def _product_rate(runtime: Runtime) -> float:
    dtype = torch.bfloat16 if runtime.precision == "bf16" else torch.float32
    left = torch.ones(PEAK_SIDE, PEAK_SIDE, dtype=dtype)
    took = min(seconds_of(lambda: _multiply(left)) for _ in range(3))
    return 2 * PEAK_SIDE**3 / took


def _multiply(left: torch.Tensor) -> None:
    _ = left @ left
