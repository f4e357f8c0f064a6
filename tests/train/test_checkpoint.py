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
from tests.train import small

from headtohead.errors import UserError
from headtohead.model.transformer import Transformer
from headtohead.train import checkpoint


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
    ("state.json", alter, "state.json was altered"),
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


def test_two_are_kept(tmp_path: Path) -> None:
    small.run(tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000015",
        "step-00000020",
    ]


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
    record["format"] = 2
    (path / "state.json").write_text(json.dumps({**record, "sha256": checkpoint._digest(record)}))
    with pytest.raises(UserError, match="is a checkpoint of format 2: this version reads 1"):
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
    real = checkpoint._write_synced

    def full_at_step_10(path: Path, content: bytes) -> None:
        if path.name == failing and path.parent.name.endswith("10"):
            path.write_bytes(content[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, content)

    monkeypatch.setattr(checkpoint, "_write_synced", full_at_step_10)
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


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
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
