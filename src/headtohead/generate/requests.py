"""What is asked of a network that writes, and what it answers, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from headtohead.model.parts import Frozen, Listed

MOST_LOGPROBS = 100

Finish = Literal["stop", "length"]
"""stop: an end of the network's, a stop id or a stop string. length: `max_tokens` were written."""


class Sampling(Frozen):
    """How to write. With temperature 0 always the likeliest token (greedy), else a draw, from the tokens that are
    left by top_k (so many likeliest), top_p (the likeliest that hold this probability together: Holtzman et al.,
    arXiv 1904.09751) and min_p (at least this share of the likeliest one's: arXiv 2407.01082), in that order, after
    the temperature.

    repetition_penalty: logits of tokens that the output's stream holds already are divided by it where above 0 and
    multiplied below (Keskar et al., arXiv 1909.05858). seed: the draw at each step is a function of it, of the
    choice's number and of the step alone; None takes one at random. stop: strings that end the text, which is cut
    before them. stop_ids: tokens that do, beside the network's own ends. logprobs: give ln p of each token, and of so
    many likeliest ones, by the network itself (before penalty, temperature and filters). n: how many choices.
    beams: search for the likeliest text among so many at once; the n best are given, by the sum of ln p divided by
    length ** length_penalty.
    """

    max_tokens: PositiveInt = 64
    temperature: float = Field(default=0.0, ge=0, le=100)
    top_k: NonNegativeInt = 0
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, lt=1)
    repetition_penalty: float = Field(default=1.0, gt=0, le=100)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stop: Listed[str] = ()
    stop_ids: Listed[NonNegativeInt] = ()
    logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)
    n: PositiveInt = 1
    beams: PositiveInt = 1
    length_penalty: float = Field(default=1.0, ge=-10, le=10)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(not text for text in self.stop):
            raise ValueError("a stop string is empty: it would stop everything")
        if self.beams > 1 and self.temperature > 0:
            raise ValueError(
                f"temperature = {self.temperature:g} with beams = {self.beams}: a beam search draws nothing, set "
                "temperature = 0"
            )
        if self.beams > 1 and self.n > self.beams:
            raise ValueError(
                f"n = {self.n} with beams = {self.beams}: a beam search keeps no more texts than beams"
            )
        if self.beams > 1 and self.logprobs is not None:
            raise ValueError("logprobs are not given with a beam search, which tells each text's score")
        if self.beams == 1 and self.n > 1 and self.temperature == 0:
            raise ValueError(f"n = {self.n} without a temperature: the same text {self.n} times; set one")
        return self

    @property
    def rows(self) -> int:
        """Slots that it takes."""
        return max(self.n, self.beams)


@dataclass(frozen=True)
class Event:
    """What a step gave one choice of a request.

    tokens: ids that were written, without the end (one; all of them at once from a beam search; none where it ends).
    text: what can be told by now: text that may turn out to belong to a stop string, or to a character that isn't
    whole, is held back. logprob, top: as asked for. finished: it is the choice's last event. score: of a beam
    search's text.
    """

    request: int
    choice: int
    tokens: tuple[int, ...] = ()
    text: str = ""
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finished: Finish | None = None
    score: float | None = None


@dataclass
class Written:
    """One choice, whole: its tokens without the end, its text, and for each token what was asked for."""

    tokens: list[int]
    text: str = ""
    logprobs: list[float] | None = None
    top: list[tuple[tuple[int, float], ...]] | None = None
    finished: Finish | None = None
    score: float | None = None

    def take(self, event: Event) -> None:
        """Add an event of this choice."""
        self.tokens.extend(event.tokens)
        self.text += event.text
        if event.logprob is not None:
            self.logprobs = [*(self.logprobs or []), event.logprob]
            self.top = [*(self.top or []), event.top]
        self.finished, self.score = event.finished, event.score
