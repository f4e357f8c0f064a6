"""Words of text, as the byte-level pre-tokenizer of GPT-2 parts it, and their tokens remembered.

A byte-level BPE encodes each word by itself, and text repeats its words: looking one up is several times faster than
merging it again.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Sequence

PLAIN = 0x2100
"""Letters, marks and punctuation below this have been in Unicode so long that every library parts them alike."""
REMEMBERED = 1 << 17
LONGEST = 48


def _characters(kinds: str) -> str:
    found = (chr(c) for c in range(PLAIN) if unicodedata.category(chr(c))[0] in kinds)
    return "".join(map(re.escape, found))


def _spaces() -> str:
    """White_Space of Unicode: without the separators U+001C to U+001F, which Python counts too."""
    return "".join(re.escape(chr(c)) for c in range(PLAIN) if chr(c).isspace() and not 0x1C <= c <= 0x1F)


_L, _N, _S = _characters("L"), _characters("N"), _spaces()
WORD = re.compile(rf"'(?:s|t|re|ve|m|ll|d)| ?[{_L}]+| ?[{_N}]+| ?[^{_S}{_L}{_N}]+|[{_S}]+(?![^{_S}])|[{_S}]+")
OTHER = re.compile(f"[{chr(PLAIN)}-{chr(sys.maxunicode)}]")


class Words:
    """Encodes texts word by word. `encode`: the ids of each of some words or texts, by the tokenizer itself."""

    def __init__(self, encode: Callable[[Sequence[str]], list[list[int]]]) -> None:
        self._encode = encode
        self._known: dict[str, list[int]] = {}

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, the same as `encode` of it."""
        cut = [None if OTHER.search(text) else WORD.findall(text) for text in texts]
        known = self._known
        new = {word for words in cut if words for word in words if word not in known}
        found = dict(zip(new, self._encode(list(new)), strict=True)) if new else {}
        if len(known) < REMEMBERED:
            known.update((word, ids) for word, ids in found.items() if len(word) <= LONGEST)
        foreign = iter(self._encode([text for text, words in zip(texts, cut, strict=True) if words is None]))
        result: list[list[int]] = []
        for words in cut:
            if words is None:
                result.append(next(foreign))
                continue
            ids: list[int] = []
            for word in words:
                ids += known.get(word) or found[word]
            result.append(ids)
        return result
