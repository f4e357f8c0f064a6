"""Windows: a text cut on bytes into pieces of nearly one size, the same for every objective and every arm."""

from __future__ import annotations

import unicodedata

WORD_REACH = 16  # a cut moves back by at most this many bytes to fall before a space


def windows(text: str, size_bytes: int) -> list[str]:
    """Cut a text into the fewest windows of at most `size_bytes` bytes of UTF-8, of nearly equal size.

    The windows joined are the text, exactly. A cut is never inside a character, falls before a space if one
    is near, and does not part a character from the combining marks on it (unless the marks alone outgrow a
    window). `size_bytes` is at least 4, the longest character.
    """
    if size_bytes < 4:
        raise ValueError(f"windows of {size_bytes} bytes cannot hold every character: 4 is the least")
    data = text.encode()
    found: list[str] = []
    start = 0
    while start < len(data):
        left = len(data) - start
        count = -(-left // size_bytes)
        size = left if count == 1 else cut_at(data[start : start + size_bytes + 4], -(-left // count))
        # Where no cut goes before the first character, it is a window of its own: 4 bytes at most.
        end = start + (
            size or next(n for n in range(1, 5) if start + n == len(data) or data[start + n] & 0xC0 != 0x80)
        )
        found.append(data[start:end].decode())
        start = end
    return found


def passages(text: str, window_bytes: int, overlap_bytes: int) -> list[tuple[str, str]]:
    """A long text as pairs of what comes before a piece, and the piece: the pieces joined are the text, exactly.

    Pieces have at most `window_bytes - overlap_bytes` bytes; before each stand the `overlap_bytes` before it (up to
    `WORD_REACH` more, so as not to begin inside a word), and nothing before the first.

    Raises:
        ValueError: pieces of less than 4 bytes, or an overlap below 0.
    """
    if overlap_bytes < 0:
        raise ValueError(f"an overlap of {overlap_bytes} bytes: 0 is the least")
    data = text.encode()
    found: list[tuple[str, str]] = []
    at = 0
    for piece in windows(text, window_bytes - overlap_bytes):
        before = cut_at(data, at - overlap_bytes) if at > overlap_bytes else 0
        found.append((data[before:at].decode(), piece))
        at += len(piece.encode())
    return found


def cut_at(data: bytes, at: int) -> int:
    """The nearest place at or before `at` where UTF-8 `data` may be cut: see `windows`. May be 0."""
    here = _boundary(data, at)
    space = data.rfind(b" ", max(1, here - WORD_REACH), here + 1)
    if space > 0:
        following = data[space + 1 : space + 5].decode(errors="ignore")
        if not (following and _extends(following[0])):
            return space
    place = here
    while 0 < place < len(data) and _extends(data[place : place + 4].decode(errors="ignore")[:1]):
        place = _boundary(data, place - 1)
    return place if place > 0 else here


def _boundary(data: bytes, at: int) -> int:
    while 0 < at < len(data) and data[at] & 0xC0 == 0x80:  # a continuation byte of UTF-8
        at -= 1
    return at


def _extends(character: str) -> bool:
    """Whether a character attaches to the one before it: combining marks, variation selectors, the joiner."""
    return character != "" and (unicodedata.category(character).startswith("M") or character == "\u200d")
