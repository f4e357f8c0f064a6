"""Words and sentences of any text, as pieces that join to it exactly."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from headtohead.errors import UserError

HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
_PIECES = re.compile(rf"[{HAN}]+|(?:(?![{HAN}])[\w'’])+|\s+|.", re.DOTALL)
_HAN = re.compile(rf"[{HAN}]")
_SENTENCES = re.compile(r".+?(?:[.!?][\"'”’)\]]*(?=\s|$)\s*|[。！？…]+[”’」』）]*\s*|\n+|$)", re.DOTALL)
_CLAUSES = re.compile(r".+?(?:[,;:](?=\s|$)\s*|[，；：、]+|$)", re.DOTALL)


def words(text: str) -> list[str]:
    """Words, runs of white space and single signs, in order; joined they are the text.

    Letters and digits that touch are a word. Chinese is segmented by `jieba`.

    Raises:
        UserError: there is Chinese in the text, and jieba isn't installed.
    """
    found: list[str] = []
    for piece in _PIECES.findall(text):
        found += _segmented(piece) if _HAN.match(piece) else [piece]
    return found


def sentences(text: str) -> list[str]:
    """Sentences with the white space after them, in order; joined they are the text. Where there is one
    alone, its clauses.
    """
    found = _SENTENCES.findall(text)
    return found if len(found) > 1 else _CLAUSES.findall(text)


def is_word(piece: str) -> bool:
    """Whether a piece of `words` is one: not white space, not a sign."""
    return piece[:1].isalnum()


def _segmented(piece: str) -> list[str]:
    return list(_jieba().cut(piece, HMM=False)) if len(piece) > 1 else [piece]


@cache
def _jieba() -> Any:
    try:
        import jieba  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise UserError(
            "Chinese text is segmented into words by jieba, which isn't installed: pip install 'headtohead[zh]'"
        ) from None
    jieba.setLogLevel(60)
    return jieba
