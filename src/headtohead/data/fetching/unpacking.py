"""Members of archives, read without unpacking them to the disk: zip (wheels), tar (sdists, npm) and .deb."""

from __future__ import annotations

import fnmatch
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from headtohead.errors import UserError


def members(path: Path, *patterns: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file whose name fits a pattern (`fnmatch`, where * crosses folders), as they stand.

    Raises:
        UserError: it is damaged or of another kind, or nothing in it fits.
    """
    found = False
    try:
        for name, content in _all(path, patterns):
            found = True
            yield name, content
    except (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{path} can't be read as an archive ({error}): remove it and fetch again") from None
    if not found:
        raise UserError(
            f"{path} holds nothing called {' or '.join(patterns)}: it is another version than is known"
        )


def _all(path: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    def fits(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    with open(path, "rb") as file:
        start = file.read(8)
        file.seek(0)
        if start.startswith(b"PK"):
            with zipfile.ZipFile(file) as packed:
                yield from ((name, packed.read(name)) for name in sorted(packed.namelist()) if fits(name))
            return
        stream: io.IOBase | io.BufferedReader = _data_of_deb(file) if start == b"!<arch>\n" else file
        with tarfile.open(fileobj=stream, mode="r:*") as packed:  # pyright: ignore[reportCallIssue, reportArgumentType]
            for member in packed:
                name = member.name.removeprefix("./")
                if member.isfile() and fits(name):
                    content = packed.extractfile(member)
                    assert content is not None
                    yield name, content.read()


def _data_of_deb(file: io.BufferedReader) -> io.BytesIO:
    """The tar of a .deb's files: a member of an `ar` archive (deb(5)), each with a header of 60 bytes."""
    file.seek(8)
    while len(header := file.read(60)) == 60:
        name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
        if name.startswith("data.tar"):
            if name.endswith(".zst"):
                raise UserError(f"{file.name} is packed by zstd, which is not read: use another version")
            return io.BytesIO(file.read(size))
        file.seek(size + size % 2, io.SEEK_CUR)
    raise tarfile.ReadError("no data.tar in it")
