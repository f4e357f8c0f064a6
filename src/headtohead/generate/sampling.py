"""The next token of each row, from its logits.

Chance is a function of (seed, choice, step) alone: whatever else is in the batch, a request's draws are its own. The
probabilities are summed in fp64 in a fixed order, so that equal logits give equal tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headtohead.data.objectives.base import Draws
from headtohead.generate.requests import Sampling


@dataclass
class Drawing:
    """What choosing needs to know of a row: how, its seed and choice, how many tokens it wrote, and which ids its
    stream holds (where there is a penalty for them).
    """

    how: Sampling
    seed: int
    choice: int = 0
    step: int = 0
    there: set[int] = field(default_factory=set)

    def uniform(self) -> float:
        """The step's number of [0, 1)."""
        return Draws(self.seed, f"{self.choice} {self.step}").uniform()


@dataclass(frozen=True)
class Chosen:
    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def choose(logits: Tensor, rows: Sequence[Drawing], never: Tensor | None = None) -> list[Chosen]:
    """One token for each row of logits (R, V), which may be changed. `never`: ids that can't be chosen."""
    told = _told(logits, rows)
    if never is not None:
        logits[:, never] = float("-inf")
    penalise(logits, rows)
    drawn = [r for r, row in enumerate(rows) if row.how.temperature > 0]
    tokens: list[int] = logits.argmax(dim=-1).tolist() if len(drawn) < len(rows) else [0] * len(rows)
    # A row's number is looked up along its tokens in their order, or by probability where some are filtered out:
    # which of the two depends on the row alone.
    for filtered in (False, True):
        some = [r for r in drawn if filtered == (_filters(rows[r].how) != NO_FILTERS)]
        if some:
            found = _draw(
                logits if len(some) == len(rows) else logits[some], [rows[r] for r in some], filtered
            )
            for r, token in zip(some, found, strict=True):
                tokens[r] = token
    if told is None:
        return [Chosen(token) for token in tokens]
    logprobs, asked = told
    chosen: list[Chosen] = []
    for r, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        if row.how.logprobs is None:
            chosen.append(Chosen(token))
            continue
        mine = logprobs[asked[r]]
        count = min(row.how.logprobs, mine.shape[0])
        values, ids = mine.topk(count) if count else (mine[:0], mine[:0])
        top = tuple((int(i), float(v)) for i, v in zip(ids.tolist(), values.tolist(), strict=True))
        chosen.append(Chosen(token, float(mine[token]), top))
    return chosen


def penalise(logits: Tensor, rows: Sequence[Drawing]) -> None:
    """Apply each row's repetition penalty, in place."""
    for r, row in enumerate(rows):
        penalty = row.how.repetition_penalty
        if penalty != 1.0 and row.there:
            ids = torch.tensor(sorted(row.there), device=logits.device)
            old = logits[r, ids]
            logits[r, ids] = torch.where(old > 0, old / penalty, old * penalty)


def _told(logits: Tensor, rows: Sequence[Drawing]) -> tuple[Tensor, dict[int, int]] | None:
    """ln p by the network itself, of the rows that ask for it."""
    asked = [r for r, row in enumerate(rows) if row.how.logprobs is not None]
    if not asked:
        return None
    return logits[asked].double().log_softmax(dim=-1), {r: at for at, r in enumerate(asked)}


NO_FILTERS = (0, 1.0, 0.0)


def _filters(how: Sampling) -> tuple[int, float, float]:
    return how.top_k, how.top_p, how.min_p


def _draw(logits: Tensor, rows: Sequence[Drawing], filtered: bool) -> list[int]:
    """A token for each row by its uniform number: the first whose cumulative probability is above it."""
    device = logits.device
    heat = torch.tensor([row.how.temperature for row in rows], dtype=torch.float64, device=device)
    scores = logits.double()
    scores = (scores - scores.amax(dim=-1, keepdim=True)) / heat[:, None]
    order = None
    if filtered:
        scores, order = scores.sort(dim=-1, descending=True, stable=True)
    p = scores.softmax(dim=-1)
    if order is not None:
        size = p.shape[-1]
        k, top, least = zip(*(_filters(row.how) for row in rows), strict=True)
        k = torch.tensor([each or size for each in k], device=device)[:, None]
        p = p * (torch.arange(size, device=device) < k)
        before = p.cumsum(dim=-1) - p
        top = torch.tensor(top, dtype=torch.float64, device=device)[:, None] * p.sum(dim=-1, keepdim=True)
        p = p * ((before < top) | (top >= p.sum(dim=-1, keepdim=True)))
        p = p * (p >= torch.tensor(least, dtype=torch.float64, device=device)[:, None] * p[:, :1])
    sums = p.cumsum(dim=-1)
    uniform = torch.tensor([row.uniform() for row in rows], dtype=torch.float64, device=device)
    at = torch.searchsorted(sums, (uniform * sums[:, -1])[:, None], right=True)
    # Never beyond the last token that has any probability, whatever rounding does to the sum.
    last = (p > 0).long().mul(torch.arange(p.shape[-1], device=device)).amax(dim=-1, keepdim=True)
    at = torch.minimum(at, last)
    return (at if order is None else order.gather(1, at))[:, 0].tolist()
