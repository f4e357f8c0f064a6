"""How long a training step takes, from FLOPs, bytes and a data sheet. Imports no torch.

A step's time is the products' (FLOPs by visible pairs, divided by an assumed share of the peak), the optimizer's
(bytes to and from memory) and what the others' gradients and weights take beyond what hides behind the products.
"""

from __future__ import annotations

from dataclasses import dataclass

from headtohead.model.architecture import Architecture
from headtohead.model.budget import Supervise, flops, parameters
from headtohead.study.devices import BETWEEN_NODES, Device
from headtohead.study.sizing import MOMENTS, Sharding


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step; `communication` is what is left of it beyond the products."""

    products: float
    optimizer: float
    communication: float
    moved: float
    """Bytes that each device sends in a step."""

    @property
    def total(self) -> float:
        return self.products + self.optimizer + self.communication


def step_time(
    a: Architecture,
    device: Device,
    devices: int,
    batch: int,
    micro_steps: int,
    input: int,
    output: int,
    share: float,
    sharding: Sharding = "none",
    checkpointing: bool = False,
    optimizer: str = "adamw",
    supervise: Supervise = "output",
) -> StepTime:
    """Of a step over `batch` examples on all devices, each going through `micro_steps` micro-batches.

    Activation checkpointing runs the forward pass a second time: 4/3 of the FLOPs. Moved are, in rings, for DDP the
    gradients (2 · 4 bytes a parameter, once a step), for FSDP2 the weights for each forward and each backward
    pass and the gradients after it (4 bytes each, every micro-batch). Products and communication overlap: the
    longer one counts.
    A ring over more than a node goes at the pace between nodes.
    """
    work = flops(a, input, output, supervise)["training"] * (4 / 3 if checkpointing else 1)
    count = parameters(a)["total"]
    products = work * -(-batch // devices) / (device.flops * share)
    # Read: weight, gradient, moments; written: weight, moments; and the gradient is made 0.
    shared = count / (devices if sharding == "fsdp2" else 1)
    update = 4 * shared * (4 + 2 * MOMENTS[optimizer]) / device.bandwidth
    ring = (devices - 1) / devices
    bytes_ = {"none": 0.0, "ddp": 8.0 * count, "fsdp2": 12.0 * count * micro_steps}[sharding] * ring
    link = device.link if devices <= device.neighbours else min(device.link, BETWEEN_NODES)
    return StepTime(products, update, max(0.0, bytes_ / link - products), bytes_)
