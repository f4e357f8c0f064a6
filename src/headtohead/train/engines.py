"""PyTorch's engines for several processes around our network: DDP and FSDP2.

Imported only where there is a team: it takes most of a second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from headtohead.model.batch import Batch
from headtohead.model.blocks import Block
from headtohead.model.loss import LossSums
from headtohead.model.transformer import Transformer
from headtohead.train.parallel import is_sharded

# ------------------------------------------------------------------------------------------------------------- DDP


class _Loss(nn.Module):
    """What DDP takes for the network: the loss is all that is learnt from."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, z_loss: float) -> tuple[Tensor, ...]:
        return _as_tuple(self.model.loss(batch, z_loss))


def _as_tuple(sums: LossSums) -> tuple[Tensor, ...]:
    """Engines look for tensors in tuples."""
    return sums.total, sums.nats, sums.z, sums.weight


def replicas(model: Transformer) -> DistributedDataParallel:
    """DDP around the loss of a network that every rank holds: after a backward pass gradients are sums over ranks."""
    # Blocks are compiled one by one, each a whole graph: DDP has nothing to cut there.
    torch._dynamo.config.optimize_ddp = False
    found = DistributedDataParallel(_Loss(model), gradient_as_bucket_view=True)
    found.register_comm_hook(None, lambda state, bucket: _added(bucket))
    return found


def _added(bucket: Any) -> torch.futures.Future[Tensor]:
    """DDP's reduction: its own would divide by the number of ranks."""
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


# ------------------------------------------------------------------------------------------------------------ FSDP2

ENTRANCES = ("hidden", "logits", "next_logits", "score")
"""What is asked of a network, beside its loss."""


class _Root(nn.Module):
    """What FSDP2 takes for the network: whatever is asked of it from outside is one forward, which gathers the
    embeddings, the final norms and the head around it.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model, self._inside = model, False

    def forward(self, asked: Callable[..., Any], *args: Any, **named: Any) -> Any:
        self._inside = True
        try:
            return asked(*args, **named)
        finally:
            self._inside = False

    def entrance(self, asked: Callable[..., Any]) -> Callable[..., Any]:
        """The method, through the forward unless it is asked from inside."""

        @wraps(asked)
        def enter(*args: Any, **named: Any) -> Any:
            if self._inside:
                return asked(*args, **named)
            answer = self(asked, *args, **named)
            if not torch.is_grad_enabled():
                self.reshard()  # pyright: ignore[reportCallIssue] - fully_shard has made it an FSDPModule
            return answer

        return enter


def shard(model: Transformer, size: int, device: torch.device) -> None:
    """Divide the network over so many ranks, block by block; blocks that share weights are one. Nothing if it is."""
    if is_sharded(model):
        return
    mesh = init_device_mesh(device.type, (size,))
    for blocks in _sharing(model):
        fully_shard(list[nn.Module](blocks), mesh=mesh, reshard_after_forward=True)
    root = _Root(model)
    fully_shard(root, mesh=mesh)
    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # gradients are sums, not means
            module.set_gradient_divide_factor(1.0)
    loss = root.entrance(lambda batch, z_loss=0.0: _as_tuple(type(model).loss(model, batch, z_loss)))
    model.loss = lambda batch, z_loss=0.0: LossSums(*loss(batch, z_loss))
    for name in ENTRANCES:
        setattr(model, name, root.entrance(getattr(model, name)))


def _sharing(model: Transformer) -> list[list[Block]]:
    """All blocks, those with weights in common together."""
    found: list[tuple[set[int], list[Block]]] = []
    for block in model.modules():
        if isinstance(block, Block):
            own = {id(parameter) for parameter in block.parameters()}
            group = next((group for group in found if group[0] & own), None)
            if group is None:
                found.append((own, [block]))
            else:
                group[0].update(own)
                group[1].append(block)
    return [blocks for _, blocks in found]


def part_for(there: Tensor, values: Tensor) -> Tensor:
    """Of whole values, what a rank's part of a tensor holds; nothing is sent."""
    assert isinstance(there, DTensor)
    values = values.to(there.device, there.dtype)
    return distribute_tensor(values, there.device_mesh, there.placements, src_data_rank=None)
