"""Atomic writes, strict reads, checksums and the folder's lock."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headtohead.errors import UserError
from headtohead.files import FolderLock, read_json, read_text, sha256_of, write_atomic


def test_write_atomic_writes_text_and_bytes_and_makes_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_atomic(path, "naïve 词")
    assert path.read_bytes() == "naïve 词".encode()
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(path.parent) == ["c.txt"]


def test_write_atomic_gives_ordinary_permissions_and_keeps_given_ones(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    write_atomic(path, "x")
    assert path.stat().st_mode == ordinary.stat().st_mode
    path.chmod(0o640)
    write_atomic(path, "y")
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "write":
        monkeypatch.setattr(os, "fchmod", full)
    else:
        monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match=r"cannot write .*result\.json: no space left on the disk"):
        write_atomic(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_really_full_device_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(OSError) as caught, open("/dev/full", "wb", buffering=0) as file:
        file.write(b"x")
    from headtohead.files import explain_os_error

    assert explain_os_error(caught.value) == "no space left on the disk"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/sub: a file stands where a folder is needed"):
        write_atomic(tmp_path / "file" / "sub" / "x", "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"   \n", "is empty"),
        (b'{"a": \xff}', "not UTF-8: byte 0xff in line 1"),
        (b'{"a": 1,\n "b" 2}', "not valid JSON: .* in line 2, column 6"),
        (b"[" * 100_000, "nested too deeply|not valid JSON"),
    ],
)
def test_read_json_says_what_is_wrong(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_json(path, "the run")
    assert "the run" in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reads(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, null]}')
    assert read_json(path, "x") == {"a": [1, 2.5, None]}
    assert read_text(path, "x").startswith("{")
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(UserError, match="it is a folder"):
        read_text(tmp_path, "the text")
    with pytest.raises(UserError, match="no such file"):
        sha256_of(tmp_path / "absent")


def test_user_errors_are_one_line() -> None:
    assert str(UserError("a\n  b\tc ")) == "a b c"


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    with FolderLock(tmp_path), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        FolderLock(tmp_path).acquire()
    with FolderLock(tmp_path):
        pass


HOLD = """
import subprocess, sys, time
from pathlib import Path
from headtohead.files import FolderLock
lock = FolderLock(Path(sys.argv[1]))
lock.acquire()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_the_lock_dies_with_its_owner_even_if_a_child_lives_on(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    try:
        with pytest.raises(UserError, match=f"in use by process {owner.pid}"):
            FolderLock(tmp_path).acquire()
        owner.kill()
        owner.wait()
        with FolderLock(tmp_path):
            pass
    finally:
        owner.kill()
        owner.stdout.close()
        os.kill(child, signal.SIGKILL)
