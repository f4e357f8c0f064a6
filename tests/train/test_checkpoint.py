"""Checkpoints: whole or absent, verified, two kept; damage is named and the one before is used."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.train import small

from headtohead.errors import UserError
from headtohead.model.transformer import Transformer
from headtohead.train import checkpoint, staging


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def alter(path: Path) -> None:
    """One bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def reword(path: Path) -> None:
    """A state that is still JSON, and wrong."""
    record = json.loads(path.read_text())
    record["state"]["ledger"]["tokens_shown"] += 1
    path.write_text(json.dumps(record))


DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    ("weights.safetensors", cut, "weights.safetensors is cut short: "),
    ("weights.safetensors", alter, "weights.safetensors was altered: its SHA-256 is not the one noted"),
    ("weights.safetensors", Path.unlink, "weights.safetensors is missing"),
    ("optimizer.safetensors", cut, "optimizer.safetensors is cut short: "),
    ("optimizer.safetensors", alter, "optimizer.safetensors was altered"),
    ("optimizer.safetensors", Path.unlink, "optimizer.safetensors is missing"),
    ("state.json", cut, "state.json is cut short or altered"),
    (
        "state.json",
        alter,
        "state.json ",
    ),  # the byte may be of a value or of the form: each is told in its words
    ("state.json", reword, "state.json was altered: it is not what its SHA-256 says"),
    ("state.json", Path.unlink, "state.json is missing"),
    ("state.json", lambda path: path.write_text("[]"), "state.json is cut short or altered"),
    ("state.json", lambda path: path.write_text(""), "state.json is cut short or altered"),
]


@pytest.fixture(scope="module")
def stopped_and_whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that ended suddenly after step 12, with checkpoints at 5 and 10; and the same one whole."""
    folder = tmp_path_factory.mktemp("runs")

    def unplug(step: int, *_: object) -> None:
        if step == 12:
            raise RuntimeError("unplugged")

    with pytest.raises(RuntimeError, match="unplugged"):
        small.run(folder / "stopped", on_progress=unplug)
    small.run(folder / "whole")
    return folder / "stopped", folder / "whole"


@pytest.mark.parametrize(("file", "damage", "said"), DAMAGE)
def test_damaged_is_named_and_the_one_before_is_used(
    tmp_path: Path,
    stopped_and_whole: tuple[Path, Path],
    file: str,
    damage: Callable[[Path], object],
    said: str,
) -> None:
    stopped, whole = stopped_and_whole
    shutil.copytree(stopped, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-00000010"
    damage(newest / file)
    told: list[str] = []
    steps: list[int] = []
    small.run(tmp_path / "run", notice=told.append, on_progress=lambda step, *_: steps.append(step))
    assert len(told) == 1 and "\n" not in told[0]
    assert told[0].startswith(f"the checkpoint {newest} is damaged ({said}")
    assert told[0].endswith("): going on from step-00000005")
    assert steps[0] == 6
    assert small.outcome(tmp_path / "run") == small.outcome(whole)


def test_all_damaged_starts_again_and_says_so(tmp_path: Path, stopped_and_whole: tuple[Path, Path]) -> None:
    stopped, whole = stopped_and_whole
    shutil.copytree(stopped, tmp_path / "run")
    for path in checkpoint.checkpoints(tmp_path / "run" / "checkpoints"):
        alter(path / "weights.safetensors")
    told: list[str] = []
    small.run(tmp_path / "run", notice=told.append)
    assert len(told) == 2
    assert all(line.endswith("no usable checkpoint: starting from step 0") for line in told)
    assert small.outcome(tmp_path / "run") == small.outcome(whole)


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The newest checkpoint of a run of each kind, and the best where it is kept."""
    folder = tmp_path_factory.mktemp("kinds")
    for number, changes in enumerate(small.KINDS.values()):
        small.run(folder / str(number), changes={**changes, "steps": 12, "checkpoint_every": 4})
    found = [
        checkpoint.checkpoints(place)[0] for place in (*folder.glob("*/checkpoints"), *folder.glob("*/best"))
    ]
    assert len(found) == len(small.KINDS) + 1
    return found


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_in_any_file_is_refused_by_name(every_kind: list[Path], data: st.DataObject) -> None:
    files = [path for folder in every_kind for path in sorted(folder.iterdir())]
    path = data.draw(st.sampled_from(files))
    sound = path.read_bytes()
    at, bit = data.draw(st.integers(0, len(sound) - 1)), data.draw(st.integers(0, 7))
    try:
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << bit]) + sound[at + 1 :])
        with pytest.raises(checkpoint.Damaged, match=f"^{path.name} "):
            checkpoint.load(path.parent)
    finally:
        path.write_bytes(sound)
    assert checkpoint.load(path.parent).step == int(path.parent.name.removeprefix("step-"))


@pytest.fixture(scope="module")
def every_stop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By kind, a run that ended suddenly between two steps that are averaged, and the same one whole."""
    folder = tmp_path_factory.mktemp("stops")

    def unplug(step: int, *_: object) -> None:
        if step == 19:
            raise RuntimeError("unplugged")

    for kind, changes in small.KINDS.items():
        often = {**changes, "checkpoint_every": 2}
        with pytest.raises(RuntimeError, match="unplugged"):
            small.run(folder / kind / "stopped", changes=often, on_progress=unplug)
        small.run(folder / kind / "whole", changes=often)
    return folder


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind, changes in small.KINDS.items()
        for name in ("weights.safetensors", "optimizer.safetensors", "average.safetensors", "state.json")
        if name != "average.safetensors" or "average_last" in changes
    ],
)
def test_of_every_kind_the_one_before_is_used(tmp_path: Path, every_stop: Path, kind: str, name: str) -> None:
    shutil.copytree(every_stop / kind / "stopped", tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step-00000018"
    alter(newest / name)
    told: list[str] = []
    small.run(tmp_path / "run", changes={**small.KINDS[kind], "checkpoint_every": 2}, notice=told.append)
    assert told[0].startswith(f"the checkpoint {newest} is damaged ({name} ")
    assert told[0].endswith("going on from step-00000016") and len(told) == 1
    assert small.outcome(tmp_path / "run") == small.outcome(every_stop / kind / "whole")


@pytest.mark.parametrize(
    ("keep", "left"), [(None, [15, 20]), (1, [20]), (3, [10, 15, 20]), (9, [5, 10, 15, 20])]
)
def test_so_many_are_kept(tmp_path: Path, keep: int | None, left: list[int]) -> None:
    small.run(tmp_path, changes={} if keep is None else {"keep_last": keep})
    found = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert found == [f"step-{step:08d}" for step in left]


@pytest.mark.parametrize(
    ("bits", "best"),
    [({3: 4.0, 7: 2.0, 12: 3.0}, 7), ({3: 1.0, 7: 2.0, 12: 3.0}, 3), ({0: 0.5, 7: 2.0, 20: 2.0}, 7)],
)
def test_the_best_is_kept(tmp_path: Path, bits: dict[int, float], best: int) -> None:
    """Between two checkpoints too; the first weights don't count; of equal ones the earlier is the best."""
    weights: dict[int, dict[str, torch.Tensor]] = {}

    def evaluate(model: Transformer, step: int) -> dict[str, dict[str, float]]:
        weights[step] = {name: p.detach().clone() for name, p in model.named_parameters()}
        return {"bits_per_byte": {"a": bits[step] + 1, "b": bits[step] - 1}}

    small.run(tmp_path, changes={"keep_best": True}, evaluate=evaluate, evaluate_at=list(bits))
    (path,) = checkpoint.checkpoints(tmp_path / "best")
    found = checkpoint.load(path)
    assert isinstance(found, checkpoint.Checkpoint)
    assert found.step == best and found.state["progress"]["best"] == bits[best]
    assert all(torch.equal(found.weights[name], weights[best][name]) for name in weights[best])
    assert checkpoint.checkpoints(tmp_path / "checkpoints")[0].name == "step-00000020"


def test_keeping_the_best_needs_an_evaluation(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="keep_best = true, but nothing is evaluated on the way"):
        small.run(tmp_path, changes={"keep_best": True}, evaluate_at=(0,))
    with pytest.raises(UserError, match="keep_best = true needs an evaluation that tells bits per byte"):
        small.run(tmp_path, changes={"keep_best": True}, evaluate=lambda model, step: {"noise": 1.0})


def test_a_damaged_newer_one_does_not_push_out_a_good_one(tmp_path: Path) -> None:
    model = Transformer(small.tiny())
    optimizer = torch.optim.AdamW(model.parameters())
    for step in (1, 2, 9):
        checkpoint.save(tmp_path, step, model, optimizer, {}, {})
    alter(tmp_path / "step-00000009" / "weights.safetensors")
    checkpoint.save(tmp_path, 3, model, optimizer, {}, {})
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-00000003", "step-00000002"]


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    model = Transformer(small.tiny())
    path = checkpoint.save(tmp_path, 1, model, torch.optim.AdamW(model.parameters()), {}, {})
    found = checkpoint.latest(tmp_path)
    assert found is not None
    with pytest.raises(UserError, match=f"{path} holds the weights of another network: '.*' does not fit"):
        found.restore(Transformer(small.tiny(two=True)))


def test_a_format_of_the_future_is_refused(tmp_path: Path) -> None:
    model = Transformer(small.tiny())
    path = checkpoint.save(tmp_path, 1, model, torch.optim.AdamW(model.parameters()), {}, {})
    record = json.loads((path / "state.json").read_text())
    del record["sha256"]
    record["format"] = 3
    (path / "state.json").write_text(json.dumps({**record, "sha256": staging.digest_of(record)}))
    with pytest.raises(UserError, match="is a checkpoint of format 3: this version reads 1 and 2"):
        checkpoint.latest(tmp_path)


def test_no_pickle_anywhere(tmp_path: Path) -> None:
    small.run(tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {
        ".safetensors",
        ".json",
        ".jsonl",
    }


@pytest.mark.parametrize("failing", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_full_disk_is_told_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    real = staging._write_synced

    def full_at_step_10(path: Path, content: bytes) -> None:
        if path.name == failing and path.parent.name.endswith("10"):
            path.write_bytes(content[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, content)

    monkeypatch.setattr(staging, "_write_synced", full_at_step_10)
    with pytest.raises(UserError) as caught:
        small.run(tmp_path / "run")
    where = tmp_path / "run" / "checkpoints"
    assert str(caught.value) == (
        f"cannot write the checkpoint {where}/step-00000010/{failing}: no space left on the disk; "
        "earlier checkpoints are untouched"
    )
    assert [path.name for path in where.iterdir()] == ["step-00000005"]
    monkeypatch.undo()
    small.run(tmp_path / "run")
    small.run(tmp_path / "whole")
    assert small.outcome(tmp_path / "run") == small.outcome(tmp_path / "whole")


@pytest.mark.parametrize(
    ("kind", "size", "step"),
    [
        ("adamw", 120, 5),
        ("muon", 100, 5),
        ("adafactor", 100, 5),
        ("adamw, average and best", 480, 15),
    ],
)
def test_a_disk_that_is_really_full(tmp_path: Path, kind: str, size: int, step: int) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    try:
        with pytest.raises(UserError, match=r"cannot write .*: no space left on the disk"):
            small.run(disk)
        assert not list(disk.glob("checkpoints/.*"))
        found = checkpoint.latest(disk / "checkpoints")
        assert found is not None and found.step == 5
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_can_t_be_written(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        small.run(tmp_path / "run")
