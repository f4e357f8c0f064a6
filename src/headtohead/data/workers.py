"""Processes that tokenize: each has the tokenizer, gets texts and gives the arrays of their examples."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from headtohead.data.blocks import Sharding
from headtohead.data.corpora import Document
from headtohead.data.objectives import Objective, aligned
from headtohead.data.packing import fits_row
from headtohead.data.tokenizers import Tokenizer, load_tokenizer
from headtohead.data.writing import Piece
from headtohead.errors import UserError


@dataclass(frozen=True)
class Cut:
    """How windows are cut: what a worker has to know of the settings."""

    objectives: tuple[Objective, ...]
    window_bytes: int
    row: int
    side: int

    @classmethod
    def of(cls, settings: Sharding) -> Cut:
        return cls(tuple(settings.objectives), settings.window_bytes, settings.row, settings.side)


def pieces(texts: Sequence[str], tokenizer: Tokenizer, cut: Cut) -> list[Piece]:
    """The examples of some documents, a piece for each objective; documents are numbered from 0."""
    documents = [Document(f"a document ({text[:40]!r}…)", text, "") for text in texts]
    plans = [[objective] for objective in cut.objectives]
    fits = partial(fits_row, row=cut.row, side=cut.side)
    return [Piece.of(store) for store in aligned(documents, plans, tokenizer, cut.window_bytes, fits)]


_mine: tuple[Tokenizer, Cut] | None = None


def _start(tokenizer: Path, cut: Cut) -> None:
    """Begin a worker: Ctrl-C is for the parent to hear, and without the parent there is nothing to do."""
    global _mine
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _mine = load_tokenizer(tokenizer), cut


def _end_with(sentinel: int) -> NoReturn:
    connection.wait([sentinel])
    os._exit(1)


def _work(texts: Sequence[str]) -> list[Piece]:
    assert _mine is not None
    return pieces(texts, *_mine)


class Workers:
    """`with Workers(n, tokenizer, cut) as pool`: one works in this process, more in processes of their own.

    ahead: blocks that may be under way, which is what bounds the memory.
    """

    def __init__(self, count: int, tokenizer: Path, cut: Cut) -> None:
        self.ahead = 2 * count if count > 1 else 0
        self._here = (load_tokenizer(tokenizer), cut) if count == 1 else None
        self._pool: ProcessPoolExecutor | None = None
        if count > 1:
            # Spawned, not forked: the tokenizer's own threads don't live through a fork.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(count, context, _start, (tokenizer, cut))

    def submit(self, texts: Sequence[str]) -> Future[Any]:
        """The pieces of these texts, in time."""
        if self._pool is not None:
            return self._pool.submit(_work, texts)
        assert self._here is not None
        future: Future[Any] = Future()
        future.set_result(pieces(texts, *self._here))
        return future

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                "a worker process died (out of memory?): start the same command again with fewer --workers"
            ) from error
