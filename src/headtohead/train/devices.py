"""The device that a run is computed on: which one, its random state, and how batches get there in time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from headtohead.errors import UserError
from headtohead.model.batch import Batch

RANDOM = "random_state"
"""Name of torch's random state in a checkpoint; a device's own has its type after a dot."""


def chosen(wanted: str) -> torch.device:
    """The device for a recipe's `device`: "auto" is CUDA where there is one, else the CPU.

    Under torchrun each process takes the device of its LOCAL_RANK and makes it the current one.

    Raises:
        UserError: CUDA is asked for where there is none, or there are more processes than devices.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            'device = "cuda", but there is no CUDA device here: use "cpu", or "auto" for what there is'
        )
    local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= count:
        raise UserError(
            f"{local + 1} processes or more on this machine, and {count} CUDA device{'s' if count > 1 else ''}: "
            f"start torchrun with --nproc-per-node {count}"
        )
    torch.cuda.set_device(local)
    # Without it cuBLAS sums in an order of its own from one run to the next.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return torch.device("cuda", local)


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that training may draw from, by the name they have in a checkpoint."""
    states = {RANDOM: torch.get_rng_state()}
    if device.type == "cuda":
        states[f"{RANDOM}.cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """The inverse of `random_states`; a state of a device that this process doesn't use is passed over."""
    if RANDOM in states:
        torch.set_rng_state(states[RANDOM].cpu().clone())
    if device.type == "cuda" and f"{RANDOM}.cuda" in states:
        torch.cuda.set_rng_state(states[f"{RANDOM}.cuda"].cpu().clone(), device)


class Ahead:
    """The batches of each step, made in a thread while the step before it is computed.

    On CUDA they are pinned and copied on a stream of their own too, so that they are there when the step begins.
    What a batch holds is a function of its step, so nothing but the time depends on it.
    """

    def __init__(
        self,
        batch_at: Callable[[int], Sequence[Batch]],
        device: torch.device,
        steps: int,
        thread: ThreadPoolExecutor,
    ) -> None:
        self._batch_at, self._device, self._steps, self._thread = batch_at, device, steps, thread
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._coming: tuple[int, Future[tuple[list[Batch], Any]]] | None = None

    def at(self, step: int) -> list[Batch]:
        """The batches of a step, on the device. Raises what making them raised."""
        due = self._coming
        future = due[1] if due and due[0] == step else self._thread.submit(self._made, step)
        batches, copied = future.result()
        later = step + 1
        self._coming = (later, self._thread.submit(self._made, later)) if later < self._steps else None
        if copied is not None:
            now = torch.cuda.current_stream(self._device)
            now.wait_event(copied)
            for batch in batches:
                batch.map(lambda field: _used_on(field, now))
        return batches

    def _made(self, step: int) -> tuple[list[Batch], Any]:
        batches = list(self._batch_at(step))
        if self._stream is None:
            return [batch.to(self._device) for batch in batches], None
        with torch.cuda.stream(self._stream):
            moved = [batch.map(Tensor.pin_memory).to(self._device, non_blocking=True) for batch in batches]
            return moved, self._stream.record_event()


@contextmanager
def ahead(batch_at: Callable[[int], Sequence[Batch]], device: torch.device, steps: int) -> Iterator[Ahead]:
    """An `Ahead` of a run of so many steps; its thread has ended when the context has."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as thread:
        yield Ahead(batch_at, device, steps, thread)


def _used_on(field: Tensor, stream: Any) -> Tensor:
    """Tell the allocator that another stream than the one which made it reads this tensor."""
    field.record_stream(stream)
    return field
