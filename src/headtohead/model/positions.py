"""Where a token stands, told to the attention: rotary position embedding (RoPE), or nothing.

RoPE (Su et al., arXiv 2104.09864) rotates each pair of a query's and a key's components by an angle
proportional to the token's position, so that their product depends on the distance alone. Positions count
over both streams, so a decoder's tokens continue where the encoder's end, in self- and in cross-attention
(RedLLM).
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotation(position: Tensor, d_head: int, base: float) -> Tensor:
    """Cosines and sines (2, B, 1, T, d_head / 2) of the angles of positions (B, T), fp32.

    Pair i turns by position · base^(-2i / d_head).
    """
    pairs = torch.arange(0, d_head, 2, dtype=torch.float32, device=position.device)
    angles = position[:, None, :, None].float() * base ** (-pairs / d_head)
    return torch.stack((angles.cos(), angles.sin()))


def rotate(x: Tensor, turned: Tensor) -> Tensor:
    """Rotate x (B, H, T, d_head): component i pairs with i + d_head / 2 (the layout of Llama's weights)."""
    cos, sin = turned[0], turned[1]
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
