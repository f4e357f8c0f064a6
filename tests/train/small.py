"""A run small enough for the tests: tiny networks, random rows, a plain ledger. Also a program, to be killed.

    python small.py FOLDER [arm=two] [pause=SECONDS] [compile=yes] [changes=JSON]

trains in FOLDER; ``pause`` is waited before each step, ``changes`` are to the recipe.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from headtohead.errors import UserError
from headtohead.files import sha256_of
from headtohead.model.architecture import Architecture, one_stack, two_stacks
from headtohead.model.batch import Batch, Tokens
from headtohead.model.parts import Norms
from headtohead.model.transformer import Transformer
from headtohead.train.checkpoint import checkpoints
from headtohead.train.loop import BEST, Stopped, Trained, train
from headtohead.train.recipe import Recipe

VOCABULARY = 40
ROW = 12


KINDS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "adamw, average and best": {"average_last": 3, "average_every": 4, "keep_best": True, "keep_last": 3},
    "muon": {"optimizer": "muon", "schedule": "wsd"},
    "adafactor": {"optimizer": "adafactor", "schedule": "linear", "average_last": 2},
    "adafactor, factored": {"optimizer": "adafactor", "factored": True, "schedule": "inverse-sqrt"},
}
"""Changes to a recipe: every optimizer, every state that a checkpoint can hold."""


def tiny(two: bool = False) -> Architecture:
    """One causal stack, or an encoder and a decoder, of width 16."""
    sizes: dict[str, Any] = {"d_model": 16, "heads": 2, "d_head": 8, "vocabulary": VOCABULARY}
    norms = Norms(query_key=True, value=True, output=True)
    if two:
        return two_stacks("tiny-two", "full", depths=(1, 1), d_ff=32, norms=norms, **sizes)
    return one_stack("tiny-one", "causal", depth=2, d_ff=32, norms=norms, **sizes)


def recipe(**changes: Any) -> Recipe:
    """Few steps, eager, fp32, a checkpoint every 5 steps; ``changes`` on top."""
    settings: dict[str, Any] = {
        "learning_rate": 1e-2,
        "warmup_steps": 3,
        "rows_per_step": 4,
        "micro_batches": 2,
        "steps": 20,
        "precision": "fp32",
        "compile": False,
        "checkpoint_every": 5,
        "log_every": 2,
    }
    return Recipe.model_validate({**settings, **changes})


def rows(architecture: Architecture, step: int, count: int) -> Batch:
    """``count`` random rows for the streams of ``architecture``; a third of the places carry no loss."""
    generator = torch.Generator().manual_seed(1000 + step)

    def draw(high: int) -> torch.Tensor:
        return torch.randint(0, high, (count, ROW), generator=generator)

    zeros = torch.zeros(count, ROW, dtype=torch.long)
    streams = {
        stream.name: Tokens(draw(VOCABULARY), torch.arange(ROW).expand(count, ROW), zeros, zeros, zeros)
        for stream in architecture.streams
    }
    weights = (draw(3) > 0).float()
    targets = draw(VOCABULARY) * weights.long()
    return Batch(streams, targets, weights, zeros, weights.bool())


def take(batch: Batch, start: int, end: int) -> Batch:
    """Some rows of a batch."""
    part = slice(start, end)
    return Batch(
        {n: t.map(lambda field: field[part]) for n, t in batch.streams.items()},
        batch.targets[part],
        batch.weights[part],
        batch.example[part],
        batch.scored[part],
    )


def micro_batches(batch: Batch, count: int) -> list[Batch]:
    size = len(batch.targets) // count
    return [take(batch, i * size, (i + 1) * size) for i in range(count)]


@dataclass
class PlainLedger:
    """Counts enough to see that counts are kept."""

    tokens_shown: int = 0
    flops: float = 0.0

    def add(self, batch: Batch, flops: float) -> None:
        self.tokens_shown += sum(tokens.ids.numel() for tokens in batch.streams.values())
        self.flops += flops

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PlainLedger:
        return cls(**data)


def run(
    folder: Path,
    *,
    two: bool = False,
    pause: float = 0.0,
    model: Transformer | None = None,
    changes: dict[str, Any] | None = None,
    **more: Any,
) -> tuple[Transformer, Trained]:
    """One run in ``folder``; returns the trained network too."""
    model = model or Transformer(tiny(two))
    settings = recipe(**(changes or {}))

    def batch_at(step: int) -> list[Batch]:
        time.sleep(pause)
        return micro_batches(rows(model.architecture, step, settings.rows_per_step), settings.micro_batches)

    more.setdefault("evaluate", lambda network, step: {"bits_per_byte": float(torch.rand(()))})
    more.setdefault("evaluate_at", (0, 7, 10, 20))
    trained = train(
        model, batch_at, settings, folder, ledger=PlainLedger(), flops_of=lambda batch: 100.0, **more
    )
    return model, trained


def outcome(folder: Path) -> dict[str, Any]:
    """All that must be equal between a run that was stopped and one that wasn't: everything but the seconds.

    The files' checksums stand for weights, optimizer state, average and random state, bit for bit.
    """
    last = checkpoints(folder / "checkpoints")[0]
    record = json.loads((last / "state.json").read_text())
    del record["state"]["progress"]["seconds"], record["sha256"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    best = [
        {p.name: sha256_of(p) for p in found.glob("*.safetensors")} for found in checkpoints(folder / BEST)
    ]
    return {
        "record": record,
        "metrics": lines,
        "files": {p.name: sha256_of(p) for p in last.glob("*.safetensors")},
        **({"best": best} if best else {}),
    }


if __name__ == "__main__":
    options = dict(part.split("=", 1) for part in sys.argv[2:])
    try:
        run(
            Path(sys.argv[1]),
            two=options.get("arm") == "two",
            pause=float(options.get("pause", 0)),
            changes={"compile": "compile" in options, **json.loads(options.get("changes", "{}"))},
        )
    except (UserError, Stopped) as error:
        sys.exit(f"error: {error}")
