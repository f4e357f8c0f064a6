"""``metrics.jsonl``: one line a logged step, each step once however often the run was stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from headtohead.errors import UserError
from headtohead.files import explain_os_error, make_folder, write_atomic


class MetricsFile:
    """Lines appended to ``path``; on opening, lines after ``step`` (a killed run's, past its checkpoint) are
    cut. Without a path nothing is written: another process of the run does.

    Raises:
        UserError: naming the file, when it can't be read or written (disk full, …).
    """

    def __init__(self, path: Path | None, step: int) -> None:
        self.path, self._file = path, None
        if path is None:
            return
        make_folder(path.parent)
        try:
            old = path.read_bytes() if path.exists() else b""
            kept = b"".join(line for line in old.splitlines(keepends=True) if _is_kept(line, step))
            if kept != old:
                write_atomic(path, kept)
            self._file = open(path, "ab")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise self._error(error) from error

    def append(self, line: Mapping[str, Any]) -> None:
        """One step's line, handed to the kernel at once: it outlives this process."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(line).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._error(error) from error

    def sync(self) -> None:
        """To the disk, before a checkpoint that will take these lines for written."""
        if self._file is None:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        if self._file is None:
            return
        try:
            self._file.close()
        except OSError as error:  # a full disk may show only when the last bytes are flushed
            raise self._error(error) from error

    def _error(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self.path}: {explain_os_error(error)}")

    def __enter__(self) -> MetricsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except UserError:
            if error is None:
                raise


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``, without a last one cut short; empty when there is no file yet."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if _step_of(line) is not None]


def _is_kept(line: bytes, step: int) -> bool:
    at = _step_of(line)
    return at is not None and at <= step


def _step_of(line: bytes) -> int | None:
    """The step of a whole line; None for one that was cut short."""
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None
