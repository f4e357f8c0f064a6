"""The whole of a network said once more, in the plainest way: one example, one pair of tokens, one head at a
time.

This is what the laws hold the package to. It reads a description and the weights, and shares nothing else
with the package: not its masks, layouts, positions, norms or batches. Everything is float64 NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from headtohead.data.shards import Example
from headtohead.model.architecture import Architecture, Layer, Read, Stream
from headtohead.model.parts import Alibi, Learned, RelativeBias, Rope, Sinusoidal, TwoDimensional
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
    "backward_input": lambda q, k: (
        k.part == INPUT and k.position >= q.position if q.part == INPUT else k.position <= q.position
    ),
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
        case ByHead(shares, parts):
            parts = parts or (1,) * len(shares)
            share = next(i for i in range(len(shares)) if head < heads * sum(parts[: i + 1]) // sum(parts))
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
    written = example.shown if example.in_place else example.output
    ids = [example.mode, *map(int, example.input)]
    ids += [] if example.in_place and not len(written) else [START, *map(int, written)]
    first = 1 + len(example.input)
    whole = [Token(p, 0, INPUT if p < first else OUTPUT, id) for p, id in enumerate(ids)]
    return {"input": whole[:first], "output": whole[first:], "both": whole}[stream.holds]


def logits(a: Architecture, weights: Mapping[str, np.ndarray], example: Example) -> np.ndarray:
    """Logits (T, V) at each place of the last stream, for one example by itself."""
    return Plain(a, weights, example).logits()


class Plain:
    """One network on one example: everything it does, said once."""

    def __init__(self, a: Architecture, weights: Mapping[str, np.ndarray], example: Example) -> None:
        self.a, self.weights, self.example = a, weights, example
        self.tokens = {stream.name: tokens_of(stream, example) for stream in a.streams}

    def logits(self) -> np.ndarray:
        a, w, finals = self.a, self.weights, {}
        for stream in a.streams:
            x = self.embedded(stream)
            for index, layer in enumerate(stream.expanded):
                x = self.layer(stream, index, layer, x, finals)
            if a.norms.place != "after":
                x = self.norm(x, f"final_norms.{stream.name}")
            finals[stream.name] = x
        h = finals[a.streams[-1].name]
        if a.head.transform:
            h = self.norm(_gelu(self.project(h, "head_transform.dense")), "head_transform.norm")
        matrix = w[self.table(a.streams[-1])] if a.embeddings.tied else w["matrix"]
        found = h @ matrix.T
        if a.head.scaled:
            found = found / np.sqrt(h.shape[1])
        if a.head.bias:
            found = found + w["head_bias"]
        cap = a.head.soft_cap
        return found if cap is None else cap * np.tanh(found / cap)

    def table(self, stream: Stream) -> str:
        return "embedding" if self.a.embeddings.shared else f"embeddings.{stream.name}"

    def embedded(self, stream: Stream) -> np.ndarray:
        """Tokens, then where they stand, then their part; normed if the network norms it."""
        a, w, tokens, name = self.a, self.weights, self.tokens[stream.name], stream.name
        x = w[self.table(stream)][[t.id for t in tokens]]
        if a.embeddings.scaled:
            x = x * np.sqrt(x.shape[1])
        where = self.standing(stream)
        if isinstance(a.positions, Learned):
            x = x + w[f"positions.{name}"][where]
        if isinstance(a.positions, Sinusoidal):
            half = -(-x.shape[1] // 2)
            angles = np.outer(where, a.positions.base ** (-2 * np.arange(half) / x.shape[1]))
            x = x + np.concatenate((np.sin(angles), np.cos(angles)), axis=1)[:, : x.shape[1]]
        if isinstance(a.positions, TwoDimensional):
            pairs = [self.two_dimensional(t) for t in tokens]
            anchors, steps = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            x = x + w[f"anchors.{name}"][anchors] + w[f"steps.{name}"][steps]
        if a.embeddings.segments:
            x = x + w[f"segments.{name}"][[t.part for t in tokens]]
        return self.norm(x, f"embedding_norms.{name}") if a.embeddings.norm else x

    def two_dimensional(self, token: Token) -> tuple[int, int]:
        """GLM's positions: where in the input the token's span belongs, and which of its places it is."""
        if token.part == INPUT:
            return token.position, 0
        first, example = self.first_of_output(), self.example
        place = token.position - first  # 0 is <start>
        stands = [] if example.where is None or example.in_place else [int(w) for w in example.where]
        if not stands:
            return first - 1, 1 + place
        # <start> and special tokens count with the span that comes after them, which the first of them begins.
        spans = [-1, *stands]
        after = next((s for s in spans[place:] if s >= 0), -1)
        begins = max(i for i in range(place + 1) if spans[i] < 0 and (i == 0 or spans[i - 1] >= 0))
        return (1 + after if after >= 0 else first - 1), 1 + place - begins

    def first_of_output(self) -> int:
        return min(t.position for tokens in self.tokens.values() for t in tokens if t.part == OUTPUT)

    def standing(self, stream: Stream) -> list[int]:
        """The position of each token as the encoding counts."""
        restarts = stream.holds == "output" and getattr(self.a.positions, "across", "") == "restarted"
        first = self.first_of_output() if restarts else 0
        return [t.position - first for t in self.tokens[stream.name]]

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        norms = self.a.norms
        if norms.kind == "layer":
            x = x - x.mean(axis=-1, keepdims=True)
        found = (
            x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + norms.epsilon) * self.weights[f"{name}.weight"]
        )
        return found + self.weights[f"{name}.bias"] if norms.bias else found

    def unit(self, x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + self.a.norms.epsilon)

    def project(self, x: np.ndarray, name: str) -> np.ndarray:
        found = x @ self.weights[f"{name}.weight"].T
        return found + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else found

    def layer(self, stream: Stream, index: int, layer: Layer, x: np.ndarray, finals: Any) -> np.ndarray:
        place = self.a.norms.place

        def branch(
            x: np.ndarray, before: str, after: str, what: Callable[[np.ndarray], np.ndarray]
        ) -> np.ndarray:
            if place == "after":
                return self.norm(x + what(x), before)
            found = what(self.norm(x, before))
            return x + (self.norm(found, after) if place == "both" else found)

        block = f"stacks.{stream.name}.{index}"
        for s, group in enumerate(layer.sublayers):
            # Weights that are another stream's are named after it too.
            x = branch(
                x,
                f"{block}.attention_norms.{s}",
                f"{block}.attention_after_norms.{s}",
                lambda y, s=s, group=group: self.attention(
                    f"{block}.attentions.{s}", stream, layer, group, y, finals
                ),
            )
        return branch(
            x,
            f"{block}.feed_forward_norm",
            f"{block}.feed_forward_after_norm",
            lambda y: self.feed_forward(y, f"{block}.feed_forward"),
        )

    def feed_forward(self, x: np.ndarray, name: str) -> np.ndarray:
        kind = self.a.feed_forward
        f = {
            "swiglu": lambda y: y / (1 + np.exp(-y)),
            "geglu": _gelu,
            "gelu": _gelu,
            "geglu-tanh": _gelu_tanh,
            "gelu-tanh": _gelu_tanh,
            "relu": lambda y: np.maximum(y, 0),
            "relu2": lambda y: np.maximum(y, 0) ** 2,
        }[kind]
        if f"{name}.up.weight" in self.weights:
            return self.project(f(self.project(x, f"{name}.up")), f"{name}.down")
        gate, up = np.split(self.project(x, f"{name}.gate_up"), 2, axis=-1)
        return self.project(f(gate) * up, f"{name}.down")

    def attention(
        self, name: str, stream: Stream, layer: Layer, group: tuple[Read, ...], x: np.ndarray, finals: Any
    ) -> np.ndarray:
        a, width = self.a, self.a.width(stream)
        d, key_heads = width.d_head, width.key_heads or width.heads
        queries = self.project(x, f"{name}.query")
        sources = [x if read.keys == stream.name else finals[read.keys] for read in group]
        projected = [np.split(self.project(source, f"{name}.key_value"), 2, axis=-1) for source in sources]
        out = np.zeros((len(x), width.heads * d))
        positions = layer.positions or a.positions
        across = any(read.keys != stream.name for read in group)
        told = not (across and getattr(positions, "across", "") == "off")
        for h in range(width.heads):
            mine, its = slice(h * d, (h + 1) * d), h // (width.heads // key_heads)
            key = slice(its * d, (its + 1) * d)
            q = self.prepared(queries[:, mine], f"{name}.query_norm")
            columns: list[np.ndarray] = []
            norms: list[np.ndarray] = []
            values: list[np.ndarray] = []
            seen: list[np.ndarray] = []
            for read, (keys, vs) in zip(group, projected, strict=True):
                k = self.prepared(keys[:, key], f"{name}.key_norm")
                seen.append(self.seen(read, stream)[h])
                values.append(self.unit(vs[:, key]) if a.norms.value else vs[:, key])
                linear = read.mixer == "linear"
                f, g = (_features(q), _features(k)) if linear else (q, k)
                norms.append(f @ g.T)
                if told and isinstance(positions, Rope):
                    f = _turned(f, self.standing(stream), positions.base)
                    g = _turned(g, self.standing(a.stream(read.keys)), positions.base)
                # As complex numbers, the product of a turned query and a turned key is the real part of q · k̄.
                product = np.real(f @ g.conj().T)
                columns.append(product if linear else self.scored(product, stream, read, h, d, told))
            scores, visible = np.concatenate(columns, axis=1), np.concatenate(seen, axis=1)
            if group[0].mixer == "linear":
                total = np.where(visible, np.concatenate(norms, axis=1), 0).sum(axis=1, keepdims=True)
                weights = np.where(visible, scores, 0) / np.where(total == 0, 1, total)
            else:
                weights = _softmax(np.where(visible, scores, -np.inf))
            out[:, mine] = weights @ np.concatenate(values)
        return self.project(self.unit(out) if a.norms.output else out, f"{name}.out")

    def prepared(self, x: np.ndarray, name: str) -> np.ndarray:
        if not self.a.norms.query_key:
            return x
        return self.unit(x) * (self.weights[name] if self.a.norms.query_key_weights else 1)

    def seen(self, read: Read, stream: Stream) -> np.ndarray:
        heads = self.a.width(stream).heads
        return mask(read.visibility, self.tokens[stream.name], self.tokens[read.keys], heads)

    def scored(
        self, product: np.ndarray, stream: Stream, read: Read, head: int, d_head: int, told: bool
    ) -> np.ndarray:
        """Scores of products: scaled, capped, and told distances by T5's or ALiBi's bias."""
        a = self.a
        scores = product * (a.scores.scale if a.scores.scale is not None else 1 / np.sqrt(d_head))
        if a.scores.soft_cap is not None:
            scores = a.scores.soft_cap * np.tanh(scores / a.scores.soft_cap)
        if not told or not isinstance(a.positions, RelativeBias | Alibi):
            return scores
        q, k = self.standing(stream), self.standing(a.stream(read.keys))
        bias = np.zeros_like(scores)
        for i, at in enumerate(q):
            for j, there in enumerate(k):
                if isinstance(a.positions, Alibi):
                    bias[i, j] = -_slope(head, a.width(stream).heads) * abs(at - there)
                else:
                    both = a.positions.directions == "both" or looks_ahead(a, stream.name)
                    number = _bucket(there - at, a.positions.buckets, a.positions.farthest, both)
                    bias[i, j] = self.weights[f"relative.{stream.name}"][number, head]
        return scores + bias


@lru_cache
def looks_ahead(a: Architecture, name: str) -> bool:
    """Whether some read that is told distances sees a later position, tried on 16 + 16 tokens one by one."""
    kind: Any = a.positions
    stream = a.stream(name)
    n = 16
    whole = [Token(p, 0, INPUT if p < n else OUTPUT) for p in range(2 * n)]
    held = {"input": whole[:n], "output": whole[n:], "both": whole}

    def stands(s: Stream, t: Token) -> int:
        return t.position - (n if s.holds == "output" and kind.across == "restarted" else 0)

    for read in (read for layer in stream.layers for read in layer.reads):
        if read.keys != stream.name and kind.across == "off":
            continue
        keys = a.stream(read.keys)
        for q in held[stream.holds]:
            for k in held[keys.holds]:
                heads = a.width(stream).heads
                if stands(keys, k) > stands(stream, q) and any(
                    sees(read.visibility, q, k, h, heads) for h in range(heads)
                ):
                    return True
    return False


def _bucket(distance: int, buckets: int, farthest: int, both: bool) -> int:
    """T5's bucket of a key `distance` places after its query, as its paper tells it."""
    start = 0
    if both:
        buckets //= 2
        start = buckets if distance > 0 else 0
        back = abs(distance)
    else:
        back = max(-distance, 0)
    exact = buckets // 2
    if back < exact:
        return start + back
    grown = exact + int(math.log(back / exact) / math.log(farthest / exact) * (buckets - exact))
    return start + min(grown, buckets - 1)


def _slope(head: int, heads: int) -> float:
    """ALiBi's slope: a geometric series that starts at its ratio; of other numbers than powers of 2, the rest
    are every second one of the next power's.
    """
    power = 1
    while power * 2 <= heads:
        power *= 2
    if head < power:
        return 2 ** (-8 * (head + 1) / power)
    return 2 ** (-8 * (2 * (head - power) + 1) / (2 * power))


def _turned(x: np.ndarray, positions: list[int], base: float) -> np.ndarray:
    """RoPE as its paper says it: pairs of components as complex numbers, turned by an angle for the
    position.
    """
    half = x.shape[1] // 2
    pairs = x[:, :half] + 1j * x[:, half:]
    return pairs * np.exp(1j * np.outer(positions, base ** (-np.arange(half) / half)))


def _features(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def _gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _softmax(scores: np.ndarray) -> np.ndarray:
    highest = scores.max(axis=1, keepdims=True)
    powers = np.exp(scores - np.where(np.isfinite(highest), highest, 0))
    total = powers.sum(axis=1, keepdims=True)
    return powers / np.where(total == 0, 1, total)  # who sees nothing reads zeros
