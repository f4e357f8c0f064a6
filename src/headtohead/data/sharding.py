"""Sharding: text of any size into shards, by several processes, in constant memory.

This process reads, drops empty texts and exact duplicates, says which part a document is in and where a shard ends;
workers tokenize blocks of about a MiB; what they give is written here, in the order it was read. So every byte
follows from the text and the settings, whatever the number of workers. Started again, shards that are whole are kept:
their text is read once more (duplicates are known by that, and a text that was altered is found out), not tokenized.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headtohead.data.blocks import PARTS, Block, Reader, Seen, Sharding, sample
from headtohead.data.corpora import Document
from headtohead.data.objectives import tokenizer_texts
from headtohead.data.sources import Source
from headtohead.data.stream import FORMAT, MANIFEST, PLAN, Sharded
from headtohead.data.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer, train_tokenizer
from headtohead.data.workers import Cut, Workers
from headtohead.data.writing import ShardWriter, whole
from headtohead.errors import UserError
from headtohead.files import FolderLock, read_json, write_atomic


@dataclass
class Progress:
    """How far it is. `read` of `total` bytes of the sources (total None: nobody knows); `kept`: bytes of text in shards
    that were whole already, `made`: in those that were made now.
    """

    stage: str = "tokenizer"
    read: int = 0
    total: int | None = None
    kept: int = 0
    made: int = 0
    documents: int = 0
    shards: int = 0


OnProgress = Callable[[Progress], None]


def shard(
    sources: Sequence[Source],
    settings: Sharding,
    out: Path,
    *,
    workers: int = 1,
    tokenizer: Tokenizer | None = None,
    on_progress: OnProgress | None = None,
) -> Sharded:
    """Make OUT, or go on with it, or find it made; returns it open. `tokenizer`: in place of one that is trained.

    Raises:
        UserError: OUT is of other text or settings, text that can't be read, none at all, a full disk.
    """
    with FolderLock(out):
        plan = _plan(sources, settings, tokenizer)
        _check_plan(out, plan)
        if (out / MANIFEST).is_file():
            return Sharded.open(out)
        build = _Build(sources, settings, out, on_progress or (lambda progress: None))
        write_atomic(out / PLAN, json.dumps(plan, indent=1, ensure_ascii=False) + "\n")
        found = build.tokenizer(tokenizer)
        description = build.run(found, workers)
        write_atomic(out / MANIFEST, json.dumps(description, indent=1, ensure_ascii=False) + "\n")
        return Sharded.open(out)


def _plan(sources: Sequence[Source], settings: Sharding, tokenizer: Tokenizer | None) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "settings": settings.model_dump(mode="json"),
        "tokenizer_sha256": tokenizer.sha256 if tokenizer else None,
        "sources": [
            {"name": source.name, "weight": source.weight, "files": [list(file) for file in source.files]}
            for source in sources
        ],
    }


def _check_plan(out: Path, plan: dict[str, Any]) -> None:
    if not (out / PLAN).is_file():
        if any(path.name != ".lock" for path in out.iterdir()):
            raise UserError(f"{out} holds other files: choose a new folder for the shards")
        return
    there = read_json(out / PLAN, "the plan of the shards")
    if there != plan:
        old, new = (there if isinstance(there, dict) else {}), plan
        differs = [key for key in new if old.get(key) != new[key]]
        if "settings" in differs and isinstance(old.get("settings"), dict):
            was, now = old["settings"], new["settings"]
            differs = [key for key in now if was.get(key) != now[key]] + [
                k for k in differs if k != "settings"
            ]
        raise UserError(
            f"{out} was begun with other {', '.join(differs)}: give the same, choose another folder, or delete it"
        )


# ---------------------------------------------------------------------------------------------------------- writing


class _Build:
    def __init__(self, sources: Sequence[Source], settings: Sharding, out: Path, tell: OnProgress) -> None:
        self.sources, self.settings, self.out, self.tell = sources, settings, out, tell
        sizes = [source.bytes for source in sources]
        self.progress = Progress(total=None if None in sizes else sum(size or 0 for size in sizes))

    def tokenizer(self, given: Tokenizer | None) -> Tokenizer:
        """The one that is given, was trained before, or is trained now; saved."""
        path, extra = self.out / "tokenizer.json", self.settings.extra_tokens
        if given is not None and (missing := set(extra) - set(given.extra)):
            raise UserError(
                f"the tokenizer lacks the special tokens {', '.join(sorted(missing)[:5])} that the objectives need: "
                "leave --tokenizer out, to train one that has them"
            )
        if given is None and path.is_file():
            return load_tokenizer(path)
        self.tell(self.progress)
        if given is None and self.settings.tokenizer == "bytes":
            given = ByteTokenizer(extra)
        if given is None:
            texts = [text for text in sample(self.sources, self.settings) if text.strip()]
            if not texts:
                raise self._nothing()
            for objective in self.settings.objectives:
                objective.check(texts)
            documents = [Document("", text, "") for text in texts]
            cut = tokenizer_texts(documents, self.settings.objectives, self.settings.window_bytes)
            given = train_tokenizer(cut, self.settings.vocabulary, extra)
        given.save(path)
        return given

    def _nothing(self) -> UserError:
        names = ", ".join(source.name for source in self.sources)
        return UserError(f"{names}: no text to train on: every document is empty, or held out for validation")

    def run(self, tokenizer: Tokenizer, workers: int) -> dict[str, Any]:
        """Make every shard that isn't there; returns the description of all."""
        seen = Seen()
        described: list[dict[str, Any]] = []
        self.progress.stage = "shards"
        with Workers(workers, self.out / "tokenizer.json", Cut.of(self.settings)) as pool:
            before = 0
            for source in self.sources:
                reader = Reader(source, self.settings, seen)
                parts = _Shards(self, source.name, tokenizer, reader, before).make(pool)
                described.append(
                    {
                        "name": source.name,
                        "weight": source.weight,
                        "documents": reader.documents,
                        "duplicates": reader.duplicates,
                        "empty": reader.empty,
                        "parts": {part: {"shards": records} for part, records in parts.items()},
                    }
                )
                before += source.bytes or 0
                if not parts["train"]:
                    raise UserError(
                        f"{source.name}: no text to train on: every document is empty, held out or in another source"
                    )
        digest = hashlib.sha256()
        for one in described:
            for part in PARTS:
                for record in one["parts"][part]["shards"]:
                    digest.update(bytes.fromhex(record["text_sha256"]))
        return {
            "format": FORMAT,
            "settings": self.settings.model_dump(mode="json"),
            "objectives": list(self.settings.keys),
            "vocabulary": tokenizer.vocabulary,
            "tokenizer_sha256": tokenizer.sha256,
            "corpus_sha256": digest.hexdigest(),
            "sources": described,
        }


class _Shards:
    """The shards of one source."""

    def __init__(self, build: _Build, source: str, tokenizer: Tokenizer, reader: Reader, before: int) -> None:
        self.build, self.source, self.tokenizer, self.reader = build, source, tokenizer, reader
        self.before = before
        self.about = {"tokenizer_sha256": tokenizer.sha256}
        self.records: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
        self.writers: dict[str, ShardWriter] = {}
        self.kept: dict[str, dict[str, Any] | None] = {}
        self.digests: dict[str, Any] = {}
        self.sizes: dict[str, int] = {}

    def make(self, pool: Workers) -> dict[str, list[dict[str, Any]]]:
        waiting: deque[tuple[Block, Future[Any] | None]] = deque()
        with ExitStack() as stack:
            stack.callback(self._discard)
            for block in self.reader.blocks():
                waiting.append((block, None if self._is_kept(block) else pool.submit(block.texts)))
                if len(waiting) > pool.ahead:
                    self._finish(*waiting.popleft())
            while waiting:
                self._finish(*waiting.popleft())
        return self.records

    def _name(self, block: Block) -> str:
        return f"{self.source}.{block.part}.{block.number:05d}"

    def _is_kept(self, block: Block) -> bool:
        name = self._name(block)
        if name not in self.kept:
            self.kept[name] = whole(self.build.out, name, self.about)
        return self.kept[name] is not None

    def _finish(self, block: Block, future: Future[Any] | None) -> None:
        name, progress = self._name(block), self.build.progress
        digest = self.digests.setdefault(name, hashlib.sha256())
        for each, key in zip(block.names, block.keys, strict=True):
            digest.update(f"{key:016x} {each}\n".encode())
        self.sizes[name] = self.sizes.get(name, 0) + block.bytes
        if future is not None:
            if name not in self.writers:
                settings = self.build.settings
                self.writers[name] = ShardWriter(
                    self.build.out, name, settings.keys, self.tokenizer.vocabulary
                )
            self.writers[name].add(block.names, future.result())
            progress.made += block.bytes
        else:
            progress.kept += block.bytes
        if block.last:
            text = {"text_sha256": self.digests.pop(name).hexdigest(), "bytes": self.sizes.pop(name)}
            self.records[block.part].append(
                self._record(name, text, self.kept.get(name) if future is None else None)
            )
            progress.shards += 1
        progress.documents = progress.documents + len(block.names)
        progress.read = self.before + self.reader.read
        self.build.tell(progress)

    def _record(self, name: str, text: dict[str, Any], kept: dict[str, Any] | None) -> dict[str, Any]:
        if kept is None:
            return self.writers.pop(name).finish({**self.about, **text})
        if any(kept.get(key) != value for key, value in text.items()):
            raise UserError(
                f"the text of {self.source} is not what {self.build.out / name} was made of: "
                f"delete {self.build.out} and start again"
            )
        return kept

    def _discard(self) -> None:
        for writer in self.writers.values():
            writer.discard()
