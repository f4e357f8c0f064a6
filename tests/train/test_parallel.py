"""A run by several processes computes what one does: real processes under torchrun, gloo, tiny networks in fp32."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.train import ranks, small

from headtohead.errors import UserError
from headtohead.train import checkpoint
from headtohead.train.metrics import read_metrics
from headtohead.train.parallel import Team, shares

CLOSE = 1e-5
"""Nats per token: the order in which sums are made is all that differs."""


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "trained.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "weights.safetensors")


def alone(folder: Path, settings: dict[str, Any], **more: Any) -> None:
    """The run in this process."""
    _, trained = ranks.work(folder, settings, **more)
    (folder / "trained.json").write_text(json.dumps(ranks.about(trained)))


def same_losses(one: Path, other: Path, lines: int | None = None) -> None:
    """Every line of the metrics (or the first few), but for the order of sums."""
    there, here = read_metrics(one / "metrics.jsonl"), read_metrics(other / "metrics.jsonl")
    assert len(there) == len(here) > 3
    for a, b in zip(there[:lines], here[:lines], strict=True):
        assert a["step"] == b["step"] and a["tokens"] == b["tokens"] and a["flops"] == b["flops"]
        assert abs(a["nats"] - b["nats"]) < CLOSE
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], abs=1e-4)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 9))
def test_shares_are_the_rows_in_their_order(rows: int, size: int, passes: int) -> None:
    if rows < size:
        with pytest.raises(
            UserError, match=f"rows_per_step = {rows} gives not every one of {size} processes a row"
        ):
            shares(range(rows), passes, Team(0, size))
        return
    each = [shares(range(rows), passes, Team(rank, size)) for rank in range(size)]
    own = [row for one in each for mine, _ in one for row in mine]
    assert own == list(range(rows))
    for one in each:
        assert len(one) == len(each[0]) <= passes
        assert all(mine for mine, _ in one)
        assert [row for _, counted in one for row in counted] == list(range(rows))


# One start of torchrun for what is quick to see: DDP, and FSDP2 with a checkpoint in parts.
SHORT = {"changes": {"steps": 10}}


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps alone, by two with DDP (one stack), by two with FSDP2 (two stacks)."""
    where = tmp_path_factory.mktemp("short")
    fsdp = {"arm": "two", "changes": {"steps": 10, "parallel": "fsdp"}}
    ranks.finish(ranks.torchrun(2, (where / "ddp", SHORT), (where / "fsdp", fsdp)))
    alone(where / "one", SHORT)
    alone(where / "two", {**SHORT, "arm": "two"})
    return where


def test_two_follow_one(short: Path) -> None:
    for alone_, together in (("one", "ddp"), ("two", "fsdp")):
        same_losses(short / alone_, short / together)
        assert ranks.seen(short / alone_, 1) == ranks.seen(short / together, 2)
        assert told(short / together)["ranks"] == [[0, 2]]


def test_parts_go_on_in_one_process(short: Path, tmp_path: Path) -> None:
    """From the parts of step 5, their last being damaged; and no pickle is in them."""
    run = tmp_path / "fsdp"
    shutil.copytree(short / "fsdp", run)
    newest = run / "checkpoints" / "step-00000010"
    files = sorted(str(path.relative_to(newest)) for path in newest.rglob("*") if path.is_file())
    assert [name.split("-model")[0] for name in files] == [
        *(f"optimizer/shard-0000{rank}" for rank in (1, 2)),
        "state.json",
        *(f"weights/shard-0000{rank}" for rank in (1, 2)),
    ]
    spoilt = newest / files[3]
    content = bytearray(spoilt.read_bytes())
    content[-1] ^= 1
    spoilt.write_bytes(content)
    notices: list[str] = []
    alone(run, {**SHORT, "arm": "two"}, notice=notices.append)
    assert notices == [
        f"the checkpoint {newest} is damaged ({files[3]} was altered: its SHA-256 is not the one noted in state.json): "
        "going on from step-00000005"
    ]
    same_losses(short / "two", run)
    assert set(ranks.seen(run, 1)) == set(range(5, 10))
    ((_, state),) = [(p, json.loads((p / "state.json").read_text())) for p in [newest]]
    assert state["format"] == checkpoint.FORMAT and state["state"]["progress"]["ranks"] == [[0, 2], [5, 1]]


@pytest.mark.parametrize("file", ["weights/", "optimizer/", "more"])
def test_a_part_that_is_missing_or_foreign_is_named(short: Path, tmp_path: Path, file: str) -> None:
    step = tmp_path / "checkpoints" / "step-00000005"
    shutil.copytree(short / "fsdp" / "checkpoints" / "step-00000005", step)
    if file == "more":
        (step / "weights" / "shard-00009-model-00001-of-00001.safetensors").write_bytes(b"")
        says = "weights/shard-00009-model-00001-of-00001.safetensors is none of its files"
    else:
        next((step / file).iterdir()).unlink()
        says = "is missing"
    with pytest.raises(checkpoint.Damaged, match=says):
        checkpoint.load(step)


# ------------------------------------------------------------------------------------------- the whole of it, slow


KINDS = ("ddp", "fsdp")
RUNS: dict[str, dict[str, Any]] = {
    **{
        f"fifty, {arm}": {"arm": arm, "changes": {"steps": 50, "log_every": 1}}
        for arm in ("one", "two", "shared")
    },
    "averaged, best kept": {
        "changes": {"average_last": 3, "average_every": 4, "keep_best": True, "keep_last": 4}
    },
    "blocks computed twice": {"changes": {"activation_checkpointing": True}},
    "one pass": {"changes": {"micro_batches": 1}},
    "clipped at every step, much z-loss": {"changes": {"clip": 0.05, "z_loss": 1e-2}},
    "muon": {"changes": {"optimizer": "muon"}},
    "adafactor": {"changes": {"optimizer": "adafactor"}},
    "adafactor, factored": {"changes": {"optimizer": "adafactor", "factored": True}},
}
"""What follows one process; of two stacks where nothing else is said."""
BY_TWO = [
    (name, kind)
    for name, run in RUNS.items()
    for kind in KINDS
    if kind == "ddp" or "optimizer" not in run["changes"]
]
BASE = "averaged, best kept"


def settings_of(name: str, kind: str = "ddp") -> dict[str, Any]:
    return {"arm": "two", **RUNS[name], "changes": {**RUNS[name]["changes"], "parallel": kind}}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of `RUNS` alone, and by two, in one start of torchrun."""
    where = tmp_path_factory.mktemp("many")
    for name in RUNS:
        alone(where / name, settings_of(name))
    ranks.finish(ranks.torchrun(2, *((where / f"{n} {kind}", settings_of(n, kind)) for n, kind in BY_TWO)))
    return where


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "kind"), BY_TWO)
def test_two_follow_one_in_everything(many: Path, name: str, kind: str) -> None:
    """Rows, losses and norms, what is evaluated (of averaged weights too), and which checkpoint is the best."""
    there, here = many / name, many / f"{name} {kind}"
    # Muon rounds to bf16 within, and makes more of the last bit from the second update on: of one process too, if its
    # rows are cut into other passes.
    same_losses(there, here, lines=1 if name == "muon" else None)
    assert ranks.seen(there, 1) == ranks.seen(here, 2)
    one, two = told(there), told(here)
    for a, b in zip(one["curve"][: 1 if name == "muon" else None], two["curve"], strict=name != "muon"):
        assert a["bits_per_byte"] == pytest.approx(b["bits_per_byte"], abs=CLOSE)
    assert (one["averaged"] is None) == (two["averaged"] is None) == (name != BASE)
    if name == BASE:
        assert one["averaged"]["steps"] == two["averaged"]["steps"] == [12, 16, 20]
        assert one["averaged"]["bits_per_byte"] == pytest.approx(two["averaged"]["bits_per_byte"], abs=CLOSE)
        best = [[path.name for path in checkpoint.checkpoints(run / "best")] for run in (there, here)]
        assert best[0] == best[1] != []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 4), (1, 2), (2, 2)])
def test_another_number_goes_on(many: Path, tmp_path: Path, before: int, after: int) -> None:
    """From a checkpoint of step 10 of 20, by another number: the same rows in the same order, and the loss of the run
    that never stopped; by the same number, the same bits.
    """
    for kind in KINDS:
        source = many / (BASE if before == 1 else f"{BASE} {kind}")
        shutil.copytree(source, tmp_path / kind)
        for newer in checkpoint.checkpoints(tmp_path / kind / "checkpoints")[:2]:
            shutil.rmtree(newer)
        assert checkpoint.checkpoints(tmp_path / kind / "checkpoints")[0].name == "step-00000010"
    jobs = [(tmp_path / kind, settings_of(BASE, kind)) for kind in KINDS]
    if after == 1:
        for job in jobs:
            alone(*job)
    else:
        ranks.finish(ranks.torchrun(after, *jobs))
    whole = ranks.seen(many / BASE, 1)
    for kind in KINDS:
        run = tmp_path / kind
        same_losses(many / BASE, run)
        rows = ranks.seen(run, after)
        rows.pop(0, None)  # what DDP is made ready with
        assert rows == {step: whole[step] for step in range(10, 20)}
        assert told(run)["ledger"]["tokens_shown"] == 2 * 20 * 4 * small.ROW
        if before == after:
            never = many / f"{BASE} {kind}"
            assert told(never) == told(run)
            before_it = weights(never)
            assert all(torch.equal(tensor, before_it[name]) for name, tensor in weights(run).items())


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_rank_that_dies_or_hangs_ends_the_others(tmp_path: Path, parallel: str) -> None:
    settings = {"changes": {"parallel": parallel}}
    err = ranks.finish(ranks.torchrun(2, (tmp_path / "dies", {**settings, "die": [1, 7]})), code=None)
    lines = [line for line in err.splitlines() if line.startswith("told: ")]
    assert all("rank 0 has lost another rank, which died" in line for line in lines), err
    began = time.monotonic()
    hangs = (tmp_path / "hangs", {**settings, "hang": [1, 7]})
    err = ranks.finish(ranks.torchrun(2, hangs, HEADTOHEAD_RANK_TIMEOUT="5"), code=None)
    assert time.monotonic() - began < 90
    (line,) = [line for line in err.splitlines() if line.startswith("told: ")]
    assert line.startswith("told: rank 0 has lost another rank, which died or did not answer for 5 s ("), line
    assert line.endswith("start the same command again to go on from the last checkpoint")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "number"), [("ddp", signal.SIGINT), ("fsdp", signal.SIGTERM)])
def test_a_signal_to_torchrun_saves_and_stops_all(many: Path, tmp_path: Path, kind: str, number: int) -> None:
    settings, run = settings_of("one pass", kind), tmp_path / "run"
    process = ranks.torchrun(2, (run, {**settings, "pause": 0.2}))
    while not (run / "metrics.jsonl").exists() or not read_metrics(run / "metrics.jsonl"):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, number)
    err = ranks.finish(process, code=None)
    lines = [line for line in err.splitlines() if line.startswith("told: stopped by ")]
    assert len(lines) == 2 and len(set(lines)) == 1 and "checkpoint written" in lines[0], err
    ranks.finish(ranks.torchrun(2, (run, settings)))
    never = many / f"one pass {kind}"
    assert told(run) == told(never)
    before_it = weights(never)
    assert all(torch.equal(tensor, before_it[name]) for name, tensor in weights(run).items())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "what", "says"),
    [
        ("ddp", "spoil", "the loss is not finite at step 8"),
        ("fsdp", "spoil", "the loss is not finite at step 8"),
        ("ddp", "fail", "rank 1 can't read its rows"),
    ],
)
def test_what_happens_to_one_is_told_by_all(tmp_path: Path, kind: str, what: str, says: str) -> None:
    settings = {"changes": {"parallel": kind}, what: [1, 7]}
    err = ranks.finish(ranks.torchrun(2, (tmp_path / "run", settings)), code=None)
    lines = [line for line in err.splitlines() if line.startswith("told: ")]
    assert len(lines) == 2 and len(set(lines)) == 1 and says in lines[0], err


@pytest.mark.slow
def test_what_is_damaged_for_one_is_passed_over_by_all(tmp_path: Path) -> None:
    settings = {"changes": {"parallel": "fsdp"}}
    ranks.finish(ranks.torchrun(2, (tmp_path / "run", settings)))
    newest = tmp_path / "run" / "checkpoints" / "step-00000020"
    part = next(newest.glob("optimizer/shard-00002-*"))
    part.write_bytes(part.read_bytes()[:-1])
    before = weights(tmp_path / "run")
    err = ranks.finish(ranks.torchrun(2, (tmp_path / "run", settings)))
    assert err.count(f"the checkpoint {newest} is damaged (optimizer/{part.name} is cut short") == 1, err
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tmp_path / "run").items())


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_compiled_blocks_follow_eager_ones(tmp_path: Path, parallel: str) -> None:
    eager = {"arm": "two", "changes": {"parallel": parallel}}
    compiled = {"arm": "two", "changes": {"parallel": parallel, "compile": True}}
    ranks.finish(ranks.torchrun(2, (tmp_path / "eager", eager), (tmp_path / "compiled", compiled)))
    assert told(tmp_path / "compiled")["compiled"] and not told(tmp_path / "eager")["compiled"]
    same_losses(tmp_path / "eager", tmp_path / "compiled")
