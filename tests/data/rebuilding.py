"""A window put together again from an example, as each objective promises."""

from headtohead.data.objectives import Codes
from headtohead.data.shards import SPECIAL, Example
from headtohead.data.tokenizers import Tokenizer


def from_holes(e: Example) -> list[int]:
    """Answers put at their places."""
    assert e.where is not None and e.in_place
    seen = [*e.input.tolist(), *e.shown.tolist()]
    for place, answer in zip(e.where.tolist(), e.output.tolist(), strict=True):
        seen[place] = answer
    return seen


def from_places(e: Example) -> list[int]:
    """Each stretch of the output put in place of the token of the input that it stands for."""
    assert e.where is not None and not e.in_place
    spans: dict[int, list[int]] = {}
    for place, token in zip(e.where.tolist(), e.output.tolist(), strict=True):
        if place != SPECIAL:
            spans.setdefault(place, []).append(token)
    return [x for i, token in enumerate(e.input.tolist()) for x in spans.get(i, [token])]


def from_sentinels(e: Example, codes: Codes) -> list[int]:
    """As a reader of T5's output would: by the sentinels alone."""
    known = set(codes.sentinels)
    spans: dict[int, list[int]] = {}
    at = -1
    for token in e.output.tolist():
        if token in known:
            at = token
            spans[at] = []
        else:
            spans[at].append(token)
    return [x for token in e.input.tolist() for x in spans.get(token, [token])]


def text(ids: list[int], tokenizer: Tokenizer) -> str:
    return tokenizer.decode(ids)
