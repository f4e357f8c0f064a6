"""Beam search: the likeliest texts, several at a time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Hypothesis:
    """A text that is whole: its tokens without the end, its score, and whether it ended by itself."""

    tokens: list[int]
    score: float
    ended: bool


@dataclass
class Beams:
    """The state of one search. The score of a text is the sum of its tokens' ln p, its end's among them, divided by
    (their number) ** length_penalty.

    It goes on until as many texts as there are beams are whole and no unfinished one can better the worst of them
    (of a positive penalty that isn't known before the longest is there, so it's judged by the best it can come to),
    or until `max_tokens`.
    """

    width: int
    length_penalty: float
    max_tokens: int
    ends: Collection[int]
    written: list[list[int]] = field(default_factory=lambda: [[]])
    scores: list[float] = field(default_factory=lambda: [0.0])
    whole: list[Hypothesis] = field(default_factory=list)
    done: bool = False

    def advance(self, logprobs: Tensor) -> tuple[list[int], list[int]]:
        """Take ln p (rows, V) of the next token of each unfinished text; returns, for each text that goes on, the
        row that it goes on from and its new token. Empty once the search is `done`.
        """
        total = torch.tensor(self.scores, dtype=torch.float64, device=logprobs.device)[:, None] + logprobs
        size = total.shape[1]
        count = min((1 + len(self.ends)) * self.width, total.numel())
        values, places = total.flatten().topk(count)
        rows: list[int] = []
        tokens: list[int] = []
        scores: list[float] = []
        for rank, (value, place) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
            if value == float("-inf"):
                break
            row, token = divmod(place, size)
            if token in self.ends:
                if rank < self.width:
                    self._keep(self.written[row], value, 1, True)
            elif len(rows) < self.width:
                rows.append(row)
                tokens.append(token)
                scores.append(value)
        self.written = [[*self.written[row], token] for row, token in zip(rows, tokens, strict=True)]
        self.scores = scores
        long = bool(self.written) and len(self.written[0]) >= self.max_tokens
        if long:
            for tokens_of, score in zip(self.written, self.scores, strict=True):
                self._keep(tokens_of, score, 0, False)
        self.done = long or not rows or (len(self.whole) >= self.width and not self._can_improve())
        return ([], []) if self.done else (rows, tokens)

    def best(self, n: int) -> list[Hypothesis]:
        """The n best whole texts, best first."""
        return sorted(self.whole, key=lambda text: -text.score)[:n]

    def _keep(self, tokens: list[int], total: float, end: int, ended: bool) -> None:
        self.whole.append(Hypothesis(tokens, total / self._divisor(len(tokens) + end), ended))
        self.whole = self.best(self.width)

    def _divisor(self, length: int) -> float:
        return max(length, 1) ** self.length_penalty

    def _can_improve(self) -> bool:
        longest = self.max_tokens if self.length_penalty > 0 else len(self.written[0]) + 1
        return max(self.scores) / self._divisor(longest) > min(text.score for text in self.whole)
