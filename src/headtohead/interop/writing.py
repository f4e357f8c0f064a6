"""A loaded network that writes text: `headtohead generate` and `chat`."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Literal

import torch

from headtohead.errors import UserError
from headtohead.generate.engine import Engine
from headtohead.generate.filling import fill
from headtohead.generate.prompts import Prompt, prompt_of
from headtohead.generate.quantizing import quantize
from headtohead.generate.requests import Event, Sampling
from headtohead.generate.runners import make_runner
from headtohead.generate.running import Precision
from headtohead.generate.session import Session
from headtohead.interop.loading import Model
from headtohead.interop.own import fills
from headtohead.train.runtime import to_stderr

HOLE = re.compile(r"<mask>|\[MASK\]")
"""How a hole is written in a text, whatever the network's own token for it is called."""


class Writer:
    """A network with an engine of `slots` rows with room for `context` tokens each, in a type and perhaps in int8.

    Raises:
        UserError: a type or quantization that isn't known, or that needs a package.
    """

    def __init__(
        self,
        model: Model,
        slots: int,
        context: int,
        precision: str = "bf16",
        quantized: str | None = None,
        threads: int | None = None,
        notice: Callable[[str], None] = to_stderr,
    ) -> None:
        if precision not in ("fp32", "bf16"):
            raise UserError(f"--precision {precision}: it should be bf16 or fp32")
        if quantized not in (None, "int8"):
            raise UserError(f"--quantize {quantized}: it should be int8")
        self.model = model
        a = model.architecture
        if threads is not None:
            torch.set_num_threads(threads)
        self.fills = fills(a, model.frame)
        self.network, values = model.network, None
        if quantized is not None:
            self.network, values = quantize(model.network)
        self.engine: Engine | None = None
        if not self.fills:
            kind: Precision = "bf16" if precision == "bf16" else "fp32"
            room = {s.name: context if a.context is None else min(context, a.context) for s in a.streams}
            runner = make_runner(
                self.network, slots, room, precision=kind, quantized=values, threads=threads, notice=notice
            )
            tokenizer = model.tokenizer
            self.engine = Engine(
                runner,
                ends=model.frame.ends,
                never=model.frame.never,
                decode=lambda ids: tokenizer.decode(ids),
            )

    def prompt(self, text: str, begun: str = "") -> Prompt:
        """A text as the network's input, and the beginning of its output."""
        given, start = self.model.frame.around(self.model.tokenizer.encode(text))
        return prompt_of(self.model.architecture, given, [*start, *self.model.tokenizer.encode(begun)])

    def writes(self) -> Engine:
        """The engine.

        Raises:
            UserError: the network fills holes.
        """
        if self.engine is None:
            raise UserError(
                f"{self.model.architecture.name} fills holes: write <mask> where it should put a token"
            )
        return self.engine

    def events(self, prompts: Sequence[Prompt], sampling: Sampling) -> Iterator[tuple[int, Event]]:
        """The events of all prompts, each with the prompt's number."""
        engine = self.writes()
        for prompt in prompts:
            engine.check(prompt, sampling)
        numbers = {engine.add(prompt, sampling): at for at, prompt in enumerate(prompts)}
        for event in engine.run():
            yield numbers[event.request], event

    def filled(self, text: str, sampling: Sampling) -> str:
        """A text with its holes (`<mask>`) filled, the surest first.

        Raises:
            UserError: there is no hole in the text, or the network has no token for one.
        """
        frame, tokenizer = self.model.frame, self.model.tokenizer
        name = self.model.architecture.name
        if frame.mask is None:
            raise UserError(f"{name} has no token for a hole, so it can't fill any")
        parts = HOLE.split(text)
        if len(parts) == 1:
            raise UserError(f"{name} fills holes, and there is none in the text: write <mask> where one is")
        ids = [*frame.before, *tokenizer.encode(parts[0])]
        for part in parts[1:]:
            ids += [frame.mask, *tokenizer.encode(part)]
        first, last = len(frame.before), len(ids)
        found = fill(
            self.network,
            prompt_of(self.model.architecture, [*ids, *frame.after]),
            frame.mask,
            sampling,
            never=[*frame.never, *frame.ends, frame.mask],
        )
        return tokenizer.decode(found[first:last])

    def session(self) -> Session:
        """A conversation, over a slot of its own."""
        history: Literal["input", "output"] = "output" if self.model.frame.given == "output" else "input"
        return Session(self.writes(), history)

    def turn(self, session: Session, text: str, sampling: Sampling) -> Generator[Event, None, None]:
        """One turn of a conversation: what is said, framed as an input; what stands before an input only once."""
        frame = self.model.frame
        given, begun = frame.around(self.model.tokenizer.encode(text))
        if session.transcript:
            given = given[len(frame.before) :]
        return session.ask(given, begun, sampling)
