"""Archives of packages by name: from PyPI by pip, from Debian by apt-get, from npm by npm; all pinned by SHA-256.

Each is had through the client that people have set up for their machine (mirrors and proxies included). Where there is
no such client, or it no longer has the pinned version, the public servers are asked over HTTP, and a download that was
cut off goes on where it ended. Nothing that is in an archive is run.
"""

from __future__ import annotations

import bz2
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from headtohead.errors import UserError
from headtohead.files import explain_os_error, make_folder, sha256_of, sync_folder

Report = Callable[[str], None]
CHUNK = 1 << 16
PATIENCE = 60
"""Seconds without a byte before a connection counts as gone."""


@dataclass(frozen=True)
class Archive:
    """One file of a package.

    kind: "pypi" a wheel or sdist, "npm" a tarball, "debian" a .deb, "debian-index" the English descriptions of a
    release (its `name`: bookworm). size: bytes. urls: public places of the same file, tried in turn.
    """

    kind: Literal["pypi", "npm", "debian", "debian-index"]
    name: str
    version: str
    sha256: str
    size: int
    urls: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Had:
    """An archive on the disk; `pinned` is False where it is another version, which was asked for in so many words."""

    archive: Archive
    path: Path
    sha256: str
    pinned: bool


def obtain(archive: Archive, folder: Path, report: Report, *, newer: bool = False) -> Had:
    """The archive, from `folder` if it is there (checked), else fetched into it.

    newer: whether another version than the pinned one will do, where that is gone.

    Raises:
        UserError: it can't be had, or what comes is not what is pinned.
    """
    kept = folder / f"{archive.sha256[:16]}-{archive.name.replace('/', '-')}"
    if kept.is_file() and sha256_of(kept) == archive.sha256:
        return Had(archive, kept, archive.sha256, True)
    make_folder(folder)
    reasons: list[str] = []
    with tempfile.TemporaryDirectory(prefix=".fetching.", dir=folder) as made:
        for way in (_by_client, _by_http):
            try:
                found = way(archive, Path(made), folder, report, newer)
            except _Gone as gone:
                reasons.append(str(gone))
                continue
            digest = sha256_of(found)
            if digest != archive.sha256 and not newer:
                reasons.append(f"{found.name} is another file than the pinned one (sha256 {digest[:16]}…)")
                continue
            target = kept if digest == archive.sha256 else folder / f"{digest[:16]}-{kept.name[17:]}"
            os.replace(found, target)
            sync_folder(folder)
            return Had(archive, target, digest, digest == archive.sha256)
    hint = "" if archive.kind in ("pypi", "npm") else "; --newer takes the version that there is now"
    raise UserError(f"{archive} can't be fetched: {'; '.join(reasons)}{hint}")


class _Gone(Exception):
    """One way to an archive doesn't lead there."""


# ----------------------------------------------------------------------------------------------------------- clients


def _by_client(archive: Archive, made: Path, folder: Path, report: Report, newer: bool) -> Path:
    report(f"{archive}: {archive.size / 1e6:,.1f} MB")
    way = {"pypi": _by_pip, "npm": _by_npm, "debian": _by_apt, "debian-index": _index_by_apt}[archive.kind]
    return way(archive, made, newer)


def _by_pip(archive: Archive, made: Path, newer: bool) -> Path:
    """With the hash required: pip looks into an sdist before it is ours to check, which may run what is in it."""
    wanted = made / "wanted.txt"
    wanted.write_text(f"{archive.name}=={archive.version} --hash=sha256:{archive.sha256}\n", "utf-8")
    # Beside the package of this hash there may be one of the other kind: pip takes the one that the hash names.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-q"]
    _run([*command, "--require-hashes", "-r", str(wanted), "-d", str(made / "had")], made)
    return _only(made / "had")


def _by_npm(archive: Archive, made: Path, newer: bool) -> Path:
    (made / "had").mkdir()
    name = f"{archive.name}@{archive.version}"
    _run(["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(made / "had"), name], made)
    return _only(made / "had")


def _by_apt(archive: Archive, made: Path, newer: bool) -> Path:
    (made / "had").mkdir()
    named = f"{archive.name}={archive.version}"
    try:
        _run(["apt-get", "download", "-q", named], made / "had")
    except _Gone:
        lists = _lists(made)
        _run(["apt-get", *lists, "update", "-q"], made)
        try:
            _run(["apt-get", *lists, "download", "-q", named], made / "had")
        except _Gone:
            if not newer:
                raise
            _run(["apt-get", *lists, "download", "-q", archive.name], made / "had")
    return _only(made / "had")


def _index_by_apt(archive: Archive, made: Path, newer: bool) -> Path:
    _run(["apt-get", *_lists(made), "update", "-q"], made)
    found = sorted((made / "lists").glob(f"*_dists_{archive.name}_main_i18n_Translation-en"))
    if not found:
        raise _Gone(f"this machine's apt knows no {archive.name}")
    return found[0]


def _lists(made: Path) -> list[str]:
    """Options of apt-get for lists of its own: the machine's stay as they are, and no rights are needed."""
    (made / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State::lists": made / "lists",
        "Acquire::Languages": "en",
        "Acquire::GzipIndexes": "false",
        "APT::Sandbox::User": "",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def _run(command: list[str], where: Path) -> None:
    if shutil.which(command[0]) is None:
        raise _Gone(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        told = (
            [line for line in lines if line.startswith(("E:", "ERROR:", "npm error"))] or lines[-1:] or ["?"]
        )
        name = "pip" if command[0] == sys.executable else command[0]
        raise _Gone(f"{name}: {told[-1][:200]}")


def _only(folder: Path) -> Path:
    found = [path for path in folder.iterdir() if path.is_file()]
    if len(found) != 1:
        raise _Gone(f"{len(found)} files came instead of one")
    return found[0]


# -------------------------------------------------------------------------------------------------------------- HTTP


def _by_http(archive: Archive, made: Path, folder: Path, report: Report, newer: bool) -> Path:
    reasons = []
    for url in archive.urls:
        # The part is kept beside the archives, so that the next call goes on with it.
        part = folder / f".{hashlib.sha256(url.encode()).hexdigest()[:16]}.part"
        try:
            download(url, part, lambda done, total: report(f"{archive}: {done / 1e6:,.1f} MB"))
        except _Gone as gone:
            reasons.append(str(gone))
            continue
        found = made / "by-http"
        os.replace(part, found)
        if url.endswith(".bz2"):  # apt keeps an index unpacked, and that is what is pinned
            found.write_bytes(bz2.decompress(found.read_bytes()))
        if newer or sha256_of(found) == archive.sha256:
            return found
        reasons.append(f"{url} is another file than the pinned one")
    raise _Gone("; ".join(reasons) or "no public address of it is known")


def download(url: str, part: Path, on_progress: Callable[[int, int | None], None] | None = None) -> None:
    """Bring what an address holds into `part`, going on after the bytes that are there.

    Raises:
        _Gone: the server has none of it, or the connection ended; what came stays.
    """
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "headtohead"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            goes_on = answer.status == 206
            length = answer.headers.get("Content-Length")
            total = int(length) + (start if goes_on else 0) if length else None
            done = start if goes_on else 0
            with open(part, "ab" if goes_on else "wb") as file:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    if on_progress is not None:
                        on_progress(done, total)
        if total is not None and done < total:
            raise _Gone(f"{url} ended after {done:,} of {total:,} bytes")
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # nothing is left after what is there
            return
        raise _Gone(f"{url}: {error.code} {error.reason}") from None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise _Gone(f"{url}: {getattr(error, 'reason', error)}") from None
    except OSError as error:
        raise UserError(f"cannot write {part}: {explain_os_error(error)}") from error
