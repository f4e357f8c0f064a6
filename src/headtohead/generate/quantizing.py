"""int8 weights by torchao: each output of a matrix with a scale of its own, activations as they are."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from headtohead.errors import UserError
from headtohead.generate.native.packing import Quantized
from headtohead.model.attention import Attention
from headtohead.model.blocks import MLP, HeadTransform
from headtohead.model.transformer import Transformer


@torch.no_grad()
def quantize(model: Transformer) -> tuple[Transformer, Quantized]:
    """A copy of the network whose matrices (attention, feed-forward, head) hold what int8 leaves of them, to score what
    quantizing costs, and the int8 values (n, k) and scales (n) by parameter, for a runner. Embeddings that are not the
    head's matrix, norms and biases stay.

    Raises:
        UserError: torchao isn't installed, or has no int8 weights for this version of PyTorch.
    """
    made = copy.deepcopy(model)
    names = {id(parameter): name for name, parameter in made.named_parameters()}
    wanted: dict[str, Tensor] = {names[id(made.head.matrix)]: made.head.matrix}
    for module in made.modules():
        if isinstance(module, Attention | MLP | HeadTransform):
            for linear in module.children():
                if isinstance(linear, nn.Linear):
                    wanted[names[id(linear.weight)]] = linear.weight
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, weight in wanted.items():
        values, scale = _by_torchao(weight)
        found[name] = (values, scale)
        weight.copy_(values.to(weight.dtype) * scale[:, None].to(weight.dtype))
    return made, found


def _by_torchao(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 values and the scale of each output."""
    try:
        from torchao.quantization import (  # pyright: ignore[reportMissingImports]  an extra of one option
            Int8WeightOnlyConfig,
            quantize_,
        )
    except ImportError as error:
        raise UserError(f"--quantize int8 needs torchao: pip install 'headtohead[int8]' ({error})") from None
    n, k = weight.shape
    linear = nn.Linear(k, n, bias=False)
    linear.weight = nn.Parameter(weight.detach().float().clone(), requires_grad=False)
    quantize_(linear, Int8WeightOnlyConfig())
    kept = linear.weight
    values, scale = getattr(kept, "qdata", None), getattr(kept, "scale", None)
    if values is None:  # the older form keeps them one level down
        inner = getattr(kept, "tensor_impl", None)
        values, scale = (None, None) if inner is None else inner.get_plain()[:2]
    if values is None or scale is None or values.dtype != torch.int8 or values.shape != (n, k):
        raise UserError("this version of torchao keeps int8 weights in a form that isn't known here")
    return values.contiguous(), scale.reshape(n).float()
