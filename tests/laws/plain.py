"""The whole of a network said once more, in the plainest way: one example, one pair of tokens, one head at a
time.

This is what the laws hold the package to. It reads a description and the weights, and shares nothing else
with the package: not its masks, layouts, positions, norms or batches. Everything is float64 NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from headtohead.data.shards import Example
from headtohead.model.architecture import Architecture, Stream
from headtohead.model.parts import Rope
from headtohead.model.visibility import Both, ByHead, Either, Visibility

PADDING, INPUT, OUTPUT = -1, 0, 1
START = 1


@dataclass(frozen=True)
class Token:
    position: int
    document: int
    part: int
    id: int = 0


SAYS: dict[str, Callable[[Token, Token], bool]] = {
    "causal": lambda q, k: k.position <= q.position,
    "anticausal": lambda q, k: k.position >= q.position,
    "full": lambda q, k: True,
    "key_is_input": lambda q, k: k.part == INPUT,
    "prefix": lambda q, k: k.part == INPUT or k.position <= q.position,
    "same_document": lambda q, k: q.document == k.document,
    "same_part": lambda q, k: q.part == k.part,
}
SAYS_SIZED: dict[str, Callable[[Token, Token, int], bool]] = {
    "window": lambda q, k, n: abs(q.position - k.position) < n,
    "same_block": lambda q, k, n: q.position // n == k.position // n,
    "earlier_block": lambda q, k, n: k.position // n < q.position // n,
}


def sees(rule: Visibility, q: Token, k: Token, head: int, heads: int) -> bool:
    """Whether a query sees a key, as one would explain the rule's name."""
    match rule:
        case Both(left, right):
            return sees(left, q, k, head, heads) and sees(right, q, k, head, heads)
        case Either(left, right):
            return sees(left, q, k, head, heads) or sees(right, q, k, head, heads)
        case ByHead(shares):
            share = next(i for i in range(len(shares)) if head < heads * (i + 1) // len(shares))
            return sees(shares[share], q, k, head, heads)
    name, _, size = str(rule).rstrip(")").partition("(")
    return SAYS_SIZED[name](q, k, int(size)) if size else SAYS[name](q, k)


def mask(rule: Visibility, q: list[Token], k: list[Token], heads: int) -> np.ndarray:
    """(heads, Tq, Tk): padding neither sees nor is seen."""
    out = np.zeros((heads, len(q), len(k)), dtype=bool)
    for h in range(heads):
        for i, query in enumerate(q):
            for j, key in enumerate(k):
                real = PADDING not in (query.document, key.document)
                out[h, i, j] = real and sees(rule, query, key, h, heads)
    return out


def tokens_of(stream: Stream, example: Example) -> list[Token]:
    """One example in a stream: the mode, the input, <start>, the output; positions count through all of
    it.
    """
    ids = [example.mode, *map(int, example.input), START, *map(int, example.output)]
    first = 1 + len(example.input)
    whole = [Token(p, 0, INPUT if p < first else OUTPUT, id) for p, id in enumerate(ids)]
    return {"input": whole[:first], "output": whole[first:], "both": whole}[stream.holds]


def logits(a: Architecture, weights: Mapping[str, np.ndarray], example: Example) -> np.ndarray:
    """Logits (T, V) at each place of the last stream, for one example by itself."""
    finals: dict[str, np.ndarray] = {}
    tokens = {stream.name: tokens_of(stream, example) for stream in a.streams}
    for stream in a.streams:
        x = weights["embedding"][[t.id for t in tokens[stream.name]]]
        for index, layer in enumerate(stream.expanded):
            block = f"stacks.{stream.name}.{index}"
            for s, group in enumerate(layer.sublayers):
                normed = _rms(x) * weights[f"{block}.attention_norms.{s}.weight"]
                reads = [(normed if r.keys == stream.name else finals[r.keys], r) for r in group]
                x = x + _attention(a, weights, f"{block}.attentions.{s}", normed, reads, tokens, stream.name)
            normed = _rms(x) * weights[f"{block}.feed_forward_norm.weight"]
            gate, up = np.split(normed @ weights[f"{block}.feed_forward.gate_up.weight"].T, 2, axis=-1)
            x = x + (gate / (1 + np.exp(-gate)) * up) @ weights[f"{block}.feed_forward.down.weight"].T
        finals[stream.name] = _rms(x) * weights[f"final_norms.{stream.name}.weight"]
    return finals[a.streams[-1].name] @ weights["embedding"].T


def _attention(a, weights, name, x, reads, tokens, here) -> np.ndarray:
    width = a.heads * a.d_head
    out = np.zeros((len(x), width))
    to_keys, to_values = np.split(weights[f"{name}.key_value.weight"], 2)
    seen = [mask(read.visibility, tokens[here], tokens[read.keys], a.heads) for _, read in reads]
    for h in range(a.heads):
        mine = slice(h * a.d_head, (h + 1) * a.d_head)
        q = x @ weights[f"{name}.query.weight"][mine].T
        q = _turned(a, _rms(q) if a.norms.query_key else q, tokens[here])
        scores, values = [], []
        for (states, read), visible in zip(reads, seen, strict=True):
            k, v = states @ to_keys[mine].T, states @ to_values[mine].T
            k = _turned(a, _rms(k) if a.norms.query_key else k, tokens[read.keys])
            # As complex numbers, the product of a turned query and a turned key is the real part of q · k̄.
            product = np.real(q @ k.conj().T) / np.sqrt(a.d_head)
            scores.append(np.where(visible[h], product, -np.inf))
            values.append(_rms(v) if a.norms.value else v)
        out[:, mine] = _softmax(np.concatenate(scores, axis=1)) @ np.concatenate(values)
    return (_rms(out) if a.norms.output else out) @ weights[f"{name}.out.weight"].T


def _turned(a: Architecture, x: np.ndarray, tokens: list[Token]) -> np.ndarray:
    """RoPE as its paper says it: pairs of components as complex numbers, turned by an angle for the
    position.
    """
    half = a.d_head // 2
    pairs = x[:, :half] + 1j * x[:, half:]
    if not isinstance(a.positions, Rope):
        return pairs
    speed = a.positions.base ** (-np.arange(half) / half)
    return pairs * np.exp(1j * np.outer([t.position for t in tokens], speed))


def _softmax(scores: np.ndarray) -> np.ndarray:
    highest = scores.max(axis=1, keepdims=True)
    powers = np.exp(scores - np.where(np.isfinite(highest), highest, 0))
    total = powers.sum(axis=1, keepdims=True)
    return powers / np.where(total == 0, 1, total)  # who sees nothing reads zeros


def _rms(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
