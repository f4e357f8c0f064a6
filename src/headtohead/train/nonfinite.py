"""A loss that is not a finite number: stop, and say in which layer it began."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

NAMED = 8
"""How many documents of a batch are named in one line; all are in `NonFinite.documents`."""


class NonFinite(Exception):
    """The loss or the gradient of a step is not finite; the weights are still those before the step.

    Attributes:
        step: the update, counted from 1, that could not be made.
        layer: the first module, in forward order, whose output is not finite; "loss" when all outputs are and
            the loss is not; the parameter with the non-finite gradient when the whole forward pass is finite.
        last_checkpoint: folder of the newest checkpoint of this run, or None.
        documents: names of the documents in the step's batch, where they are known.
    """

    def __init__(
        self, step: int, layer: str, last_checkpoint: Path | None, documents: Sequence[str] = ()
    ) -> None:
        self.step, self.layer, self.last_checkpoint, self.documents = step, layer, last_checkpoint, documents
        good = f"the last good checkpoint is {last_checkpoint}" if last_checkpoint else "no checkpoint yet"
        more = f" and {len(documents) - NAMED} more" if len(documents) > NAMED else ""
        shown = f"; its batch is of {', '.join(documents[:NAMED])}{more}" if documents else ""
        super().__init__(f"the loss is not finite at step {step}, first in {layer}{shown}; {good}")


class _Found(Exception):
    """Ends a forward pass at the module that is looked for."""

    def __init__(self, layer: str) -> None:
        self.layer = layer


def first_nonfinite_layer(model: nn.Module, forward: Callable[[], Any]) -> str | None:
    """Name of the first module, in forward order, whose output is not finite while ``forward`` runs, or None.

    Inner modules end before the one that holds them, so the name is the innermost. Compiled blocks run
    eagerly here: a hook can't see into a compiled one.
    """

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if not all(tensor.isfinite().all() for tensor in _tensors(output)):
                raise _Found(name)

        return hook

    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for name, module in model.named_modules():
            handle = module.register_forward_hook(hook_for(name or type(model).__name__))
            stack.callback(handle.remove)
        try:
            forward()
        except _Found as found:
            return found.layer
    return None


def nonfinite_gradient(model: nn.Module) -> str:
    """Name of the parameter where a non-finite gradient began.

    Gradients flow from the last parameter to the first and carry what isn't finite along, so it is the last
    one in the network's order. When all are finite and only their norm overflowed: the one with the largest.
    """
    gradients = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    bad = [name for name, gradient in gradients if not gradient.isfinite().all()]
    return bad[-1] if bad else max(gradients, key=lambda pair: float(pair[1].abs().max()))[0]


def _tensors(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors in a module's output, through tuples and dicts."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
