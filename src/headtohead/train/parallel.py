"""Several processes for one run, as ``torchrun`` starts them: DDP or FSDP2.

A *team* is the ranks of a run. The sums of a step go over all its rows: each rank takes a share of them, the number
of supervised tokens is added up before the backward pass, and gradients are added, never averaged, so a team of any
size computes the loss of one process. Everything that may go otherwise on one rank than on another (a file, a signal,
a loss that is not finite) is agreed on, since a rank that goes its own way would leave the others waiting.

DDP: every rank holds the whole network. FSDP2: every rank holds a share of each tensor, and gathers a block's while it
computes the block.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import pairwise
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture
from headtohead.model.batch import Batch
from headtohead.model.blocks import initialise
from headtohead.model.loss import LossSums
from headtohead.model.transformer import Transformer
from headtohead.train.recipe import Recipe
from headtohead.train.runtime import Notice, Runtime

T = TypeVar("T")

TIMEOUT = "HEADTOHEAD_RANK_TIMEOUT"
"""Environment variable: seconds after which a rank that doesn't answer counts as hung. One that dies is noticed at
once."""
SECONDS = 1800.0


class Lost(UserError):
    """Another rank died, or hangs: told by every rank that is left."""


@dataclass
class Team:
    """The processes of one run, of which this is number ``rank``; alone it asks nobody."""

    rank: int = 0
    size: int = 1
    _replicas: Any = field(default=None, repr=False)
    """DDP around the network, once it is prepared."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Everyone's value, in the order of the ranks."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def total(self, *values: float) -> tuple[float, ...]:
        """The sums of everyone's values, in fp64, the same bits on every rank."""
        if self.size == 1:
            return values
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return tuple(sums.tolist())

    def first(self, value: int | None) -> int | None:
        """The largest of everyone's numbers, None where nobody has one: a signal that any rank got."""
        if self.size == 1:
            return value
        largest = torch.tensor(value or 0)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest) or None

    def together(self, work: Callable[[], T]) -> T:
        """What ``work`` gives; where it failed on any rank, that failure on every rank."""
        if self.size == 1:
            return work()
        result: Any = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:
            failure = error
        told = [one for one in self.gather(_plain(failure)) if one is not None]
        if failure is not None:
            raise failure
        if told:
            raise told[0]
        return result

    def told(self, work: Callable[[], T]) -> T:
        """What ``work`` gives the first process, which alone does it; where it fails, it fails on all."""
        return self.gather(self.together(lambda: work() if self.leads else None))[0]  # pyright: ignore[reportReturnType]

    def notice(self, notice: Notice) -> Notice:
        """The same place for notices, for one rank of the team only."""
        return notice if self.leads else lambda line: None

    def loss(self, model: Transformer, batch: Batch, z_loss: float, last: bool = True) -> LossSums:
        """``model.loss`` of this rank's batch; after the backward pass of a step's ``last`` one, gradients are sums
        over the team.
        """
        if self._replicas is None:
            return model.loss(batch, z_loss)
        with nullcontext() if last else self._replicas.no_sync():
            return LossSums(*self._replicas(batch, z_loss))

    def prepare(self, model: Transformer, recipe: Recipe, runtime: Runtime) -> None:
        """Put the network on the device, whole or in parts, choose what is compiled and what is computed twice, and
        join the team's gradients.
        """
        device = torch.device(runtime.device)
        sharded = self.size > 1 and recipe.parallel == "fsdp"
        if sharded:
            from headtohead.train.engines import shard

            shard(model, self.size, device)
        else:
            model.to(device)
        if runtime.compiled:
            model.compile_blocks(hooks=sharded)
        if recipe.activation_checkpointing:
            model.recompute_blocks()
        if self.size > 1 and not sharded:
            from headtohead.train.engines import replicas

            self._replicas = replicas(model)

    def agreed(self, runtime: Runtime) -> Runtime:
        """The runtime of all: eager where the compiler failed any rank."""
        if not all(self.gather(runtime.compiled)) and runtime.compiled:
            torch.compiler.set_stance("force_eager")
            return replace(runtime, compiled=False)
        return runtime


ALONE = Team()


def _plain(failure: Exception | None) -> Exception | None:
    """The failure as the other ranks can be told it."""
    if failure is None or isinstance(failure, UserError | OSError):
        return failure
    return (
        type(failure)(*failure.args) if type(failure).__init__ is Exception.__init__ else Lost(repr(failure))
    )


@contextmanager
def assembled() -> Iterator[Team]:
    """The team of the processes that torchrun started, this one among them.

    Raises:
        UserError: they can't reach each other.
        Lost: one of them died, or hangs, while the others waited for it.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    seconds = _seconds()
    try:
        # Beside NCCL, gloo: what ranks agree on are numbers in plain memory.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(seconds=seconds)
        )
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise UserError(f"rank {rank} of {size} does not reach the others: {_first_line(error)}") from error
    try:
        yield Team(rank, size)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise Lost(
            f"rank {rank} has lost another rank, which died or did not answer for {seconds:g} s "
            f"({_first_line(error)}): start the same command again to go on from the last checkpoint"
        ) from error
    dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End a process that was of a team.

    At once, without Python's own end: gloo's threads may still be letting go of the last tensors they sent, and a
    thread that asks for the interpreter while it ends aborts the process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _seconds() -> float:
    given = os.environ.get(TIMEOUT)
    try:
        seconds = SECONDS if given is None else float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise UserError(f"{TIMEOUT} = {given}: it should be a number of seconds, such as {SECONDS:g}")
    return seconds


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


# ------------------------------------------------------------------------------------------------------------ rows


def shares(rows: Sequence[T], passes: int, team: Team = ALONE) -> list[tuple[tuple[T, ...], tuple[T, ...]]]:
    """The passes of a step on this rank: for each, its own rows, and those of all ranks that it stands for.

    Rank after rank the own rows are the step's in their order; pass after pass so are those of all. Shares differ by
    one row at most. Every rank makes as many passes as every other: fewer than asked for where a share is smaller.

    Raises:
        UserError: a step has fewer rows than the team ranks.
    """
    if len(rows) < team.size:
        raise UserError(
            f"rows_per_step = {len(rows)} gives not every one of {team.size} processes a row: "
            f"start at most {len(rows)}, or raise rows_per_step"
        )
    mine = _cut(rows, team.size)[team.rank]
    passes = min(passes, len(rows) // team.size)
    return list(zip(_cut(mine, passes), _cut(rows, passes), strict=True))


def _cut(rows: Sequence[T], parts: int) -> list[tuple[T, ...]]:
    edges = [len(rows) * i // parts for i in range(parts + 1)]
    return [tuple(rows[a:b]) for a, b in pairwise(edges)]


# --------------------------------------------------------------------------------------------------- parts of tensors


def is_part(tensor: Tensor) -> bool:
    """Whether this process holds a part of the tensor only (a DTensor, a class that is slow to import)."""
    return hasattr(tensor, "device_mesh")


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds a part of each of the network's tensors only."""
    return any(map(is_part, model.parameters()))


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all its values: a part of one is gathered, which all ranks do together."""
    return tensor.full_tensor() if is_part(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


@torch.no_grad()
def write(there: Tensor, values: Tensor) -> None:
    """Put the values of a whole tensor into it, or of them what this rank holds."""
    if is_part(there):
        from headtohead.train.engines import part_for

        values = part_for(there, values)
    there.copy_(values)


def clip_(parameters: Sequence[nn.Parameter], longest: float) -> float:
    """Shorten the gradient to a global norm (over all parameters and ranks) of ``longest``; returns what it was."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = whole(nn.utils.get_total_norm(gradients))
    nn.utils.clip_grads_with_norm_(parameters, longest, norm)
    return float(norm)


def built(
    architecture: Architecture, seed: int, recipe: Recipe, team: Team, device: torch.device
) -> Transformer:
    """The network with the weights of a seed, the same in one process and in many.

    In parts (FSDP2) it is described on the meta device, sharded, and then filled: each rank draws every tensor of the
    one generator, one at a time, and keeps its share, so no rank ever holds the whole network.
    """
    if team.size == 1 or recipe.parallel != "fsdp":
        return Transformer(architecture, seed)
    from headtohead.train.engines import shard

    with torch.device("meta"):
        model = Transformer(architecture, seed)
    shard(model, team.size, device)
    model.to_empty(device=device)
    initialise(model, architecture, seed, write)
    return model
