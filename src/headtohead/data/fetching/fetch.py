"""A data set by its name: into the user's cache, whole or not at all, once.

<cache>/NAME/source.json            what it is made of, by which licence, and how much there is
<cache>/NAME/…                      .txt and .jsonl files
<cache>/.archives/SHA256-PACKAGE    what was downloaded, so that what was cut off goes on
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headtohead.data.fetching.archives import Report, obtain
from headtohead.data.fetching.catalogue import Dataset, dataset_named
from headtohead.errors import UserError
from headtohead.files import FolderLock, explain_os_error, make_folder, read_json, sync_folder, write_atomic

PLACE = "HEADTOHEAD_DATA"
RECORD = "source.json"
ARCHIVES = ".archives"
RECIPES = 1
"""Of what the recipes make: one more when a change makes other files of the same archives."""


@dataclass(frozen=True)
class Fetched:
    """A data set on the disk. documents: files of text, or lines; bytes: of all files; sha256: over their names and
    contents. pinned: whether every archive is the pinned one.
    """

    name: str
    folder: Path
    documents: int
    bytes: int
    sha256: str
    pinned: bool
    files: dict[str, int]
    """Documents by file, of .jsonl files."""


def cache_folder() -> Path:
    """Where data is kept: HEADTOHEAD_DATA, else what the platform has for caches."""
    if place := os.environ.get(PLACE):
        return Path(place)
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "headtohead" / "data"


def fetched(name: str) -> Fetched | None:
    """What is there of a data set, if all of it is."""
    folder = cache_folder() / name
    if not (folder / RECORD).is_file():
        return None
    record = read_json(folder / RECORD, "the record of the data")
    if not isinstance(record, dict) or record.get("recipes") != RECIPES:
        return None
    try:
        known = {field: record[field] for field in ("documents", "bytes", "sha256", "pinned", "files")}
        return Fetched(name, folder, **known)
    except KeyError as missing:
        raise UserError(
            f"{folder / RECORD} is damaged, it has no {missing}: remove the folder and fetch again"
        ) from None


def fetch(name: str, report: Report, *, newer: bool = False, again: bool = False) -> Fetched:
    """Make a data set, or find that it is there.

    newer: take the versions that there are where pinned ones are gone. again: make it anew, of archives that are kept.

    Raises:
        UserError: no such data set; an archive can't be had or is damaged; the disk refuses; another process is at it.
    """
    dataset = dataset_named(name)
    if not again and (there := fetched(name)) is not None:
        return there
    root = cache_folder()
    for part in dataset.parts:
        fetch(part, report, newer=newer)
    with FolderLock(root / ARCHIVES / f".{name}"):
        if not again and (there := fetched(name)) is not None:
            return there
        return _made(dataset, root, report, newer)


def _made(dataset: Dataset, root: Path, report: Report, newer: bool) -> Fetched:
    had = [obtain(archive, root / ARCHIVES, report, newer=newer) for archive in dataset.archives]
    report(f"{dataset.name}: reading what was fetched")
    make_folder(root)
    try:
        made = Path(tempfile.mkdtemp(prefix=f".{dataset.name}.", dir=root))
    except OSError as error:
        raise UserError(f"cannot write {root}: {explain_os_error(error)}") from error
    try:
        made.chmod(0o755)
        digest, files, total, lines = hashlib.sha256(), 0, 0, {}
        for name, content in _contents(dataset, root, {one.archive.name: one.path for one in had}):
            data = content.encode()
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes(data)
            for part in (name.encode(), data):
                digest.update(len(part).to_bytes(8, "little") + part)
            total += len(data)
            if name.endswith(".jsonl"):
                lines[name] = content.count("\n")
            files += lines.get(name, 1)
        if not total:
            raise UserError(
                f"{dataset.name}: what was fetched holds no text, so it is another version than is known"
            )
        pinned = all(one.pinned for one in had) and all(
            there.pinned for part in dataset.parts if (there := fetched(part)) is not None
        )
        found = Fetched(dataset.name, root / dataset.name, files, total, digest.hexdigest(), pinned, lines)
        record: dict[str, Any] = {
            "recipes": RECIPES,
            "name": dataset.name,
            "title": dataset.title,
            "licence": dataset.licence,
            "archives": [
                {
                    "kind": a.archive.kind,
                    "name": a.archive.name,
                    "version": a.archive.version if a.pinned else None,
                }
                | {"sha256": a.sha256}
                for a in had
            ],
            "parts": list(dataset.parts),
        }
        record |= {key: value for key, value in asdict(found).items() if key not in ("name", "folder")}
        write_atomic(made / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        if found.folder.exists():
            found.folder.rename(made / ".before")  # goes away with the temporary name
            os.replace(made / ".before", root / f".{dataset.name}.before")
        os.replace(made, found.folder)
        sync_folder(root)
        return found
    except OSError as error:
        raise UserError(f"cannot write {made}: {explain_os_error(error)}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
        shutil.rmtree(root / f".{dataset.name}.before", ignore_errors=True)


def _contents(dataset: Dataset, root: Path, archives: dict[str, Path]) -> Iterator[tuple[str, str]]:
    if dataset.recipe is not None:
        yield from dataset.recipe(archives)
    for part in dataset.parts:
        for path in sorted((root / part).rglob("*.txt")):
            yield f"{part}/{path.relative_to(root / part).as_posix()}", path.read_text("utf-8")
