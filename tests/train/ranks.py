"""A run of `small` by several processes: a program for torchrun, and what starts it.

    torchrun … ranks.py FOLDER SETTINGS

SETTINGS is JSON: ``arm`` (one, two or shared), ``changes`` to the recipe, ``die`` ([rank, step]), ``pause`` (seconds
before each step), ``documents`` (write which rows each step had, by rank).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tests.train import small

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture
from headtohead.model.batch import Batch
from headtohead.train.checkpoint import named_tensors
from headtohead.train.loop import Stopped, Trained, train
from headtohead.train.parallel import ALONE, Team, assembled, built, shares, whole


def architecture(arm: str) -> Architecture:
    """One of `small`'s, or two passes through one stack's weights."""
    if arm != "shared":
        return small.tiny(arm == "two")
    two = small.tiny(True)
    encoder, decoder = two.streams
    return replace_streams(two, encoder, decoder.model_copy(update={"shares": encoder.name}))


def replace_streams(a: Architecture, *streams: Any) -> Architecture:
    return Architecture.model_validate({**a.model_dump(), "streams": [s.model_dump() for s in streams]})


@dataclass(frozen=True)
class Shared(Batch):
    """A rank's rows, and those of the whole step that the ledger counts for them."""

    counted: int


@dataclass
class Ledger(small.PlainLedger):
    """Counts the rows of all ranks."""

    def add(self, batch: Batch, flops: float) -> None:
        assert isinstance(batch, Shared)
        self.tokens_shown += batch.counted * small.ROW * len(batch.streams)
        self.flops += flops


def work(folder: Path, settings: dict[str, Any], team: Team = ALONE, **more: Any) -> tuple[Any, Trained]:
    """The run on this rank."""
    a = architecture(settings.get("arm", "one"))
    recipe = small.recipe(**settings.get("changes", {}))
    die = settings.get("die")

    def batch_at(step: int) -> list[Shared]:
        rows = small.rows(a, step, recipe.rows_per_step)
        parts = []
        for own, all_of_it in shares(range(recipe.rows_per_step), recipe.micro_batches, team):
            part = small.take(rows, own[0], own[-1] + 1)
            parts.append(Shared(**vars(part), counted=len(all_of_it)))
        time.sleep(settings.get("pause", 0))
        if settings.get("documents"):
            with open(folder.with_name(f"{folder.name}.rank{team.rank}.jsonl"), "a") as file:
                seen = [part.targets.tolist() for part in parts]
                file.write(json.dumps([step, list(chain(*seen))]) + "\n")
        return parts

    def told(model: Any, step: int) -> dict[str, float]:
        batch = small.rows(a, 10_000, 4)
        if die == [team.rank, step]:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"score": float(model.score(batch).double().sum())}

    model = built(a, recipe.seed, recipe, team, torch.device("cpu"))
    trained = train(
        model,
        batch_at,
        recipe,
        folder,
        ledger=Ledger(),
        flops_of=lambda batch: 100.0,
        evaluate=told,
        evaluate_at=settings.get("evaluate_at", (0, 7, 10, 20)),
        team=team,
        **more,
    )
    return model, trained


def torchrun(
    ranks: int, folder: Path, settings: dict[str, Any], *, port: int = 0, **environment: str
) -> subprocess.Popen[str]:
    """The program below, started."""
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nproc-per-node={ranks}",
            "--rdzv-backend=c10d",
            "--rdzv-endpoint=localhost:0",
            __file__,
            str(folder),
            json.dumps(settings),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), **environment},
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it told on stderr, once it has ended with that exit code."""
    _, err = process.communicate(timeout=150)
    assert process.returncode == code, err
    return err


def main() -> int:
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    try:
        with assembled() as team:
            model, trained = work(folder, settings, team)
            weights = {name: whole(tensor.detach()) for name, tensor in named_tensors(model).items()}
            if team.leads:
                torch.save(weights, folder / "weights.pt")
                found = {"curve": trained.curve, "ranks": trained.ranks, "ledger": vars(trained.ledger)}
                (folder / "trained.json").write_text(json.dumps(found))
    except (UserError, Stopped) as error:
        print(f"told: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
