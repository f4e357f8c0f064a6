"""Where a token stands, told to the network: rotations, vectors and biases of every kind of position.

An encoding means the same in every network: it speaks of positions, which count through a document's input
and output. A stream that holds the output alone may count from 0 again (`across = "restarted"`), and
attention to another stream may know no positions at all (`"off"`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from headtohead.model.architecture import Architecture, Stream
from headtohead.model.batch import Tokens
from headtohead.model.parts import RelativeBias
from headtohead.model.visibility import Coordinates, sequence

TRIED = 16
"""Tokens on which the directions of a stream's reads are tried."""


def standing(a: Architecture, stream: Stream, tokens: Tokens) -> Tensor:
    """The positions (B, T) that the encoding speaks of; padding's are 0."""
    if stream.holds == "output" and getattr(a.positions, "across", None) == "restarted":
        return (tokens.step - 1).clamp(min=0)
    return tokens.position


def rotation(position: Tensor, d_head: int, base: float) -> Tensor:
    """Cosines and sines (2, B, 1, T, d_head / 2) of the angles of positions (B, T), fp32.

    Pair i turns by position · base^(-2i / d_head) (RoPE, Su et al., arXiv 2104.09864): the product of a turned
    query and a turned key depends on their distance alone.
    """
    pairs = torch.arange(0, d_head, 2, dtype=torch.float32, device=position.device)
    angles = position[:, None, :, None].float() * base ** (-pairs / d_head)
    return torch.stack((angles.cos(), angles.sin()))


def rotate(x: Tensor, turned: Tensor) -> Tensor:
    """Rotate x (B, H, T, d_head): component i pairs with i + d_head / 2 (the layout of Llama's weights)."""
    cos, sin = turned[0], turned[1]
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def sinusoids(position: Tensor, d_model: int, base: float) -> Tensor:
    """Sinusoidal vectors (B, T, d_model) of positions (B, T), fp32 (Vaswani et al., arXiv 1706.03762, 3.5).

    The angles are those of `rotation`; sines fill the first half of the components, cosines the second. (The
    paper has them in turn, which is the same up to the order of components.)
    """
    pairs = torch.arange(0, d_model, 2, dtype=torch.float32, device=position.device)
    angles = position[..., None].float() * base ** (-pairs / d_model)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)[..., :d_model]


def alibi_slopes(heads: int) -> list[float]:
    """ALiBi's slope of each head (Press et al., arXiv 2108.12409, section 3 and the authors' code).

    2^(-8/n), 2^(-16/n), … for n heads, a power of 2; for other numbers, those of the power of 2 below, then
    every other one of the next power.
    """
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8 * i / below) for i in range(1, below + 1)]
    return slopes + [2.0 ** (-8 * i / (2 * below)) for i in range(1, 2 * (heads - below), 2)]


def buckets(distance: Tensor, bias: RelativeBias, both: bool) -> Tensor:
    """T5's bucket of each distance key - query (Raffel et al., arXiv 1910.10683, section 2.1).

    `both`: half of the buckets are for keys after the query; else such keys share bucket 0 with the query's
    own place. Of the rest, the first half are exact distances, the others grow logarithmically up to
    `farthest`, and everything beyond is in the last.
    """
    count = bias.buckets
    found = torch.zeros_like(distance)
    back = -distance
    if both:
        count //= 2
        found += (distance > 0) * count
        back = back.abs()
    back = back.clamp(min=0)
    exact = count // 2
    steps = torch.log(back.clamp(min=1).float() / exact) / math.log(bias.farthest / exact)
    far = (exact + (steps * (count - exact)).long()).clamp(max=count - 1)
    return found + torch.where(back < exact, back, far)


def sees_ahead(a: Architecture, stream: Stream) -> bool:
    """Whether a read of the stream that is told positions lets a query see a later one: by the rules alone.

    Tried on a short document; no rule of windows or blocks hides the next token where it shows later ones.
    """
    whole = sequence(TRIED, TRIED)
    held = {"input": slice(0, TRIED), "output": slice(TRIED, None), "both": slice(None)}
    across = getattr(a.positions, "across", "continuous")

    def places(of: Stream) -> Coordinates:
        found = Coordinates(*(array[held[of.holds]] for array in whole))
        if of.holds == "output" and across == "restarted":
            return found._replace(position=found.position - TRIED)
        return found

    for layer in stream.layers:
        for read in layer.reads:
            other = read.keys != stream.name
            if other and across == "off":
                continue
            keys = a.stream(read.keys)
            if not other:
                ahead = not read.visibility.append_only(places(stream), places(keys), a.width(stream).heads)
            else:
                # Seen by the rule, which speaks of true positions; ahead by the positions that are told.
                q, k = (Coordinates(*(array[held[s.holds]] for array in whole)) for s in (stream, keys))
                seen = read.visibility.dense(q, k, a.width(stream).heads).any(axis=-3)
                ahead = bool((seen & (places(keys).position > places(stream).position[:, None])).any())
            if ahead:
                return True
    return False


def relative_bias(table: Tensor, bias: RelativeBias, both: bool, q: Tensor, k: Tensor) -> Tensor:
    """T5's bias (B, heads, Tq, Tk) for positions q (B, Tq) and k (B, Tk), from the table (buckets, heads)."""
    return table[buckets(k[:, None, :] - q[:, :, None], bias, both)].permute(0, 3, 1, 2)


def alibi_bias(heads: int, q: Tensor, k: Tensor) -> Tensor:
    """ALiBi's bias (B, heads, Tq, Tk): minus the head's slope times the distance."""
    slopes = torch.tensor(alibi_slopes(heads), device=q.device)
    return -slopes[:, None, None] * (k[:, None, None, :] - q[:, None, :, None]).abs().float()
