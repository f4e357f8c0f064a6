"""From a request to what the engine writes, and back to OpenAI's answers, whole or in pieces."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from headtohead.generate.prompts import Prompt
from headtohead.generate.requests import Event, Finish, Sampling
from headtohead.serve import schema
from headtohead.serve.metrics import Metrics
from headtohead.serve.networks import ServedModel
from headtohead.serve.problems import Problem, invalid
from headtohead.serve.settings import Settings
from headtohead.serve.worker import Ticket, Worker

LOWEST = -9999.0
"""ln 0 in JSON, as OpenAI has it."""

Object = Literal["text_completion", "chat.completion"]


@dataclass
class Choice:
    """One answer as it grows: its pieces, its tokens' figures, and how it ended."""

    text: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    finished: Finish | None = None

    def take(self, event: Event) -> None:
        """What an event adds."""
        self.text.append(event.text)
        self.tokens += event.tokens
        if event.logprob is not None:
            self.logprobs.append(event.logprob)
            self.top.append(event.top)
        self.finished = event.finished


@dataclass(frozen=True)
class Order:
    """A request that was accepted. per: choices of each prompt; `logprobs`: they were asked for."""

    kind: Object
    model: ServedModel
    jobs: Sequence[tuple[Prompt, Sampling]]
    owner: Sequence[int]
    """Of each job, the first of its choices' numbers."""
    choices: int
    prompt_tokens: Sequence[int]
    per: int
    logprobs: bool
    include_usage: bool
    id: str
    created: int

    @property
    def is_chat(self) -> bool:
        return self.kind == "chat.completion"


def completion_order(asked: schema.CompletionRequest, model: ServedModel, settings: Settings) -> Order:
    """Raises Problem for what can't be done."""
    prompts = several(asked.prompt, settings, "prompt")
    return _order(
        "text_completion",
        asked,
        model,
        settings,
        prompts,
        asked.max_tokens,
        "max_tokens",
        "prompt",
        asked.logprobs,
    )


def chat_order(asked: schema.ChatRequest, model: ServedModel, settings: Settings) -> Order:
    """Raises Problem for what can't be done."""
    text = model.conversation(asked.messages)
    newer = asked.max_completion_tokens is not None
    most = asked.max_completion_tokens if newer else asked.max_tokens
    if newer and asked.max_tokens is not None:  # the newer name counts, but the older must be right too
        model.check_most(asked.max_tokens, settings, "max_tokens")
    named = "max_completion_tokens" if newer else "max_tokens"
    logprobs = (asked.top_logprobs or 0) if asked.logprobs else None
    return _order("chat.completion", asked, model, settings, [text], most, named, "messages", logprobs)


def several(given: Any, settings: Settings, param: str) -> list[str | list[int]]:
    """A text or ids, or a list of either, as a list."""
    if isinstance(given, str) or isinstance(given[0], int):
        return [given]
    if len(given) > settings.inputs:
        raise Problem(400, f"{param}: {len(given)} at once, and {settings.inputs} may be", param=param)
    return list(given)


def _order(
    kind: Object,
    asked: schema.Writing,
    model: ServedModel,
    settings: Settings,
    prompts: Sequence[str | list[int]],
    most: int | None,
    named: str,
    param: str,
    logprobs: int | None,
) -> Order:
    if model.engine is None:
        raise Problem(
            400,
            f"{model.name} fills holes and can't write on: ask it for embeddings",
            code="model_not_supported",
            param="model",
        )
    n = asked.n or 1
    slots = model.engine.runner.slots
    if n > slots:
        raise Problem(400, f"n: {n} choices, and {slots} may be asked for here", param="n")
    temperature = 1.0 if asked.temperature is None else asked.temperature
    # Without chance each of n choices is the same: each is a job of its own.
    apart = n if temperature == 0 else 1
    jobs: list[tuple[Prompt, Sampling]] = []
    owner: list[int] = []
    tokens: list[int] = []
    for number, text in enumerate(prompts):
        prompt, count = model.prompt(text, param)
        tokens.append(count)
        try:
            how = Sampling(
                max_tokens=model.fit(count, most, settings, named),
                temperature=temperature,
                top_p=1.0 if asked.top_p is None else asked.top_p,
                top_k=asked.top_k or 0,
                min_p=asked.min_p or 0.0,
                repetition_penalty=asked.repetition_penalty or 1.0,
                seed=None if asked.seed is None else asked.seed % 2**63,
                stop=asked.stops,
                logprobs=logprobs,
                n=n // apart,
            )
        except ValidationError as wrong:
            raise invalid([{**one, "loc": ("body", *one["loc"])} for one in wrong.errors()]) from None
        model.check(prompt, how)
        for one in range(apart):
            jobs.append((prompt, how))
            owner.append(number * n + one)
    options = asked.stream_options
    prefix = "chatcmpl" if kind == "chat.completion" else "cmpl"
    return Order(
        kind,
        model,
        jobs,
        owner,
        len(prompts) * n,
        tokens,
        n,
        logprobs is not None,
        options is not None and options.include_usage,
        f"{prefix}-{secrets.token_hex(12)}",
        int(time.time()),
    )


# ------------------------------------------------------------------------------------------------------------


async def events(ticket: Ticket, worker: Worker, settings: Settings) -> AsyncIterator[tuple[int, Event]]:
    """The events of a request until all its choices have ended; it is cancelled where nobody listens any longer.

    Raises:
        Problem: what went wrong, or it took too long.
    """
    ended, wanted = 0, sum(how.n for _, how in ticket.jobs)
    deadline = asyncio.get_running_loop().time() + settings.request_seconds
    try:
        while ended < wanted:
            try:
                async with asyncio.timeout_at(deadline):
                    answer = await ticket.answers.get()
            except TimeoutError:
                raise Problem(
                    504, f"the answer took longer than {settings.request_seconds:g} s", code="timeout"
                ) from None
            if isinstance(answer, Problem):
                raise answer
            ended += answer[1].finished is not None
            yield answer
        worker.close(ticket)
    finally:
        worker.cancel(ticket)


async def whole(
    order: Order, ticket: Ticket, worker: Worker, settings: Settings, request: Request
) -> BaseModel:
    """The whole answer.

    Raises:
        Problem: as `events`; 499 where the client has gone, who won't read it.
    """
    choices = [Choice() for _ in range(order.choices)]

    async def collect() -> None:
        async for job, event in events(ticket, worker, settings):
            choices[order.owner[job] + event.choice].take(event)

    collecting = asyncio.create_task(collect())
    leaving = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((collecting, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            raise Problem(499, "the client has gone")
        collecting.result()
    finally:
        for task in (collecting, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError, Problem):
                await task
    return _answer(order, choices)


async def _gone(request: Request) -> None:
    """Until the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def usage_of(order: Order, choices: Sequence[Choice]) -> schema.Usage:
    """Of all prompts and their answers."""
    found = [
        order.model.usage(
            tokens, [len(choice.tokens) for choice in choices[p * order.per : (p + 1) * order.per]]
        )
        for p, tokens in enumerate(order.prompt_tokens)
    ]
    return schema.Usage(
        prompt_tokens=sum(one.prompt_tokens for one in found),
        completion_tokens=sum(one.completion_tokens for one in found),
        total_tokens=sum(one.total_tokens for one in found),
        flops=sum(one.flops or 0 for one in found),
        cache_bytes=sum(one.cache_bytes or 0 for one in found),
    )


def _answer(order: Order, choices: Sequence[Choice]) -> BaseModel:
    usage = usage_of(order, choices)
    base: dict[str, Any] = {
        "id": order.id,
        "created": order.created,
        "model": order.model.name,
        "usage": usage,
    }
    if order.is_chat:
        return schema.ChatCompletion(
            **base,
            choices=[
                schema.ChatChoice(
                    index=index,
                    message=schema.Said(content="".join(choice.text)),
                    logprobs=_chat_logprobs(order, choice.tokens, choice.logprobs, choice.top),
                    finish_reason=choice.finished,
                )
                for index, choice in enumerate(choices)
            ],
        )
    return schema.Completion(
        **base,
        choices=[
            schema.CompletionChoice(
                text="".join(choice.text),
                index=index,
                logprobs=_logprobs(order, choice.tokens, choice.logprobs, choice.top, 0),
                finish_reason=choice.finished,
            )
            for index, choice in enumerate(choices)
        ],
    )


async def pieces(
    order: Order, ticket: Ticket, worker: Worker, settings: Settings, metrics: Metrics
) -> AsyncIterator[str]:
    """The answer as server-sent events, a token a piece, then ``[DONE]``; what goes wrong is told as the last event."""
    choices = [Choice() for _ in range(order.choices)]
    lengths = [0] * order.choices
    try:
        if order.is_chat:
            for index in range(order.choices):
                yield _piece(order, index, {"role": "assistant", "content": ""}, None, None)
        async for job, event in events(ticket, worker, settings):
            index = order.owner[job] + event.choice
            choices[index].take(event)
            logprobs = [] if event.logprob is None else [event.logprob]
            if order.is_chat:
                told = _chat_logprobs(order, list(event.tokens), logprobs, [event.top] if logprobs else [])
            else:
                top = [event.top] if logprobs else []
                told = _logprobs(order, list(event.tokens), logprobs, top, lengths[index])
            lengths[index] += len(event.text)
            if event.text or event.finished or (told is not None and event.tokens):
                yield _piece(order, index, event.text, told, event.finished)
        if order.include_usage:
            yield _chunk(order, [], usage_of(order, choices))
        yield "data: [DONE]\n\n"
    except Problem as problem:
        yield f"data: {json.dumps(problem.body)}\n\n"
    finally:
        if any(choice.finished is None for choice in choices):
            metrics.cancelled(order.model.name)


def _piece(
    order: Order, index: int, said: str | dict[str, str], logprobs: BaseModel | None, finished: Finish | None
) -> str:
    told = None if logprobs is None else logprobs.model_dump()
    rest = {"index": index, "logprobs": told, "finish_reason": finished}
    if order.is_chat:
        delta = said if isinstance(said, dict) else {"content": said} if said else {}
        return _chunk(order, [{"delta": delta, **rest}], None)
    return _chunk(order, [{"text": said, **rest}], None)


def _chunk(order: Order, choices: list[dict[str, Any]], usage: schema.Usage | None) -> str:
    content: dict[str, Any] = {
        "id": order.id,
        "object": f"{order.kind}.chunk" if order.is_chat else order.kind,
        "created": order.created,
        "model": order.model.name,
        "choices": choices,
    }
    if order.include_usage:
        content["usage"] = None if usage is None else usage.model_dump()
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _named(order: Order, token: int) -> str:
    return order.model.model.tokenizer.decode([token])


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else LOWEST


def _logprobs(
    order: Order,
    tokens: Sequence[int],
    logprobs: Sequence[float],
    top: Sequence[tuple[tuple[int, float], ...]],
    offset: int,
) -> schema.CompletionLogprobs | None:
    if not order.logprobs:
        return None
    words = [_named(order, token) for token in tokens]
    offsets: list[int] = []
    for word in words:
        offsets.append(offset)
        offset += len(word)
    return schema.CompletionLogprobs(
        tokens=words,
        token_logprobs=[_finite(logprob) for logprob in logprobs],
        top_logprobs=[{_named(order, i): _finite(p) for i, p in reversed(some)} for some in top],
        text_offset=offsets,
    )


def _chat_logprobs(
    order: Order,
    tokens: Sequence[int],
    logprobs: Sequence[float],
    top: Sequence[tuple[tuple[int, float], ...]],
) -> schema.ChatLogprobs | None:
    if not order.logprobs:
        return None

    def one(token: int, logprob: float) -> dict[str, Any]:
        word = _named(order, token)
        return {"token": word, "logprob": _finite(logprob), "bytes": list(word.encode())}

    return schema.ChatLogprobs(
        content=[
            schema.TokenLogprob(
                **one(token, logprob), top_logprobs=[schema.TopLogprob(**one(i, p)) for i, p in some]
            )
            for token, logprob, some in zip(tokens, logprobs, top, strict=True)
        ]
    )
