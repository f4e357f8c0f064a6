"""The networks that a server offers: what each can do, how a request becomes a prompt, embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from headtohead.errors import UserError
from headtohead.generate.engine import Engine
from headtohead.generate.prompts import Prompt, prompt_of, rows_of
from headtohead.generate.requests import Sampling
from headtohead.generate.running import Runner
from headtohead.interop.loading import Model, load
from headtohead.interop.own import fills
from headtohead.model.budget import cache_bytes, flops, parameters
from headtohead.model.visibility import PADDING
from headtohead.serve.problems import Problem
from headtohead.serve.schema import Message, Usage
from headtohead.serve.settings import Settings

EMBED_AT_ONCE = 8
MakeRunner = Callable[[Model, int, dict[str, int]], Runner]
"""What writes: of a loaded model, slots, and room in each stream."""


@dataclass
class ServedModel:
    """One network under its name. `engine`: where it writes, None for one that fills holes. `created`: when it was
    loaded, in seconds since 1970.
    """

    name: str
    model: Model
    engine: Engine | None
    created: int
    costs: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)

    @property
    def embeds(self) -> bool:
        """Whether it reads a whole text at once, so that every token's state knows all of it: an input stream of its
        own, or a view of what comes after.
        """
        a = self.model.architecture
        return a.streams[0].holds == "input" or fills(a, self.model.frame)

    @property
    def about(self) -> dict[str, Any]:
        """What a page or a program wants to know of it."""
        a = self.model.architecture
        return {
            "architecture": a.name,
            "parameters": parameters(a)["total"],
            "streams": [
                {
                    "name": stream.name,
                    "holds": stream.holds,
                    "layers": stream.depth,
                    "visibility": sorted({str(r.visibility) for layer in stream.layers for r in layer.reads}),
                }
                for stream in a.streams
            ],
            "writes": self.engine is not None,
            "embeds": self.embeds,
            "context": None if self.engine is None else min(self.engine.runner.capacity.values()),
        }

    # ------------------------------------------------------------------------------------------- writing

    def prompt(self, text: str | Sequence[int], param: str) -> tuple[Prompt, int]:
        """A text, or the ids of one, as this network reads it; and how many tokens that is.

        Raises:
            Problem: ids outside the vocabulary, or nothing there to begin with.
        """
        ids = self._ids(text, param)
        given, begun = self.model.frame.around(ids)
        try:
            return prompt_of(self.model.architecture, given, begun), len(given) + len(begun)
        except UserError as wrong:
            raise Problem(400, str(wrong), code="invalid_prompt", param=param) from None

    def _ids(self, text: str | Sequence[int], param: str) -> list[int]:
        if isinstance(text, str):
            return self.model.tokenizer.encode(text)
        highest = self.model.architecture.vocabulary - 1
        if wrong := [i for i in text if i > highest]:
            raise Problem(
                400, f"{param}: the id {wrong[0]} is outside the vocabulary, 0 to {highest}", param=param
            )
        return list(text)

    @staticmethod
    def conversation(messages: Sequence[Message]) -> str:
        """A chat as one text: its messages, one after another, each on a line of its own. Who spoke is not told: these
        networks learnt from texts, in which there are no roles.
        """
        return "\n".join(message.text for message in messages)

    def fit(self, tokens: int, asked: int | None, settings: Settings, param: str) -> int:
        """How many tokens the answer may have.

        Raises:
            Problem: more than may be asked for, or the prompt leaves no room for them.
        """
        assert self.engine is not None
        if asked is not None:
            self.check_most(asked, settings, param)
        room = min(self.engine.runner.capacity.values())
        if self.model.architecture.context is not None:
            room = min(room, self.model.architecture.context)
        wanted = asked if asked is not None else max(1, min(settings.most_default, room - tokens))
        if tokens + wanted > room:
            raise Problem(
                400,
                f"a prompt of {tokens} tokens and {wanted} new ones are more than this model's context of {room}: "
                f"give a shorter prompt, or a smaller {param}",
                code="context_length_exceeded",
                param=param,
            )
        return wanted

    @staticmethod
    def check_most(asked: int, settings: Settings, param: str) -> None:
        """Raises Problem for more tokens than may be asked for."""
        if asked > settings.max_tokens:
            raise Problem(
                400,
                f"{param}: {asked} tokens are more than the {settings.max_tokens} that may be asked for here",
                code="max_tokens_too_large",
                param=param,
            )

    def check(self, prompt: Prompt, how: Sampling) -> None:
        """Raises Problem for what the engine would not take."""
        assert self.engine is not None
        try:
            self.engine.check(prompt, how)
        except UserError as wrong:
            raise Problem(400, str(wrong), code="invalid_request") from None

    def usage(self, prompt_tokens: int, completions: Sequence[int]) -> Usage:
        """Tokens, and what they cost: the FLOPs of reading the prompt once and of writing each answer after it, and the
        bytes of the caches.
        """
        total, kept = 0, 0
        for written in completions:
            work, bytes_ = self._cost(prompt_tokens, written)
            total, kept = total + work, kept + bytes_
        if completions:
            total -= (len(completions) - 1) * self._cost(prompt_tokens, 0)[0]
        written = sum(completions)
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=written,
            total_tokens=prompt_tokens + written,
            flops=total,
            cache_bytes=kept,
        )

    def _cost(self, read: int, written: int) -> tuple[int, int]:
        key = (read, written)
        if key not in self.costs:
            if len(self.costs) > 4096:
                self.costs.clear()
            a = self.model.architecture
            self.costs[key] = (flops(a, read, written)["forward"], cache_bytes(a, read, written))
        return self.costs[key]

    # ----------------------------------------------------------------------------------------- embeddings

    @torch.inference_mode()
    def embeddings(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """For each text's ids a vector (d) of length 1: the mean over its tokens of the final states of the stream that
        reads the input.
        """
        a, network = self.model.architecture, self.model.network
        found: list[list[float]] = []
        first = a.streams[0].name
        for at in range(0, len(texts), EMBED_AT_ONCE):
            some = [self.model.frame.around(ids) for ids in texts[at : at + EMBED_AT_ONCE]]
            given = [shown or begun for shown, begun in some]
            # The output stream of a pair is not run, and rows_of wants a token there.
            rows = rows_of(
                a, given, [begun or [0] for _, begun in some] if a.two_streams else [[]] * len(given)
            )
            h = network.hidden({first: rows[first]}).float()
            real = (rows[first].document != PADDING)[..., None]
            mean = (h * real).sum(dim=1) / real.sum(dim=1)
            found += torch.nn.functional.normalize(mean, dim=-1).tolist()
        return found

    def embedding_ids(self, text: str | Sequence[int], settings: Settings) -> list[int]:
        """The ids of a text to embed.

        Raises:
            Problem: too many, or outside the vocabulary.
        """
        ids = self._ids(text, "input")
        room = (
            settings.context if self.model.architecture.context is None else self.model.architecture.context
        )
        shown, begun = self.model.frame.around(ids)
        tokens = len(shown or begun)
        if tokens > room:
            raise Problem(
                400,
                f"input: a text of {tokens} tokens is longer than this model's context of {room}: give a shorter one",
                code="context_length_exceeded",
                param="input",
            )
        if not tokens:
            raise Problem(400, "input: a text without a token has no embedding", param="input")
        return ids


def names_of(runs: Sequence[str]) -> list[tuple[str, Path]]:
    """The names that networks are served under: ``NAME=FOLDER``, or the folder's own name.

    Raises:
        UserError: two of one name, or one that isn't a name.
    """
    found: list[tuple[str, Path]] = []
    for run in runs:
        name, sign, folder = run.partition("=")
        path = Path(folder if sign else run)
        name = name if sign else path.resolve().name
        if not name or len(name) > 200 or not name.isprintable():
            raise UserError(f"{run}: give it a name that can be printed, as in small=runs/first")
        if any(name == known for known, _ in found):
            raise UserError(f"two models are called '{name}': name them, as in first={run}")
        found.append((name, path))
    return found


def served(name: str, folder: Path, settings: Settings, make: MakeRunner, created: int) -> ServedModel:
    """Load a network and set up where it writes.

    Raises:
        UserError: no network there, without a tokenizer, or one that can neither write nor embed.
    """
    model = load(folder)
    tokenizer = model.tokenizer
    a = model.architecture
    engine = None
    if not fills(a, model.frame):
        room = settings.context if a.context is None else min(settings.context, a.context)
        runner = make(model, settings.slots, {stream.name: room for stream in a.streams})
        engine = Engine(
            runner, ends=model.frame.ends, never=model.frame.never, decode=lambda ids: tokenizer.decode(ids)
        )
    return ServedModel(name, model, engine, created)
