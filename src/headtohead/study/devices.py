"""Devices by their data sheets, and the assumptions that turn a peak into a time. Imports no torch.

The figures are the vendors' own, for dense products (without sparsity) of bf16 with sums in fp32. None was
measured here, and no run of headtohead is behind them.
"""

from __future__ import annotations

from dataclasses import dataclass

from headtohead.errors import UserError

GB, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Device:
    """One accelerator. `flops`: dense bf16 FLOP/s; `memory`: bytes; `bandwidth`: of its memory, bytes/s; `link`: to
    its neighbours in a node (of a TPU: in a pod), bytes/s each way.
    """

    name: str
    title: str
    flops: float
    memory: float
    bandwidth: float
    link: float
    note: str = ""
    neighbours: int = 8
    """How many are joined by `link`."""


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device("a100", "NVIDIA A100 SXM 80 GB", 312 * TERA, 80 * GB, 2039 * GB, 300 * GB),
        Device("h100", "NVIDIA H100 SXM 80 GB", 989 * TERA, 80 * GB, 3350 * GB, 450 * GB),
        Device("h200", "NVIDIA H200 SXM 141 GB", 989 * TERA, 141 * GB, 4800 * GB, 450 * GB),
        Device("b200", "NVIDIA B200 (HGX) 180 GB", 2250 * TERA, 180 * GB, 8000 * GB, 900 * GB),
        Device("l4", "NVIDIA L4 24 GB, PCIe 4", 121 * TERA, 24 * GB, 300 * GB, 32 * GB),
        Device("rtx4090", "NVIDIA RTX 4090 24 GB, PCIe 4", 165 * TERA, 24 * GB, 1008 * GB, 32 * GB),
        Device("mi300x", "AMD MI300X 192 GB", 1307 * TERA, 192 * GB, 5300 * GB, 448 * GB),
        Device(
            "tpu-v5p",
            "Google TPU v5p 95 GB",
            459 * TERA,
            95 * GB,
            2765 * GB,
            600 * GB,
            "headtohead does not run on TPUs: it is here since the paper's runs were made on them",
            neighbours=8960,
        ),
    )
}
BETWEEN_NODES = 50 * GB
"""Bytes/s each way for each device between nodes: one port of 400 Gbit/s a device."""
SHARE = 0.40
"""Of the peak, reached by the products. PaLM tells 0.46 (Chowdhery et al., arXiv 2204.02311), Llama 3 0.38 to 0.43 on
8,000 to 16,000 H100 (arXiv 2407.21783); both count attention's FLOPs, and both were tuned for their machines.
"""
RESERVE = 0.10
"""Of the memory, left to the driver, communication buffers and fragments."""


def device(name: str) -> Device:
    """The device of that name.

    Raises:
        UserError: unknown, with the list.
    """
    if name not in DEVICES:
        raise UserError(f"--device {name} is unknown: it should be {', '.join(DEVICES)} or cpu")
    return DEVICES[name]
