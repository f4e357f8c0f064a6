"""Who may see whom: visibility as an object built from small rules.

A visibility is a relation between the coordinates of a query token and those of a key token, for a head of a
layer. It is written the way it is said, ``prefix & same_document`` or ``by_head(causal, anticausal)``, and
from that one object come the dense mask, the mask function of FlexAttention, the exact count of visible
pairs, the reach of a network (`reach.py`) and the drawing. Nothing here imports torch: the rules are
comparisons and Boolean operators alone, so the same code runs on NumPy arrays and on tensors.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np

from headtohead.errors import UserError

INPUT, OUTPUT = 0, 1
PADDING = -1
"""The document number of a place that holds no token."""

ROWS_AT_ONCE = 1024
"""Queries per slice when counting by pairs, so that long rows are counted in constant memory."""

FAR = 2**62
"""A position beyond every other."""

Spans = list[tuple[Any, Any]]
"""Stretches of key positions, first and after last, for each query (NumPy arrays (T,) or numbers)."""


class Coordinates(NamedTuple):
    """Where each token stands: integer arrays of one shape (..., T), NumPy arrays or tensors.

    `position` counts within a document, over both streams; `document` numbers the documents of a row
    (`PADDING` where there is no token); `part` is `INPUT` or `OUTPUT`.
    """

    position: Any
    document: Any
    part: Any

    def queries(self) -> Coordinates:
        """The same coordinates as (..., T, 1), to be compared with `keys()`."""
        return Coordinates(*(array[..., :, None] for array in self))

    def keys(self) -> Coordinates:
        """The same coordinates as (..., 1, T)."""
        return Coordinates(*(array[..., None, :] for array in self))


def sequence(input_length: int, output_length: int) -> Coordinates:
    """The coordinates (NumPy) of one document: `input_length` tokens, then `output_length` of output."""
    total = input_length + output_length
    part = np.repeat([INPUT, OUTPUT], [input_length, output_length])
    return Coordinates(np.arange(total), np.zeros(total, dtype=np.int64), part)


class Visibility:
    """A rule, or rules joined by `&` and `|`. Immutable, hashable; `str` and `parse` are inverse."""

    def holds(self, q: Coordinates, k: Coordinates, head: Any, heads: int) -> Any:
        """Whether a query sees a key in head number `head` of `heads`; arrays broadcast."""
        raise NotImplementedError

    @property
    def differs_by_head(self) -> bool:
        return False

    @property
    def shares(self) -> int:
        """How many heads there must be, for every share to get one."""
        return 1

    def __and__(self, other: Visibility) -> Visibility:
        return Both(self, other)

    def __or__(self, other: Visibility) -> Visibility:
        return Either(self, other)

    def dense(self, q: Coordinates, k: Coordinates, heads: int = 1) -> Any:
        """The mask, Boolean, (..., H, Tq, Tk) where H is `heads` if heads differ and 1 if they are alike.

        Padding neither sees nor is seen.
        """
        queries = Coordinates(*(array[..., None, :, None] for array in q))
        keys = Coordinates(*(array[..., None, None, :] for array in k))
        head = _counting_like(q.position, heads if self.differs_by_head else 1)[:, None, None]
        real = (queries.document != PADDING) & (keys.document != PADDING)
        return self.holds(queries, keys, head, heads) & real

    def mask_mod(self, q: Coordinates, k: Coordinates, heads: int) -> Callable[[Any, Any, Any, Any], Any]:
        """The same mask as a `mask_mod(batch, head, query, key)` for `torch.nn.attention.flex_attention`.

        `q` and `k` are tensors (B, T).
        """

        def visible(b: Any, h: Any, i: Any, j: Any) -> Any:
            queries = Coordinates(*(array[b, i] for array in q))
            keys = Coordinates(*(array[b, j] for array in k))
            real = (queries.document != PADDING) & (keys.document != PADDING)
            return self.holds(queries, keys, h, heads) & real

        return visible

    def spans(self, q: Coordinates, split: int, head: int, heads: int) -> Spans:
        """Which positions of a query's own document it sees: stretches that may overlap, empty where the end
        is not after the beginning. q (T,), NumPy; `split`: the position of the first token of the output.
        """
        raise NotImplementedError

    def count(self, q: Coordinates, k: Coordinates, heads: int = 1) -> int:
        """How many (query, key, head) triples are visible: exact.

        In time linear in the number of queries for one document (its input and output one after the other, or
        one of them); pair by pair, in constant memory, for other rows.
        """
        if (split := _one_document(q, k)) is not None:
            return self._count_spans(q, k, split, heads)
        times = 1 if self.differs_by_head else heads
        total = 0
        for start in range(0, q.position.shape[-1], ROWS_AT_ONCE):
            some = Coordinates(*(array[..., start : start + ROWS_AT_ONCE] for array in q))
            total += int(self.dense(some, k, heads).sum())
        return total * times

    def _count_spans(self, q: Coordinates, k: Coordinates, split: int, heads: int) -> int:
        if not len(q.position) or not len(k.position):
            return 0
        beginning, end = int(k.position[0]), int(k.position[-1]) + 1
        total = 0
        for head in range(heads) if self.differs_by_head else (0,):
            found = self.spans(q, split, head, heads)
            ones = np.ones_like(q.position)
            first = np.stack([np.clip(low * ones, beginning, end) for low, _ in found])
            last = np.stack([np.clip(high * ones, beginning, end) for _, high in found])
            order = np.argsort(first, axis=0)
            first, last = (np.take_along_axis(edges, order, axis=0) for edges in (first, last))
            covered = np.full_like(q.position, beginning)
            for low, high in zip(first, last, strict=True):
                total += int(np.maximum(high - np.maximum(low, covered), 0).sum())
                covered = np.maximum(covered, high)
        return total * (1 if self.differs_by_head else heads)

    def append_only(self, q: Coordinates, k: Coordinates, heads: int = 1) -> bool:
        """Whether no query sees a later position: then tokens can be appended and all caches kept."""
        later = k.position[..., None, None, :] > q.position[..., None, :, None]
        return not bool((self.dense(q, k, heads) & later).any())

    @staticmethod
    def parse(text: str) -> Visibility:
        """Read a visibility as it is written in a file, such as ``(causal | key_is_input) & same_document``.

        Raises:
            UserError: naming the word that is not a rule, or the argument that does not fit.
        """
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except SyntaxError as error:
            raise UserError(f"visibility '{text}' can't be read: write rules joined by & and |") from error
        return _read(tree, text)


@dataclass(frozen=True)
class Rule(Visibility):
    """A named relation between one query and one key."""

    name: str
    relation: Callable[[Coordinates, Coordinates], Any]
    span: Callable[[Coordinates, int], tuple[Any, Any]]
    """The one stretch of positions that a query sees of its document, given where the output begins."""

    def spans(self, q: Coordinates, split: int, head: int, heads: int) -> Spans:
        return [self.span(q, split)]

    def holds(self, q: Coordinates, k: Coordinates, head: Any, heads: int) -> Any:
        return self.relation(q, k)

    def __str__(self) -> str:
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rule) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True)
class Both(Visibility):
    """Visible under both rules."""

    left: Visibility
    right: Visibility

    def holds(self, q: Coordinates, k: Coordinates, head: Any, heads: int) -> Any:
        return self.left.holds(q, k, head, heads) & self.right.holds(q, k, head, heads)

    def spans(self, q: Coordinates, split: int, head: int, heads: int) -> Spans:
        return [
            (np.maximum(low, other_low), np.minimum(high, other_high))
            for low, high in self.left.spans(q, split, head, heads)
            for other_low, other_high in self.right.spans(q, split, head, heads)
        ]

    @property
    def differs_by_head(self) -> bool:
        return self.left.differs_by_head or self.right.differs_by_head

    @property
    def shares(self) -> int:
        return max(self.left.shares, self.right.shares)

    def __str__(self) -> str:
        left = f"({self.left})" if isinstance(self.left, Either) else str(self.left)
        # & and | bind to the left: a right side of the same kind needs its brackets to be read back as it is.
        right = f"({self.right})" if isinstance(self.right, (Both, Either)) else str(self.right)
        return f"{left} & {right}"


@dataclass(frozen=True)
class Either(Visibility):
    """Visible under one rule or the other."""

    left: Visibility
    right: Visibility

    def holds(self, q: Coordinates, k: Coordinates, head: Any, heads: int) -> Any:
        return self.left.holds(q, k, head, heads) | self.right.holds(q, k, head, heads)

    def spans(self, q: Coordinates, split: int, head: int, heads: int) -> Spans:
        return self.left.spans(q, split, head, heads) + self.right.spans(q, split, head, heads)

    @property
    def differs_by_head(self) -> bool:
        return self.left.differs_by_head or self.right.differs_by_head

    @property
    def shares(self) -> int:
        return max(self.left.shares, self.right.shares)

    def __str__(self) -> str:
        right = f"({self.right})" if isinstance(self.right, Either) else str(self.right)
        return f"{self.left} | {right}"


@dataclass(frozen=True)
class ByHead(Visibility):
    """The heads in shares, in order, each share under a rule of its own. `parts`: how large each share is
    against the others, equal if left out.
    """

    rules: tuple[Visibility, ...]
    parts: tuple[int, ...] = ()

    def holds(self, q: Coordinates, k: Coordinates, head: Any, heads: int) -> Any:
        visible = None
        for (first, last), rule in zip(self.bounds(heads), self.rules, strict=True):
            mine = (head >= first) & (head < last) & rule.holds(q, k, head, heads)
            visible = mine if visible is None else visible | mine
        return visible

    def spans(self, q: Coordinates, split: int, head: int, heads: int) -> Spans:
        bounds = zip(self.bounds(heads), self.rules, strict=True)
        rule = next(rule for (first, last), rule in bounds if first <= head < last)
        return rule.spans(q, split, head, heads)

    def bounds(self, heads: int) -> list[tuple[int, int]]:
        """For each rule the first of its heads and the one after its last."""
        parts = self.parts or (1,) * len(self.rules)
        edges = [heads * sum(parts[:index]) // sum(parts) for index in range(len(parts) + 1)]
        return list(pairwise(edges))

    @property
    def differs_by_head(self) -> bool:
        return True

    @property
    def shares(self) -> int:
        parts = self.parts or (1,) * len(self.rules)
        return max(-(-sum(parts) // min(parts)), *(rule.shares for rule in self.rules))

    def __str__(self) -> str:
        parts = self.parts or (1,) * len(self.rules)
        shares = (_share(part, rule) for part, rule in zip(parts, self.rules, strict=True))
        return f"by_head({', '.join(shares)})"


def _share(part: int, rule: Visibility) -> str:
    if part == 1:
        return str(rule)
    return f"{part} * ({rule})" if isinstance(rule, Both | Either) else f"{part} * {rule}"


causal = Rule("causal", lambda q, k: k.position <= q.position, lambda q, split: (-FAR, q.position + 1))
anticausal = Rule("anticausal", lambda q, k: k.position >= q.position, lambda q, split: (q.position, FAR))
full = Rule(
    "full",
    lambda q, k: (k.position == k.position) & (q.position == q.position),
    lambda q, split: (-FAR, FAR),
)
key_is_input = Rule(
    "key_is_input", lambda q, k: (k.part == INPUT) & (q.part == q.part), lambda q, split: (-FAR, split)
)
prefix = Rule(
    "prefix",
    lambda q, k: (k.position <= q.position) | (k.part == INPUT),
    lambda q, split: (-FAR, np.maximum(q.position + 1, split)),
)
"""UniLM's sequence-to-sequence mask: everybody sees the whole input, the output is causal."""
backward_input = Rule(
    "backward_input",
    lambda q, k: (
        ((q.part == INPUT) & (k.part == INPUT) & (k.position >= q.position))
        | ((q.part != INPUT) & (k.position <= q.position))
    ),
    lambda q, split: (
        np.where(q.part == INPUT, q.position, -FAR),
        np.where(q.part == INPUT, split, q.position + 1),
    ),
)
"""The mirror image of causal over the input of one stack: its tokens see themselves and the input after them; the
output is causal, and sees the whole input.
"""
same_document = Rule("same_document", lambda q, k: k.document == q.document, lambda q, split: (-FAR, FAR))
same_part = Rule(
    "same_part",
    lambda q, k: k.part == q.part,
    lambda q, split: (np.where(q.part == INPUT, -FAR, split), np.where(q.part == INPUT, split, FAR)),
)


def window(size: int) -> Rule:
    """Keys fewer than `size` positions away, on either side."""
    return Rule(
        f"window({size})",
        lambda q, k: (q.position - k.position < size) & (k.position - q.position < size),
        lambda q, split: (q.position - size + 1, q.position + size),
    )


def same_block(size: int) -> Rule:
    """Keys in the query's own block of `size` positions."""
    return Rule(
        f"same_block({size})",
        lambda q, k: q.position // size == k.position // size,
        lambda q, split: (q.position // size * size, q.position // size * size + size),
    )


def earlier_block(size: int) -> Rule:
    """Keys in a block of `size` positions before the query's own."""
    return Rule(
        f"earlier_block({size})",
        lambda q, k: k.position // size < q.position // size,
        lambda q, split: (-FAR, q.position // size * size),
    )


def conjuncts(rule: Visibility) -> frozenset[Visibility]:
    """The rules that `&` joins."""
    return conjuncts(rule.left) | conjuncts(rule.right) if isinstance(rule, Both) else frozenset((rule,))


def linear_form(rule: Visibility) -> Rule | None:
    """The rule whose sums linear attention takes in one pass, within each document: `causal`, `anticausal`,
    `full` or `prefix`; None where a visibility is none of these.
    """
    rest = conjuncts(rule) - {same_document}
    return next((form for form in (causal, anticausal, full, prefix) if rest == {form}), None)


def by_head(*rules: Visibility) -> ByHead:
    """Equal shares of the heads, in order, under each rule: `by_head(causal, anticausal)`. Other shares are
    written `by_head(3 * causal, anticausal)` and read by `parse`.
    """
    return ByHead(rules)


WORDS: dict[str, Rule] = {
    rule.name: rule
    for rule in (causal, anticausal, full, key_is_input, prefix, backward_input, same_document, same_part)
}
SIZED: dict[str, Callable[[int], Rule]] = {
    "window": window,
    "same_block": same_block,
    "earlier_block": earlier_block,
}


def _read(node: ast.expr, text: str) -> Visibility:
    match node:
        case ast.BinOp(left=left, op=ast.BitAnd(), right=right):
            return Both(_read(left, text), _read(right, text))
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Either(_read(left, text), _read(right, text))
        case ast.Name(id=name) if name in WORDS:
            return WORDS[name]
        case ast.Call(func=ast.Name(id="by_head"), args=rules, keywords=[]) if len(rules) >= 2:
            parts = tuple(map(_part, rules))
            found = tuple(_read(_unweighted(rule), text) for rule in rules)
            return ByHead(found) if set(parts) == {1} else ByHead(found, parts)
        case ast.Call(func=ast.Name(id="by_head")):
            raise UserError(
                f"visibility '{text}': by_head takes two rules or more, as in by_head(causal, anticausal) or "
                "by_head(3 * causal, anticausal)"
            )
        case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=size)], keywords=[]) if name in SIZED:
            if isinstance(size, int) and not isinstance(size, bool) and size > 0:
                return SIZED[name](size)
            raise UserError(
                f"visibility '{text}': {name} takes a positive whole number of positions, not {size!r}"
            )
    part = ast.get_source_segment(text.strip(), node) or text
    word = cast(str, getattr(getattr(node, "func", node), "id", part))
    known = [*WORDS, *(f"{name}(N)" for name in SIZED), "by_head(A, B)"]
    near = difflib.get_close_matches(word, [*WORDS, *SIZED, "by_head"], n=1)
    hint = f"did you mean '{near[0]}'? " if near and near[0] != word else ""
    raise UserError(f"visibility '{text}': '{part}' is not a rule; {hint}the rules are {', '.join(known)}")


def _one_document(q: Coordinates, k: Coordinates) -> int | None:
    """Where the output begins, if both are stretches of one document, counted through; else None."""
    if not isinstance(q.position, np.ndarray) or q.position.ndim != 1:
        return None
    for some in (q, k):
        steps = (np.diff(some.position) == 1).all() and (np.diff(some.part) >= 0).all()
        if not steps or (some.document != 0).any():
            return None
    outputs = [int(some.position[some.part == OUTPUT][0]) for some in (q, k) if (some.part == OUTPUT).any()]
    inputs = [int(some.position[some.part == INPUT][-1]) + 1 for some in (q, k) if (some.part == INPUT).any()]
    # The two parts must meet, or the positions between them belong to neither.
    found = {*outputs, *inputs}
    if len(found) > 1:
        return None
    return found.pop() if found else 0


def _part(node: ast.expr) -> int:
    """How large a share of the heads `3 * rule` asks for, against the others."""
    match node:
        case ast.BinOp(left=ast.Constant(value=int(part)), op=ast.Mult()) if part > 0 and part is not True:
            return part
    return 1


def _unweighted(node: ast.expr) -> ast.expr:
    match node:
        case ast.BinOp(left=ast.Constant(value=int(part)), op=ast.Mult(), right=rule) if part > 0:
            return rule
    return node


def _counting_like(array: Any, length: int) -> Any:
    """0, 1, … `length` - 1 in the library, and on the device, of `array`."""
    if isinstance(array, np.ndarray):
        return np.arange(length)
    return array.new_ones(length).cumsum(0) - 1
