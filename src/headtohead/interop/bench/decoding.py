"""`headtohead bench decode`: writing after a prompt, ours beside the programs that people use.

All candidates of one network are timed in turns in one process; a candidate's figure is the median over the rounds, a
ratio the median of the rounds' ratios. The memory's read bandwidth, which bounds a step that reads every weight once,
is measured in the same run.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table

from headtohead.data.corpora import load_corpus
from headtohead.data.shards import SPECIALS
from headtohead.errors import UserError
from headtohead.generate.engine import Engine
from headtohead.generate.native.packing import Quantized
from headtohead.generate.prompts import Prompt, prompt_of
from headtohead.generate.quantizing import quantize
from headtohead.generate.requests import Sampling
from headtohead.generate.runners import make_runner, settled
from headtohead.interop.bench.peers import require_transformers, twin
from headtohead.interop.bench.writers import LlamaCpp, require_llama_cpp, transformers_writes
from headtohead.interop.loading import Model, load
from headtohead.measure.limits import read_bandwidth
from headtohead.model.architecture import Architecture
from headtohead.model.attention import Attention
from headtohead.model.blocks import MLP
from headtohead.model.presets import architecture
from headtohead.model.transformer import Transformer

DEFAULT = ("decllm-mini", "redllm-mini")
BATCHES = (1, 8, 32)
PEERS = ("transformers", "llama.cpp")
OURS_A_ROUND = 3
"""Ours is so short that a single go in a round would be measured worse than the peers."""
SCORED_BYTES, SCORED_DOCUMENTS = 1000, 8


@dataclass(frozen=True)
class Setting:
    """What is written: so many tokens after so many, on so many threads."""

    prompt: int = 128
    new: int = 128
    batches: tuple[int, ...] = BATCHES
    threads: int = 2
    rounds: int = 3


def bench_decode(
    names: Sequence[str],
    against: Sequence[str],
    setting: Setting,
    quantized: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The figures of `headtohead bench decode --json`; see `docs/decoding.md` for what each means.

    Raises:
        UserError: for a preset, folder or peer that isn't known, or a network that has no twin in transformers.
    """
    if unknown := [peer for peer in against if peer not in PEERS]:
        raise UserError(f"there is no peer '{unknown[0]}' to decode against: {', '.join(PEERS)}")
    wanted = [_network(name) for name in names or DEFAULT]
    if "transformers" in against:
        require_transformers()
        with torch.device("meta"):
            for a, _, _ in wanted:
                twin(a, setting.prompt + setting.new)
    if "llama.cpp" in against:
        require_llama_cpp()
    torch.set_num_threads(setting.threads)
    bandwidths = [read_bandwidth()]
    found: dict[str, Any] = {}
    for a, model, loaded in wanted:
        found[a.name] = _bench(a, model, loaded, against, setting, quantized, say)
        bandwidths.append(read_bandwidth())
    bandwidth = max(bandwidths)
    for entry in found.values():
        for figures in entry["batches"].values():
            least = entry["weight_bytes"] / bandwidth
            figures["share_of_limit"] = least / figures["step_seconds"]
    return {
        "models": found,
        "bandwidth_bytes_per_second": bandwidth,
        "prompt": setting.prompt,
        "new": setting.new,
        "threads": setting.threads,
        "torch": torch.__version__,
    }


def _network(name: str) -> tuple[Architecture, Transformer, Model | None]:
    if Path(name).is_dir():
        loaded = load(name)
        return loaded.architecture, loaded.network, loaded
    a = architecture(name)
    return a, Transformer(a).eval(), None


class Ours:
    """Our engine on a network, with so many slots."""

    def __init__(
        self, model: Transformer, batch: int, setting: Setting, quantized: Quantized | None = None
    ) -> None:
        self.setting, self.batch = setting, batch
        room = {s.name: setting.prompt + setting.new + 2 for s in model.architecture.streams}
        self.runner = make_runner(
            model, batch, room, precision="bf16", quantized=quantized, threads=setting.threads
        )
        self.prompts = [_prompt(model.architecture, setting.prompt, seed) for seed in range(batch)]

    def write(self) -> tuple[float, float, float]:
        """Seconds until all is written, until the first token of the first row, and of the median step."""
        engine = Engine(self.runner)
        sampling = Sampling(max_tokens=self.setting.new)
        began = time.perf_counter()
        for prompt in self.prompts:
            engine.add(prompt, sampling)
        first, steps, written = 0.0, list[float](), 0
        while engine.busy:
            before = time.perf_counter()
            waiting = engine.waiting
            written += len(engine.step())
            now = time.perf_counter()
            first = first or now - began
            if not waiting:
                steps.append(now - before)
        took = time.perf_counter() - began
        if written != self.batch * self.setting.new:
            raise RuntimeError(f"{written} tokens were written, not {self.batch * self.setting.new}")
        return took, first, statistics.median(steps)


def _row(a: Architecture, length: int, seed: int) -> list[int]:
    """Random tokens."""
    return np.random.default_rng(seed).integers(len(SPECIALS), a.vocabulary, length).tolist()


def _prompt(a: Architecture, length: int, seed: int) -> Prompt:
    """A row as the input, and one token that begins the output where that is a stream of its own."""
    return prompt_of(a, _row(a, length, seed), [1] if a.two_streams else [])


Writes = Callable[[list[list[int]]], float]
"""Seconds in which a peer writes the new tokens after these rows."""


def _peers(
    a: Architecture,
    against: Sequence[str],
    setting: Setting,
    say: Callable[[str], None],
    end: ExitStack,
) -> dict[str, Writes]:
    """What each peer that has a network of this form is timed by; they are gone at the `end`."""
    found: dict[str, Writes] = {}
    if "transformers" in against:
        network = twin(a, setting.prompt + setting.new).eval().bfloat16()
        found["transformers"] = partial(transformers_writes, network, a.two_streams, setting.new)
    if "llama.cpp" in against:
        model = LlamaCpp.of(a, setting.prompt + setting.new, setting.threads)
        if model is None:
            say(f"{a.name}: llama.cpp has no network of its form")
        else:
            end.enter_context(model)
            found["llama.cpp"] = partial(model.writes, setting.new)
    return found


@torch.no_grad()
def _products(model: Transformer, batch: int) -> Callable[[], float]:
    """Seconds of the matrix products of one step of the output's stream alone, by PyTorch's `linear` in bf16."""
    last = model.stacks[model.architecture.output_stream.name]
    matrices: list[torch.Tensor] = []
    for module in last.modules():
        if isinstance(module, Attention):
            cross = module.key_value.in_features != module.query.in_features
            own = [module.query, module.out] if cross else [module.query, module.key_value, module.out]
            matrices += [linear.weight.bfloat16() for linear in own]
        elif isinstance(module, MLP):
            matrices += [m.weight.bfloat16() for m in module.children() if isinstance(m, torch.nn.Linear)]
    matrices.append(model.head.matrix.bfloat16())
    inputs = {m.shape[1]: torch.randn(batch, m.shape[1]).bfloat16() for m in matrices}

    def multiply() -> float:
        with torch.no_grad():
            began = time.perf_counter()
            for matrix in matrices:
                F.linear(inputs[matrix.shape[1]], matrix)
            return time.perf_counter() - began

    return multiply


def _bench(
    a: Architecture,
    model: Transformer,
    loaded: Model | None,
    against: Sequence[str],
    setting: Setting,
    quantized: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    rounded = quantize(model) if quantized else None
    entry: dict[str, Any] = {"weight_bytes": _step_bytes(model), "batches": {}}
    with ExitStack() as end:
        peers = _peers(a, against, setting, say, end)
        settled()  # as in a server; for all candidates alike
        for batch in setting.batches:
            say(f"{a.name}: batch {batch}")
            entry["batches"][str(batch)] = _at_batch(
                batch, model, rounded, peers, setting, lambda line: say(f"{a.name}: {line}")
            )
    if rounded is not None:
        say(f"{a.name}: what int8 costs in bits per byte")
        entry["int8_bits_per_byte"] = None if loaded is None else bits_lost(loaded, rounded[0])
    return entry


def _at_batch(
    batch: int,
    model: Transformer,
    rounded: tuple[Transformer, Quantized] | None,
    peers: Mapping[str, Writes],
    setting: Setting,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """All candidates in turns, round by round."""
    ours = Ours(model, batch, setting)
    in_int8 = None if rounded is None else Ours(rounded[0], batch, setting, rounded[1])
    rows = [_row(model.architecture, setting.prompt, seed) for seed in range(batch)]
    products = _products(model, batch)
    times: defaultdict[str, list[float]] = defaultdict(list)
    ours.write()
    for writes in peers.values():
        writes(rows)
    for number in range(setting.rounds):
        say(f"batch {batch}, round {number + 1} of {setting.rounds}")
        several = [ours.write() for _ in range(OURS_A_ROUND)]
        for key, values in zip(("ours", "first", "step"), zip(*several, strict=True), strict=True):
            times[key].append(statistics.median(values))
        times["products"].append(statistics.median(products() for _ in range(20)))
        if in_int8 is not None:
            times["int8"].append(statistics.median(in_int8.write()[0] for _ in range(OURS_A_ROUND)))
        for name, writes in peers.items():
            times[name].append(writes(rows))

    def beside(key: str) -> dict[str, float]:
        """A candidate's tokens per second, and how many times as long as ours it takes."""
        return {
            "tokens_per_second": batch * setting.new / statistics.median(times[key]),
            "ratio": statistics.median(x / y for x, y in zip(times[key], times["ours"], strict=True)),
        }

    figures: dict[str, Any] = {
        "tokens_per_second": beside("ours")["tokens_per_second"],
        "step_seconds": statistics.median(times["step"]),
        "gemv_floor_share": statistics.median(
            x / y for x, y in zip(times["products"], times["step"], strict=True)
        ),
        "time_to_first_token_seconds": statistics.median(times["first"]),
        "peers": {name: beside(name) for name in peers},
    }
    if in_int8 is not None:
        found = beside("int8")
        figures["int8"] = {**found, "ratio": 1 / found["ratio"]}
    return figures


def _step_bytes(model: Transformer) -> int:
    """Bytes of bf16 weights that a step of one token must read: the growing streams' and the head's, and of
    attention to another stream neither keys' nor values', which are kept.
    """
    a = model.architecture
    total = model.head.matrix.numel()
    for stream in (s for s in a.streams if s.holds != "input"):
        for layer, block in zip(stream.expanded, model.stacks[stream.name], strict=True):  # type: ignore[arg-type]
            total += sum(
                m.weight.numel() for m in block.feed_forward.children() if isinstance(m, torch.nn.Linear)
            )
            for group, attention in zip(layer.sublayers, block.attentions, strict=True):
                total += attention.query.weight.numel() + attention.out.weight.numel()
                fixed = all(a.stream(read.keys).holds == "input" for read in group)
                total += 0 if fixed else attention.key_value.weight.numel()
    return 2 * total


def bits_lost(loaded: Model, rounded: Transformer) -> dict[str, float]:
    """Bits per byte of the second half of some documents given the first, by a network and by its int8 twin."""
    texts = [d.text[:SCORED_BYTES] for d in load_corpus([]).documents[:SCORED_DOCUMENTS]]
    half = SCORED_BYTES // 2
    pairs = [text[:half] for text in texts], [text[half:] for text in texts]
    count = sum(len(text.encode()) for text in pairs[1])
    found: dict[str, float] = {}
    own = loaded.network
    for name, network in (("fp32", own), ("int8", rounded)):
        loaded.network = network
        try:
            found[name] = sum(loaded.score(*pairs)) / count / float(np.log(2))
        finally:
            loaded.network = own
    found["loss"] = found["int8"] - found["fp32"]
    return found


def print_figures(found: dict[str, Any]) -> None:
    """The figures as a table, for people."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("network", "batch", "tokens/s", "ratio", "share of limit", "products", "first token"):
        named = column == "network"
        table.add_column(column, justify="left" if named else "right", no_wrap=named)
    for name, entry in found["models"].items():
        for batch, figures in entry["batches"].items():
            table.add_row(
                name,
                batch,
                f"{figures['tokens_per_second']:,.0f}",
                "1",
                f"{figures['share_of_limit']:.2f}",
                f"{figures['gemv_floor_share']:.2f}",
                f"{1e3 * figures['time_to_first_token_seconds']:.0f} ms",
            )
            for peer, theirs in figures["peers"].items():
                table.add_row(
                    f"  {peer}", "", f"{theirs['tokens_per_second']:,.0f}", f"1 / {theirs['ratio']:.2f}"
                )
            if "int8" in figures:
                table.add_row(
                    "  int8",
                    "",
                    f"{figures['int8']['tokens_per_second']:,.0f}",
                    f"{figures['int8']['ratio']:.2f}",
                )
        if entry.get("int8_bits_per_byte"):
            bits = entry["int8_bits_per_byte"]
            table.add_row(f"  int8 costs {bits['loss']:+.4f} bits per byte ({bits['fp32']:.4f})")
    Console().print(table)
    print(
        f"{found['prompt']} tokens of prompt and {found['new']} new ones, {found['threads']} threads, bf16; the limit: "
        "every weight of a step read once at "
        f"{found['bandwidth_bytes_per_second'] / 1e9:.1f} GB/s, measured in this run"
    )
