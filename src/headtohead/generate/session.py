"""A conversation: each turn reads only what the visibility rules don't let it keep of the turns before."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Literal

import torch

from headtohead.generate.engine import Engine
from headtohead.generate.prompts import Prompt, prompt_of
from headtohead.generate.requests import Event, Sampling, Written
from headtohead.generate.reuse import still_valid
from headtohead.model.batch import Tokens
from headtohead.model.visibility import OUTPUT


class Session:
    """Turns over one slot of an engine, which it holds until it is closed.

    `transcript`: all ids so far, as they stood, in the order in which they came. In a turn they are the beginning of
    the input part, before what is said now (`history = "output"`: of the output part, for a network that learnt whole
    texts as outputs). After a turn began, `kept` and `read` say how many tokens of each stream were kept and read.
    """

    def __init__(self, engine: Engine, history: Literal["input", "output"] = "input") -> None:
        self.engine = engine
        self.transcript: list[int] = []
        self.kept: dict[str, int] = {}
        self.read: dict[str, int] = {}
        self._slot: int | None = engine.hold()
        self._history = history
        self._held: Prompt | None = None
        self._opening: list[int] = []

    def close(self) -> None:
        """Give the slot back; no turn can follow."""
        if self._slot is not None:
            self.engine.give_back(self._slot)
        self._slot = None

    def forget(self, keep: int) -> None:
        """Drop all but the last `keep` ids of the transcript; the next turn reads what is left anew."""
        self.transcript = self.transcript[len(self.transcript) - keep :] if keep > 0 else []
        self._held = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def prompt(self, given: Sequence[int], begun: Sequence[int] = ()) -> Prompt:
        """What a turn is read as: the transcript, then `given` of the input part and `begun` of the output part.

        Raises:
            UserError: too long for learned positions, or nothing there to begin with.
        """
        a = self.engine.runner.architecture
        if self._history == "input":
            return prompt_of(a, [*self.transcript, *given], begun)
        opening = self._opening if self.transcript else list(given)
        return prompt_of(a, opening, [*self.transcript, *begun])

    def ask(
        self, given: Sequence[int], begun: Sequence[int], sampling: Sampling
    ) -> Generator[Event, None, None]:
        """One turn: its events, of one choice. What was read and written is part of the transcript once the events
        end, or their iterator is closed early.

        Raises:
            UserError: as `Engine.add`; the transcript is then as it was.
        """
        if self._slot is None:
            raise ValueError("the session is closed")
        if sampling.rows > 1:
            raise ValueError("a turn has one choice")
        prompt = self.prompt(given, begun)
        self.engine.check(prompt, sampling)
        kept = {} if self._held is None else still_valid(self.engine.runner.architecture, self._held, prompt)
        last = self.engine.runner.architecture.output_stream.name
        kept[last] = min(kept.get(last, 0), prompt[last].ids.shape[1] - 1)
        self.kept = {name: kept.get(name, 0) for name in prompt}
        self.read = {name: tokens.ids.shape[1] - self.kept[name] for name, tokens in prompt.items()}
        return self._answer(prompt, given, begun, sampling)

    def _answer(
        self, prompt: Prompt, given: Sequence[int], begun: Sequence[int], sampling: Sampling
    ) -> Generator[Event, None, None]:
        slot = self._slot
        assert slot is not None
        number = self.engine.add(prompt, sampling, slot=slot, kept=self.kept)
        written = Written([])
        self._held = None  # until the slot holds this turn, it holds nothing that is known
        began = False
        try:
            while written.finished is None:
                for event in self.engine.step():
                    if event.request == number:
                        began = True
                        written.take(event)
                        yield event
        finally:
            self.engine.cancel(number)
            if began:
                self._held = _fed(prompt, written.tokens, self.engine.runner.lengths(slot))
                if self._history == "input":
                    self.transcript += [*given, *begun, *written.tokens]
                else:
                    self._opening = self._opening if self.transcript else list(given)
                    self.transcript += [*begun, *written.tokens]


def _fed(prompt: Prompt, written: Sequence[int], lengths: Mapping[str, int]) -> Prompt:
    """What a slot holds after a turn: the prompt, and what was written as far as it was read again."""
    found: dict[str, Tokens] = {}
    for name, tokens in prompt.items():
        more = lengths[name] - tokens.ids.shape[1]
        if more <= 0:
            found[name] = tokens.map(lambda field, n=lengths[name]: field[:, :n])
            continue
        count = torch.arange(1, more + 1)[None]
        zero = torch.zeros_like(count)
        ids = torch.tensor([list(written[:more])])
        new = (ids, tokens.position[:, -1:] + count, zero, zero + OUTPUT, tokens.step[:, -1:] + count)
        old = (tokens.ids, tokens.position, tokens.document, tokens.part, tokens.step)
        found[name] = Tokens(*(torch.cat(pair, dim=1) for pair in zip(old, new, strict=True)))
    return found
