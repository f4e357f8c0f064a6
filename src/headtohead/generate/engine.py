"""The decoding loop: requests join, are written one token a step, and leave; for every generative architecture.

    engine = Engine(runner, ends=frame.ends, never=frame.never, decode=tokenizer.decode)
    number = engine.add(prompt_of(architecture, ids, begun), Sampling(max_tokens=100))
    while engine.busy:
        for event in engine.step():
            ...

A request waits until there are slots for all its rows; then its prompt is read, and from the next step on it is
written together with all others. What a request gets does not depend on them: chance is its own (`sampling`), and a
prompt is read by itself.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headtohead.errors import UserError
from headtohead.generate.beams import Beams
from headtohead.generate.prompts import Prompt, check_writes
from headtohead.generate.requests import Event, Finish, Sampling, Written
from headtohead.generate.running import Runner
from headtohead.generate.sampling import Chosen, Drawing, choose, penalise
from headtohead.generate.telling import Decode, Telling

PROMPT_TOKENS = 2048
"""So many tokens of prompts are read in a step before what is running gets its turn, and one prompt at least."""


@dataclass
class _Row:
    """One slot that is being written."""

    slot: int
    drawing: Drawing
    telling: Telling | None
    next: int = 0
    written: int = 0


@dataclass
class _Request:
    number: int
    prompt: Prompt
    sampling: Sampling
    seed: int
    kept: Mapping[str, int] = field(default_factory=dict)
    slot: int | None = None
    """A slot that is the request's from the start, and stays its own when it ends (`Engine.hold`)."""
    slots: list[int] = field(default_factory=list)
    rows: list[_Row] = field(default_factory=list)
    search: Beams | None = None
    ends: frozenset[int] = frozenset()


class Engine:
    """Writes for many requests at once over the slots of a `Runner`.

    ends: ids that end a text; never: ids that are never written; decode: ids to text, without which events have no
    text and stop strings can't be asked for. Not for several threads at once.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        ends: Collection[int] = (),
        never: Sequence[int] = (),
        decode: Decode | None = None,
    ) -> None:
        self.runner, self.decode = runner, decode
        self.ends = frozenset(ends)
        self._never = torch.tensor(sorted(set(never) - self.ends)) if never else None
        self._free = list(reversed(range(runner.slots)))
        self._waiting: deque[_Request] = deque()
        self._running: dict[int, _Request] = {}
        self._count = 0
        self._last = runner.architecture.output_stream.name

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        return bool(self._waiting or self._running)

    @property
    def waiting(self) -> int:
        """Requests that no slot was free for yet."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests that are being written."""
        return len(self._running)

    @property
    def free_slots(self) -> int:
        return len(self._free)

    def hold(self) -> int:
        """Take a slot away from the others, for requests that go on from what it keeps (`add(…, slot, kept)`).

        Raises:
            UserError: none is free.
        """
        if not self._free:
            raise UserError(f"all {self.runner.slots} slots are in use: ask for more, or wait")
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        """Let others have a slot that was held."""
        self.runner.release(slot)
        self._free.append(slot)

    def add(
        self,
        prompt: Prompt,
        sampling: Sampling,
        *,
        slot: int | None = None,
        kept: Mapping[str, int] | None = None,
    ) -> int:
        """Ask for a text after a prompt; returns the number that its events will have.

        `slot`: a slot that is held, of which the first `kept` tokens of each stream are the prompt's already.

        Raises:
            UserError: too long for the slots or for learned positions, more choices than slots, stop strings without
                a tokenizer, ids outside the vocabulary, or a network that can't write token by token.
        """
        self.check(prompt, sampling)
        self._count += 1
        seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
        ends = self.ends | frozenset(sampling.stop_ids)
        request = _Request(self._count, prompt, sampling, seed, kept or {}, slot, ends=ends)
        self._waiting.append(request)
        return self._count

    def check(self, prompt: Prompt, sampling: Sampling) -> None:
        """Raises what `add` raises, and adds nothing."""
        a = self.runner.architecture
        for stream in a.streams:
            there = prompt[stream.name].ids.shape[1]
            more = sampling.max_tokens if stream.holds != "input" else 0
            room = self.runner.capacity[stream.name]
            if there + more > room:
                raise UserError(
                    f"a prompt of {there} tokens and {more} new ones don't fit: there is room for {room} in stream "
                    f"'{stream.name}'; give a shorter prompt or fewer max_tokens"
                )
            ids = prompt[stream.name].ids
            if there and not (int(ids.min()) >= 0 and int(ids.max()) < a.vocabulary):
                raise UserError(f"an id of the prompt is outside the vocabulary: 0 to {a.vocabulary - 1}")
        last = int(prompt[self._last].position[0, -1]) + 1
        if a.context is not None and last + sampling.max_tokens > a.context:
            raise UserError(
                f"{a.name} has learned positions for {a.context} tokens, and this needs "
                f"{last + sampling.max_tokens}: give less"
            )
        if sampling.rows > self.runner.slots:
            raise UserError(
                f"{sampling.rows} choices at once, and there are {self.runner.slots} slots: ask for fewer"
            )
        if sampling.stop and self.decode is None:
            raise UserError("stop strings need a tokenizer: give stop_ids")
        if wrong := [i for i in sampling.stop_ids if i >= a.vocabulary]:
            raise UserError(f"the stop id {wrong[0]} is outside the vocabulary: 0 to {a.vocabulary - 1}")
        outputs = int((prompt[self._last].step[0] > 0).sum())
        check_writes(a, last - outputs, outputs + 1)

    def cancel(self, number: int) -> None:
        """Forget a request, wherever it stands; no further event has its number."""
        self._waiting = deque(request for request in self._waiting if request.number != number)
        request = self._running.pop(number, None)
        if request is not None:
            self._leave(request)

    def step(self) -> list[Event]:
        """One token more for every choice that is running, and the first of those that join now."""
        going = list(self._running.values())
        events = self._write(going) if going else []
        budget = PROMPT_TOKENS
        while self._waiting and budget > 0:
            request = self._waiting[0]
            wanted = request.sampling.rows - (request.slot is not None)
            if wanted > len(self._free):
                break
            self._waiting.popleft()
            request.slots = [] if request.slot is None else [request.slot]
            request.slots += [self._free.pop() for _ in range(wanted)]
            self._running[request.number] = request
            events += self._join(request)
            budget -= sum(tokens.ids.shape[1] for tokens in request.prompt.values())
        return events

    def run(self) -> Iterator[Event]:
        """Steps until nothing is left to do."""
        while self.busy:
            yield from self.step()

    def write(
        self, prompts: Sequence[Prompt], sampling: Sampling | Sequence[Sampling]
    ) -> list[list[Written]]:
        """The choices of each prompt, whole; nothing else may be running. All prompts are checked first."""
        each = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        for prompt, how in zip(prompts, each, strict=True):
            self.check(prompt, how)
        numbers = [self.add(prompt, how) for prompt, how in zip(prompts, each, strict=True)]
        found = {n: [Written([]) for _ in range(how.n)] for n, how in zip(numbers, each, strict=True)}
        for event in self.run():
            found[event.request][event.choice].take(event)
        return [found[n] for n in numbers]

    # --------------------------------------------------------------------------------------------------------

    def _join(self, request: _Request) -> list[Event]:
        try:
            logits = self.runner.prefill(request.slots[0], request.prompt, request.kept)
        except BaseException:  # the request is lost, its slots are not
            self.cancel(request.number)
            raise
        how = request.sampling
        there = (
            set(request.prompt[self._last].ids[0].tolist()) if how.repetition_penalty != 1.0 else set[int]()
        )
        for choice, slot in enumerate(request.slots):
            if choice and how.beams == 1:
                self.runner.copy(request.slots[0], slot)
            drawing = Drawing(how, request.seed, choice, 0, set(there))
            telling = None if self.decode is None else Telling(self.decode, how.stop)
            request.rows.append(_Row(slot, drawing, telling))
        if how.beams > 1:
            request.search = Beams(how.beams, how.length_penalty, how.max_tokens, request.ends)
            return self._search(request, logits[None])
        rows = list(request.rows)
        return self._take(request, rows, self._choose(logits.expand(len(rows), -1).clone(), rows))

    def _write(self, going: list[_Request]) -> list[Event]:
        """One token into each running row, and what comes after it."""
        rows = [row for request in going for row in request.rows]
        logits = self.runner.step([row.slot for row in rows], [row.next for row in rows])
        plain = [row for request in going if request.search is None for row in request.rows]
        if len(plain) == len(rows):
            chosen = self._choose(logits, rows)
        elif plain:
            at = torch.tensor([r for r, row in enumerate(rows) if any(row is p for p in plain)])
            chosen = self._choose(logits[at], plain)
        else:
            chosen = []
        events: list[Event] = []
        first = taken = 0
        for request in going:
            count = len(request.rows)
            if request.search is not None:
                events += self._search(request, logits[first : first + count])
            else:
                events += self._take(request, list(request.rows), chosen[taken : taken + count])
                taken += count
            first += count
        return events

    def _choose(self, logits: Tensor, rows: Sequence[_Row]) -> list[Chosen]:
        return choose(logits, [row.drawing for row in rows], self._never)

    def _take(self, request: _Request, rows: list[_Row], chosen: Sequence[Chosen]) -> list[Event]:
        """Give each row its token; rows that end with it leave."""
        events: list[Event] = []
        for row, found in zip(rows, chosen, strict=True):
            drawing, telling = row.drawing, row.telling
            if found.token in request.ends:
                text = "" if telling is None else telling.flush()
                events.append(Event(request.number, drawing.choice, text=text, finished="stop"))
                self._end(request, row)
                continue
            row.next = found.token
            row.written += 1
            drawing.step += 1
            if drawing.how.repetition_penalty != 1.0:
                drawing.there.add(found.token)
            text = "" if telling is None else telling.push(found.token)
            finished: Finish | None = None
            if telling is not None and telling.stopped:
                finished = "stop"
            elif row.written >= drawing.how.max_tokens:
                finished = "length"
                text += "" if telling is None else telling.flush()
                if telling is not None and telling.stopped:
                    finished = "stop"
            events.append(
                Event(
                    request.number,
                    drawing.choice,
                    (found.token,),
                    text,
                    found.logprob,
                    found.top,
                    finished,
                )
            )
            if finished is not None:
                self._end(request, row)
        return events

    def _search(self, request: _Request, logits: Tensor) -> list[Event]:
        """Advance a beam search by the logits of its unfinished texts; its events come at its end."""
        search, how = request.search, request.sampling
        assert search is not None
        logits = logits.clone()
        if self._never is not None:
            logits[:, self._never.to(logits.device)] = float("-inf")
        penalise(logits, [row.drawing for row in request.rows[: len(logits)]])
        parents, tokens = search.advance(logits.double().log_softmax(dim=-1))
        if not search.done:
            self._reorder(request, parents, tokens)
            return []
        events: list[Event] = []
        for choice, text in enumerate(search.best(how.n)):
            events.append(self._told(request, choice, text.tokens, text.ended, text.score))
        for choice in range(len(events), how.n):  # the network can't write so many different texts
            events.append(Event(request.number, choice, finished="stop"))
        self._running.pop(request.number, None)
        self._leave(request)
        return events

    def _told(self, request: _Request, choice: int, tokens: list[int], ended: bool, score: float) -> Event:
        text = ""
        finished: Finish = "stop" if ended else "length"
        if self.decode is not None:
            telling = Telling(self.decode, request.sampling.stop)
            for token in tokens:
                text += telling.push(token)
                if telling.stopped:
                    finished = "stop"
                    break
            text += telling.flush()
        return Event(request.number, choice, tuple(tokens), text, finished=finished, score=score)

    def _reorder(self, request: _Request, parents: Sequence[int], tokens: Sequence[int]) -> None:
        """Give each text that goes on a slot with its own past: its parent's, or a copy where another has that."""
        slots = [row.slot for row in request.rows] or request.slots
        free = [slot for at, slot in enumerate(slots) if at not in set(parents)]
        free += [slot for slot in request.slots if slot not in slots]
        owner: dict[int, int] = {}
        rows: list[_Row] = []
        for parent, token in zip(parents, tokens, strict=True):
            source = slots[parent]
            if parent in owner:
                slot = free.pop()
                self.runner.copy(source, slot)
            else:
                slot = owner.setdefault(parent, source)
            drawing = Drawing(
                request.sampling, request.seed, there={*request.rows[parent].drawing.there, token}
            )
            rows.append(_Row(slot, drawing, None, token))
        request.rows = rows

    def _end(self, request: _Request, row: _Row) -> None:
        request.rows.remove(row)
        if row.slot != request.slot:
            request.slots.remove(row.slot)
            self.give_back(row.slot)
        if not request.rows:
            self._running.pop(request.number, None)

    def _leave(self, request: _Request) -> None:
        for slot in request.slots:
            if slot != request.slot:
                self.give_back(slot)
        request.rows, request.slots = [], []
