"""Files that are whole or absent: atomic writes, strict reads, checksums, a folder's lock."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from headtohead.errors import UserError


def explain_os_error(error: OSError) -> str:
    """The reason of an ``OSError`` in words a person can act on, without its path."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "no space left on the disk"
        case errno.EACCES | errno.EPERM:
            return "permission denied"
        case errno.EROFS:
            return "the file system is read-only"
        case errno.ENOENT:
            return "no such file or folder"
        case errno.ENOTDIR | errno.EEXIST:
            return "a file stands where a folder is needed"
        case errno.EISDIR:
            return "it is a folder, not a file"
        case errno.ENAMETOOLONG:
            return "the name is too long"
        case _:
            return (error.strerror or type(error).__name__).lower()


def make_folder(path: Path) -> None:
    """Make ``path`` and the folders above it.

    Raises:
        UserError: naming the folder, when it can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {explain_os_error(error)}") from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write ``content`` (text as UTF-8) to ``path`` so that readers see the old file or all of the new.

    The bytes go to a temporary file in the same folder, to the disk, then over ``path`` in one step; the
    folder is made if it is missing. A failure leaves ``path`` as it was and no temporary file behind. (A
    ``kill -9`` may leave a ``.<name>.<random>.tmp``, which nothing reads.)

    Raises:
        UserError: naming the path and the reason (disk full, not writable, …).
    """
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    make_folder(path.parent)
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(
            prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent
        )
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), _mode_of_new_file(path))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {explain_os_error(error)}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _mode_of_new_file(path: Path) -> int:
    """``mkstemp`` makes private files: give back the mode ``path`` has, or the one the umask asks for."""
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk: a rename is there only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bytes(path: Path, what: str) -> bytes:
    """The bytes of ``path``; ``what`` says in the error what the file was to be ("the study", "a result").

    Raises:
        UserError: missing, a folder, or not readable.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {what} {path}: {explain_os_error(error)}") from error


def read_text(path: Path, what: str) -> str:
    """The text of ``path``, strictly UTF-8 (a byte-order mark is dropped).

    Raises:
        UserError: missing, not readable, or not UTF-8 (with the line of the first bad byte).
    """
    data = read_bytes(path, what)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{what} {path} is not UTF-8: byte 0x{data[error.start]:02x} in line {line}"
        ) from error


def read_json(path: Path, what: str) -> Any:
    """The JSON document in ``path``.

    Raises:
        UserError: missing, not readable, not UTF-8, or malformed (with line and column).
    """
    text = read_text(path, what)
    if not text.strip():
        raise UserError(f"{what} {path} is empty: it should hold a JSON document")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{what} {path} is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from error
    except RecursionError as error:
        raise UserError(f"{what} {path} is not usable JSON: nested too deeply") from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of the bytes of ``path``, in hex.

    Raises:
        UserError: missing or not readable.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {explain_os_error(error)}") from error


class FolderLock:
    """One process at a time in a folder: ``with FolderLock(folder): …``.

    An exclusive ``flock`` on ``folder/.lock``: the kernel frees it when the process ends, by ``kill -9`` too,
    so no stale lock is ever to be cleaned up. The file holds the owner's process id, for the message only.
    The descriptor is not inherited by child programs, so a worker can't keep its dead parent's lock alive.

    Raises:
        UserError: on entering, when another process holds the folder or the lock file can't be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock at once or raise; see the class."""
        if self._descriptor is not None:
            raise RuntimeError(f"the lock of {self.folder} is taken twice by one object")
        make_folder(self.folder)
        path = self.folder / ".lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UserError(f"cannot write {path}: {explain_os_error(error)}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise UserError(
                f"{self.folder} is in use by process {owner}: wait for it or end it first"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise UserError(f"cannot lock {path}: {explain_os_error(error)}") from error
        self._descriptor = descriptor
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
        except OSError as error:
            self.release()
            raise UserError(f"cannot write {path}: {explain_os_error(error)}") from error

    def release(self) -> None:
        """Give the folder back. The file stays: were it removed, two processes could hold two locks."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
