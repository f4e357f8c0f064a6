"""What training takes of memory, by part, before anything is allocated.

Weights, gradients and the optimizer's moments follow from the number of parameters. What the backward pass needs
of the forward pass is counted by running the network's own code on tensors without data (PyTorch's fake tensors)
and adding up what autograd would save, each storage once: so it is exact for eager training, at any size, on any
machine. Compiled training saves no more, and as a rule less.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from headtohead.model.architecture import Architecture
from headtohead.model.attention import Attention
from headtohead.model.batch import Tokens
from headtohead.model.blocks import MLP
from headtohead.model.budget import PLACES_AT_ONCE, parameters, places
from headtohead.model.transformer import Transformer
from headtohead.model.visibility import INPUT, OUTPUT
from headtohead.train.optimizers import Keeping, kept

Precision = Literal["fp32", "bf16"]
Part = Literal["attention", "feed-forward", "rest"]


def training_memory(
    a: Architecture,
    rows: int,
    input: int,
    output: int,
    precision: Precision = "fp32",
    optimizer: Keeping = "adamw",
) -> dict[str, int]:
    """Bytes by part, of one micro-batch of `rows` examples of so many input and output places.

    weights, gradients, optimizer: fp32, whatever is computed in. attention, feed-forward, rest (embeddings, norms,
    masks, casts of weights): what is saved for the backward pass. loss: one chunk of logits with its gradients.
    total: the sum. (The gradients are there from the first backward pass on; the backward pass of a block needs
    little beside what it frees.)
    """
    count = parameters(a)["total"]
    with FakeTensorMode():
        model = Transformer(a)
        found = {"weights": 4 * count, "gradients": 4 * count, "optimizer": 4 * kept(model, optimizer)}
        saved = saved_bytes(model, example(a, rows, input, output), precision)
    supervised = rows * output
    width = 2 if precision == "bf16" else 4
    last = a.width(a.output_stream).d_model
    # Of `model.loss`: a chunk's logits, their softmax and its slope in fp32; the head's gradient in fp32 and a
    # chunk's share of it; the gradient of the final states.
    chunk = min(PLACES_AT_ONCE, supervised) * a.vocabulary * 12
    loss = chunk + a.vocabulary * last * (4 + width) + supervised * last * width
    found |= {**saved, "loss": loss}
    return {**found, "total": sum(found.values())}


def example(a: Architecture, rows: int, input: int, output: int) -> dict[str, Tokens]:
    """Rows of one document each, for every stream; their ids are all 0."""
    streams = {}
    for stream in a.streams:
        first = input if stream.holds == "output" else 0
        position = torch.arange(first, first + places(stream, input, output)).expand(rows, -1).contiguous()
        part = torch.where(position < input, INPUT, OUTPUT)
        zeros = torch.zeros_like(position)
        streams[stream.name] = Tokens(zeros, position, zeros, part, (position - input + 1).clamp(min=0))
    return streams


def saved_bytes(model: Transformer, streams: dict[str, Tokens], precision: Precision) -> dict[str, int]:
    """Bytes that autograd saves of a forward pass to the final states, by the part that saves them: each storage
    once, at its first use; parameters themselves not counted.
    """
    own = {_storage(parameter) for parameter in model.parameters()}
    seen: set[int] = set()
    kept: list[Tensor] = []  # so that no storage's address is used again
    found: dict[str, int] = {"attention": 0, "feed-forward": 0, "rest": 0}
    part: list[Part] = ["rest"]

    def pack(tensor: Tensor) -> Tensor:
        key = _storage(tensor)
        if key not in own and key not in seen:
            seen.add(key)
            kept.append(tensor)
            found[part[-1]] += tensor.untyped_storage().nbytes()
        return tensor

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, Attention | MLP):
                stack.enter_context(_within(module, part))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
        if precision == "bf16":
            stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        model.hidden(streams)
    return found


@contextmanager
def _within(module: nn.Module, part: list[Part]) -> Iterator[None]:
    """While the module runs, what is saved is its."""
    name: Part = "attention" if isinstance(module, Attention) else "feed-forward"
    before = module.register_forward_pre_hook(lambda *_: part.append(name))

    def leave(*_: object) -> None:
        part.pop()

    after = module.register_forward_hook(leave)
    try:
        yield
    finally:
        before.remove()
        after.remove()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
