"""What `headtohead generate` and `headtohead chat` do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headtohead.data.reading import lines_of, string_in
from headtohead.errors import UserError
from headtohead.generate.requests import Sampling, Written
from headtohead.interop.loading import load
from headtohead.interop.writing import Writer
from headtohead.validation import validated


@dataclass(frozen=True)
class Asked:
    """One prompt: the input, and how the output begins."""

    prompt: str
    begun: str = ""


@dataclass(frozen=True)
class Machine:
    """What it is computed in, and how many texts at once."""

    precision: str
    quantize: str | None
    threads: int | None
    slots: int


def asked_for(prompts: Sequence[str], input: str | None, file: Path | None) -> list[Asked]:
    """The prompts of the options and of a file.

    Raises:
        UserError: none, or a line that isn't one.
    """
    if input is not None:
        found = [Asked(input, begun) for begun in (prompts or [""])]
    else:
        found = [Asked(prompt) for prompt in prompts]
    if file is not None:
        for number, line in lines_of(file, "the prompts"):
            where = f"{file}:{number}"
            if unknown := sorted(set(line) - {"prompt", "input"}):
                raise UserError(
                    f"{where} has the field '{unknown[0]}': a prompt has 'prompt' and perhaps 'input'"
                )
            prompt = string_in(line, "prompt", where)
            found.append(Asked(string_in(line, "input", where), prompt) if "input" in line else Asked(prompt))
    if not found:
        raise UserError("nothing to write on from: give --prompt TEXT, --input TEXT or --prompts FILE.jsonl")
    return found


def sampling_of(settings: Mapping[str, Any]) -> Sampling:
    """The options of a command as a `Sampling`.

    Raises:
        UserError: one that can't be, or two that don't go together.
    """
    return validated(Sampling, settings, "options")


def generate(
    run: Path,
    asked: Sequence[Asked],
    settings: Mapping[str, Any],
    machine: Machine,
    stream: bool | None,
    as_json: bool,
    say: Callable[..., None],
) -> None:
    """Write for each prompt and print it; as JSON {"results": [{"prompt", "choices": […]}]}."""
    sampling = sampling_of(settings)
    model = load(run)
    longest = 0
    for one in asked:
        texts = (one.prompt, one.begun)
        longest = max(longest, sum(len(model.tokenizer.encode(text)) for text in texts))
    frame = model.frame
    around = sum(map(len, (frame.before, frame.after, frame.start)))
    slots = max(sampling.rows, min(machine.slots, len(asked) * sampling.rows))
    context = 2 * longest + around + sampling.max_tokens  # a frame may show a text in both parts
    writer = Writer(model, slots, context, machine.precision, machine.quantize, machine.threads)
    if writer.fills:
        _fill(writer, asked, sampling, as_json, say)
        return
    prompts = [writer.prompt(one.prompt, one.begun) for one in asked]
    live = stream if stream is not None else len(asked) == sampling.n == 1 and not as_json
    if live and (len(asked) > 1 or sampling.n > 1 or as_json):
        raise UserError("--stream shows one text as it comes: give one prompt, --n 1 and no --json")
    results = [[Written([]) for _ in range(sampling.n)] for _ in asked]
    for at, event in writer.events(prompts, sampling):
        results[at][event.choice].take(event)
        if live:
            say(event.text, nl=False)
    if live:
        say("")
    elif as_json:
        told = [
            {
                "prompt": one.prompt,
                **({"begun": one.begun} if one.begun else {}),
                "choices": list(map(_told, found)),
            }
            for one, found in zip(asked, results, strict=True)
        ]
        say(json.dumps({"model": model.architecture.name, "results": told}, ensure_ascii=False, indent=1))
    else:
        for found in results:
            for written in found:
                say(written.text)
                if len(asked) > 1 or sampling.n > 1:
                    say("")


def _fill(
    writer: Writer, asked: Sequence[Asked], sampling: Sampling, as_json: bool, say: Callable[..., None]
) -> None:
    if sampling.n > 1 or sampling.beams > 1 or sampling.stop or sampling.logprobs is not None:
        raise UserError(
            f"{writer.model.architecture.name} fills holes: --n, --beams, --stop and --logprobs are for networks that "
            "write on"
        )
    found = [writer.filled(one.prompt + one.begun, sampling) for one in asked]
    if as_json:
        results = [
            {"prompt": one.prompt + one.begun, "choices": [{"text": text}]}
            for one, text in zip(asked, found, strict=True)
        ]
        told = {"model": writer.model.architecture.name, "results": results}
        say(json.dumps(told, ensure_ascii=False, indent=1))
    else:
        for text in found:
            say(text)


def _told(written: Written) -> dict[str, Any]:
    found: dict[str, Any] = {
        "text": written.text,
        "tokens": written.tokens,
        "finished": written.finished,
    }
    if written.logprobs is not None:
        found["logprobs"] = written.logprobs
        found["top"] = [[{"token": i, "logprob": p} for i, p in each] for each in written.top or []]
    if written.score is not None:
        found["score"] = written.score
    return found


def chat(run: Path, settings: Mapping[str, Any], machine: Machine, context: int) -> None:
    """A conversation on the terminal."""
    sampling = sampling_of(settings)
    if sampling.max_tokens >= context:
        raise UserError(
            f"--max-tokens {sampling.max_tokens} leaves no room in --context {context}: give less"
        )
    model = load(run)
    writer = Writer(model, 1, context, machine.precision, machine.quantize, machine.threads)
    a = model.architecture
    room = (context if a.context is None else min(context, a.context)) - sampling.max_tokens
    frame = model.frame
    around = sum(map(len, (frame.before, frame.after, frame.start)))
    session = writer.session()
    print(f"{a.name}: /reset forgets, /quit ends, Ctrl-C stops an answer", file=sys.stderr)
    while True:
        try:
            said = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            break
        except KeyboardInterrupt:
            print(file=sys.stderr)
            continue
        if said.strip() == "/quit":
            break
        if said.strip() == "/reset":
            session.forget(0)
            continue
        if not said.strip():
            continue
        new = len(model.tokenizer.encode(said)) + around
        if new > room:
            print(f"that is {new} tokens, and there is room for {room}: say it shorter", file=sys.stderr)
            continue
        if len(session.transcript) + new > room:
            print("(what was said first is forgotten, to make room)", file=sys.stderr)
            session.forget(max(0, min(room - new, len(session.transcript) // 2)))
        try:
            for event in writer.turn(session, said, sampling):
                print(event.text, end="", flush=True)
        except KeyboardInterrupt:
            print(" [stopped]", end="", file=sys.stderr)
        print(flush=True)
