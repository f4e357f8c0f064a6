"""Which runner a network gets: the native one where it can be had, else PyTorch's."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Mapping

from headtohead.generate.native.building import Unavailable
from headtohead.generate.native.packing import Quantized
from headtohead.generate.native.runner import NativeRunner
from headtohead.generate.running import EagerRunner, Precision, Runner
from headtohead.model.transformer import Transformer
from headtohead.train.runtime import to_stderr


def make_runner(
    model: Transformer,
    slots: int,
    capacity: Mapping[str, int],
    *,
    precision: Precision = "bf16",
    quantized: Quantized | None = None,
    threads: int | None = None,
    notice: Callable[[str], None] = to_stderr,
) -> Runner:
    """Slots for a network, as fast as can be on its device; what is lacking for that is told in one line.

    `quantized`: its matrices in int8 (`quantizing.quantize`), of which `model` then holds the rounded values.
    """
    if model.device.type == "cpu":
        try:
            return NativeRunner(model, slots, capacity, precision, quantized, threads)
        except Unavailable as reason:
            notice(f"{reason}: decoding goes by PyTorch, several times slower")
    # Its matrices are converted in place, and the network is the caller's.
    own = copy.deepcopy(model) if precision == "bf16" else model
    return EagerRunner(own, slots, capacity, precision)


def settled() -> None:
    """Say that what is loaded stays, for a process that will write for long: Python's garbage collector otherwise looks
    through all that torch has imported every few hundred steps: one to two hundredths of the time at batch 8.
    """
    gc.collect()
    gc.freeze()
