"""A run of `small` by several processes: a program for torchrun, and what starts it.

    torchrun … ranks.py FOLDER SETTINGS [FOLDER SETTINGS …]

SETTINGS is JSON: ``arm`` (one, two or shared), ``changes`` to the recipe, ``die`` ([rank, step]: it kills itself when
it makes the rows of that step), ``hang`` (the same, but it sleeps), ``fail`` (the same, but it says that it can't
read them), ``spoil`` (the same, but weights are not finite), ``pause`` (seconds before each step).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from tests.train import small

from headtohead.errors import UserError
from headtohead.model.architecture import Architecture
from headtohead.model.batch import Batch
from headtohead.train.checkpoint import named_tensors
from headtohead.train.loop import Stopped, Trained, train
from headtohead.train.nonfinite import NonFinite
from headtohead.train.parallel import ALONE, Team, assembled, built, leave, shares, whole


def architecture(arm: str) -> Architecture:
    """One of `small`'s, or two passes through one stack's weights."""
    if arm != "shared":
        return small.tiny(arm == "two")
    told = small.tiny(True).model_dump()
    told["streams"][1]["shares"] = told["streams"][0]["name"]
    return Architecture.model_validate(told)


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

    def batch_at(step: int) -> list[Shared]:
        rows = small.rows(a, step, recipe.rows_per_step)
        mine = shares(range(recipe.rows_per_step), recipe.micro_batches, team)
        parts = [
            Shared(**vars(small.take(rows, own[0], own[-1] + 1)), counted=len(counted))
            for own, counted in mine
        ]
        time.sleep(settings.get("pause", 0))
        if settings.get("die") == [team.rank, step]:
            os.kill(os.getpid(), signal.SIGKILL)
        if settings.get("hang") == [team.rank, step]:
            time.sleep(600)
        if settings.get("fail") == [team.rank, step]:
            raise UserError(f"rank {team.rank} can't read its rows")
        if settings.get("spoil") == [team.rank, step]:
            parts[0] = replace(parts[0], weights=parts[0].weights / 0)
        with open(folder.with_name(f"{folder.name}.{team.rank}of{team.size}"), "a") as file:
            file.write(json.dumps([step, [row for part in parts for row in part.targets.tolist()]]) + "\n")
        return parts

    def flops_of(batch: Any) -> float:
        return 50.0 * batch.counted

    def evaluate(model: Any, step: int) -> dict[str, float]:
        return {"bits_per_byte": float(model.score(small.rows(a, 10_000, 4)).double().mean())}

    model = built(a, recipe.seed, recipe, team, torch.device("cpu"))
    trained = train(
        model,
        batch_at,
        recipe,
        folder,
        ledger=Ledger(),
        flops_of=flops_of,
        evaluate=evaluate,
        evaluate_at=(0, 7, 10, 20),
        team=team,
        **more,
    )
    return model, trained


def torchrun(ranks: int, *jobs: tuple[Path, dict[str, Any]], **environment: str) -> subprocess.Popen[str]:
    """The program below, started with runs to do one after another: each a folder, and settings."""
    words = [word for folder, settings in jobs for word in (str(folder), json.dumps(settings))]
    return launched(ranks, [__file__, *words], **environment)


def launched(ranks: int, words: list[str], **environment: str) -> subprocess.Popen[str]:
    """torchrun, started with a program's words."""
    where = ["--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", *where, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **environment},
    )


def finish(process: subprocess.Popen[str], code: int | None = 0) -> str:
    """What it told on stderr, once it has ended with that exit code (None: with any but 0)."""
    _, err = process.communicate(timeout=850)
    assert process.returncode == code if code is not None else process.returncode, err
    return err


def seen(folder: Path, ranks: int) -> dict[int, list[list[int]]]:
    """Which rows each step had, rank after rank."""
    found: dict[int, list[list[int]]] = {}
    each = [
        dict(json.loads(line) for line in folder.with_name(f"{folder.name}.{rank}of{ranks}").open())
        for rank in range(ranks)
    ]
    for step in set.intersection(*map(set, each)):  # a rank that died had not all of them
        found[step] = [row for one in each for row in one[step]]
    return found


def main() -> int:
    try:
        with assembled() as team:
            for folder, settings in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
                one_run(Path(folder), json.loads(settings), Team(team.rank, team.size))
    except (UserError, Stopped, NonFinite) as error:
        sys.stderr.write(f"told: {error}\n")  # one piece, so that ranks don't write into each other's lines
        return 3
    return 0


def one_run(folder: Path, settings: dict[str, Any], team: Team) -> None:
    model, trained = work(folder, settings, team)
    weights = {name: whole(tensor.detach()) for name, tensor in named_tensors(model).items()}
    if team.leads:
        safetensors.torch.save_file(weights, folder / "weights.safetensors")
        (folder / "trained.json").write_text(json.dumps(about(trained)))


def about(trained: Trained) -> dict[str, Any]:
    """What a run tells of itself."""
    return {
        "curve": trained.curve,
        "averaged": trained.averaged,
        "ranks": trained.ranks,
        "ledger": vars(trained.ledger),
        "compiled": trained.runtime.compiled,
    }


if __name__ == "__main__":
    leave(main())
