"""What a dialogue costs, turn by turn, from a network's description alone: FLOPs, bytes and, on a machine of which two
figures are known, milliseconds. Nothing is built.

**A turn.** The input part is all that was said and written so far and what is said now; the output part begins with one
token and is written up to `output` tokens. What the visibility rules let be kept of the turns before is kept
(`model.reuse.still_valid`), the rest is read again. So a turn is one pass over what must be read, which gives the first
token, and `output` - 1 steps of one token each.

**Bytes** are what a pass must move between memory and the processor: the weights of the streams that have something to
read, the head's matrix, and of the cache every key and value that a read looks at or writes. (A token's row of the
embeddings, activations and masks are not counted.)

**Milliseconds.** Each pass and each step takes the longer of its arithmetic at `peak` FLOP/s and its bytes at
`bandwidth` (Williams et al. 2009, the roofline).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture, Stream
from headtohead.model.budget import BYTES, head_flops, parameters, places, reading_flops, stream_weights
from headtohead.model.matching import match
from headtohead.model.presets import architecture
from headtohead.model.reuse import rows_of_lengths, still_valid

MOST_PLACES = 2**17
"""Places that a dialogue may come to: who sees whom is counted for each turn."""

DEFAULT = ("causal", "prefix", "redllm", "redllm-causal-encoder", "block-double-decoder")
"""The families of claim C12, each brought to the first one's parameters."""
DEFAULT_SIZE = "mini"


@dataclass(frozen=True)
class Dialogue:
    """How much is said in each turn: `input` tokens read (special ones among them), `output` tokens written."""

    turns: int = 10
    input: int = 200
    output: int = 50
    dtype: str = "bf16"

    @property
    def grows_by(self) -> int:
        """Places that a turn adds: what is said, the token that begins the answer, the answer."""
        return self.input + 1 + self.output

    def before(self, turn: int) -> int:
        """Places of the input part before turn 1, 2, …: all that was said and written."""
        return (turn - 1) * self.grows_by


@dataclass(frozen=True)
class Machine:
    """Two figures of a machine: FLOP/s of its fastest matrix product, and bytes/s that it reads from memory."""

    peak: float
    bandwidth: float

    def seconds(self, flops: float, bytes: float) -> float:
        """The longer of arithmetic and memory."""
        return max(flops / self.peak, bytes / self.bandwidth)


@dataclass(frozen=True)
class Pass:
    """One run through the network: FLOPs, bytes of weights, bytes of cache that are read and written."""

    flops: int
    weights: int
    cache: int

    @property
    def bytes(self) -> int:
        return self.weights + self.cache


@dataclass(frozen=True)
class Turn:
    """What one turn costs.

    number: from 1 up. kept, read: tokens of each stream that are kept and that are read (again) before the answer.
    prefill: that pass; steps: one for each further token of the answer. milliseconds: by the machine, if one is known;
    measured: as it was timed, if it was.
    """

    number: int
    kept: Mapping[str, int]
    read: Mapping[str, int]
    prefill: Pass
    steps: Sequence[Pass]
    milliseconds: float | None = None
    measured: float | None = None

    @property
    def passes(self) -> tuple[Pass, ...]:
        return (self.prefill, *self.steps)

    @property
    def flops(self) -> int:
        return sum(one.flops for one in self.passes)

    @property
    def weight_bytes(self) -> int:
        return sum(one.weights for one in self.passes)

    @property
    def cache_bytes(self) -> int:
        return sum(one.cache for one in self.passes)

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.cache_bytes


def dialogue_cost(a: Architecture, dialogue: Dialogue, machine: Machine | None = None) -> list[Turn]:
    """The turns of a dialogue with a network, each with its cost.

    Raises:
        UserError: a dialogue without a turn or a token, one that is too long to count or for learned positions, an
            unknown dtype.
    """
    check_dialogue(a, dialogue)
    found: list[Turn] = []
    for number in range(1, dialogue.turns + 1):
        given = dialogue.before(number) + dialogue.input
        now = rows_of_lengths(a, given, 1)
        kept = {stream.name: 0 for stream in a.streams}
        if number > 1:
            # The last token that was written was never read; of the answer's first token logits are wanted.
            was = rows_of_lengths(a, dialogue.before(number - 1) + dialogue.input, dialogue.output)
            kept = dict(still_valid(a, was, now))
            last = a.output_stream
            kept[last.name] = min(kept[last.name], places(last, given, 1) - 1)
        read = {stream.name: places(stream, given, 1) - kept[stream.name] for stream in a.streams}
        first = _pass(a, given, 1, kept, dialogue.dtype)
        steps = [_step(a, given, 1 + written, dialogue.dtype) for written in range(1, dialogue.output)]
        turn = Turn(number, kept, read, first, steps)
        if machine is not None:
            took = sum(machine.seconds(one.flops, one.bytes) for one in turn.passes)
            turn = replace(turn, milliseconds=1e3 * took)
        found.append(turn)
    return found


def check_dialogue(a: Architecture, dialogue: Dialogue) -> None:
    """Raises UserError as `dialogue_cost`."""
    if dialogue.turns < 1 or dialogue.input < 1 or dialogue.output < 1:
        raise UserError(
            f"{dialogue.turns} turns of {dialogue.input} and {dialogue.output} tokens make no dialogue: give whole "
            "numbers from 1 up"
        )
    if dialogue.dtype not in BYTES:
        raise UserError(f"dtype '{dialogue.dtype}' is unknown: use one of {', '.join(BYTES)}")
    longest = dialogue.turns * dialogue.grows_by
    if longest > MOST_PLACES:
        raise UserError(
            f"{dialogue.turns} turns come to {longest:,} tokens, too many to count who sees whom: give fewer or "
            f"shorter turns, {MOST_PLACES:,} tokens at most"
        )
    if a.context is not None and longest > a.context:
        raise UserError(
            f"{a.name} has learned positions for {a.context} tokens, and {dialogue.turns} turns come to {longest}: "
            "give fewer or shorter turns"
        )


def _pass(a: Architecture, input: int, output: int, kept: Mapping[str, int], dtype: str) -> Pass:
    """Reading what is not kept, with logits at the last place."""
    flops = reading_flops(a, input, output, kept) + head_flops(a)
    size = BYTES[dtype]
    weights, cache = _head_weights(a) * size, 0
    for stream in a.streams:
        if places(stream, input, output) > kept[stream.name]:
            weights += stream_weights(a, stream) * size
            cache += _looked_at(a, stream, input, output, dtype)
    return Pass(flops, weights, cache)


def _step(a: Architecture, input: int, output: int, dtype: str) -> Pass:
    """Writing the output's last token: every stream that holds the output reads one more."""
    kept = {s.name: places(s, input, output) - (s.holds != "input") for s in a.streams}
    return _pass(a, input, output, kept, dtype)


def _head_weights(a: Architecture) -> int:
    """Weights that logits read: the matrix of the head, BERT's transform."""
    return head_flops(a) // 2


def _looked_at(a: Architecture, stream: Stream, input: int, output: int, dtype: str) -> int:
    """Bytes of cache that a pass over a stream's new tokens moves: each key and value that its reads look at once (new
    ones are written, and looked at while they are at hand).
    """
    width = a.width(stream)
    total = 0
    for read in (read for layer in stream.expanded for read in layer.reads):
        if read.mixer == "linear":
            total += 2 * width.queries * (width.d_head + 1) * BYTES["fp32"]  # read and written
        else:
            total += places(a.stream(read.keys), input, output) * 2 * width.keys * BYTES[dtype]
    return total


def default_networks() -> list[Architecture]:
    """The families of `DEFAULT` at the parameters of the first."""
    return brought_together([f"{family}-{DEFAULT_SIZE}" for family in DEFAULT])


def brought_together(presets: Sequence[str]) -> list[Architecture]:
    """Presets, those after the first brought to its parameters.

    Raises:
        UserError: an unknown preset, or one that can't be brought there.
    """
    first, *others = (architecture(name) for name in presets)
    goal = parameters(first)["total"]
    return [first, *(match(other, goal, "parameters").architecture for other in others)]


def correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Pearson's, of modelled and measured figures; NaN where one of them doesn't vary."""
    n = len(pairs)
    means = [sum(pair[i] for pair in pairs) / n for i in (0, 1)]
    off = [(x - means[0], y - means[1]) for x, y in pairs]
    both = sum(x * y for x, y in off)
    each = [sum(pair[i] ** 2 for pair in off) for i in (0, 1)]
    return both / (each[0] * each[1]) ** 0.5 if min(each) > 0 else float("nan")
