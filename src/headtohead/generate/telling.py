"""Tokens as text while they are written: characters that aren't whole yet are held back, stop strings end it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
UNKNOWN = "�"


class Telling:
    """The text of one choice as its tokens come. What `push` and `flush` give, put together, is the text."""

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        self._decode, self._stop = decode, stop
        self._ids: list[int] = []
        # A token's text may depend on the one before it (a space at the beginning), so a few are decoded again:
        # those from `_from` on, of which `_told` characters have been passed on.
        self._from = self._whole = self._told = 0
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """What can be told after one more token; `stopped` says whether a stop string ended the text."""
        if self.stopped:
            return ""
        self._ids.append(token)
        seen = self._decode(self._ids[self._from :])
        whole = not seen.endswith(UNKNOWN)
        new = self._take(seen if whole else seen[:-1])
        if whole:
            self._from, self._whole = self._whole, len(self._ids)
            self._told = len(self._decode(self._ids[self._from : self._whole]))
        return self._without_stop(new)

    def flush(self) -> str:
        """The rest, once no token follows."""
        if self.stopped:
            return ""
        found = self._without_stop(self._take(self._decode(self._ids[self._from :])))
        held, self._held = self._held, ""
        return found if self.stopped else found + held

    def _take(self, seen: str) -> str:
        new, self._told = seen[self._told :], max(self._told, len(seen))
        return new

    def _without_stop(self, new: str) -> str:
        text = self._held + new
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self._held, self.stopped = "", True
            return text[: min(found)]
        keep = max((_beginning(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _beginning(text: str, stop: str) -> int:
    """How many characters at the end of a text are the beginning of a stop string."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
