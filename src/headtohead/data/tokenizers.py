"""Tokenizers: byte-level BPE trained on the training text (Hugging Face `tokenizers`), or plain bytes.

Both are lossless on any text and never produce a special token from text: ids 0..6 are the special tokens of
`shards.SPECIALS`, which stand in the vocabulary without a merge that leads to them. What the objectives of a
study need beside them (sentinels, a mask) stands at the vocabulary's end, in the same way.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from headtohead.data.shards import SPECIALS
from headtohead.data.words import Words
from headtohead.errors import UserError
from headtohead.files import read_json, write_atomic

FIRST = len(SPECIALS)  # id of the first token that is text
SMALLEST = FIRST + 256  # every byte must have a token
SPECIAL_NAME = re.compile(r"<[a-z0-9_-]+>")


class Tokenizer(Protocol):
    """What every tokenizer offers. `decode(encode(text)) == text`, always; specials decode to nothing.

    `extra`: the special tokens at the end of the vocabulary. `sizes` (V,): the bytes of text that each token
    is, 0 for the special ones.
    """

    @property
    def vocabulary(self) -> int: ...
    @property
    def extra(self) -> tuple[str, ...]: ...
    @property
    def sizes(self) -> npt.NDArray[np.int64]: ...
    @property
    def sha256(self) -> str: ...
    def encode(self, text: str) -> list[int]: ...
    def encode_many(self, texts: Sequence[str]) -> list[list[int]]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def save(self, path: Path) -> None: ...


class ByteTokenizer:
    """One token a byte of UTF-8: vocabulary 7 + 256, and the extra specials."""

    def __init__(self, extra: Sequence[str] = ()) -> None:
        self.extra: tuple[str, ...] = tuple(extra)
        self.vocabulary: int = SMALLEST + len(extra)

    @property
    def content(self) -> str:
        """What `save` writes."""
        extra = {"extra": list(self.extra)} if self.extra else {}
        return json.dumps({"bytes": True, "specials": list(SPECIALS), **extra}) + "\n"

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        return np.repeat([0, 1, 0], [FIRST, 256, len(self.extra)]).astype(np.int64)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        return [FIRST + byte for byte in text.encode()]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i - FIRST for i in ids if FIRST <= i < SMALLEST).decode(errors="replace")

    def save(self, path: Path) -> None:
        write_atomic(path, self.content)


class BPETokenizer:
    """Byte-level BPE in the Hugging Face `tokenizer.json` form."""

    def __init__(self, content: str) -> None:
        self._content = content
        self._tokenizer = tokenizers.Tokenizer.from_str(content)
        self.extra: tuple[str, ...] = self._specials_at_the_end()
        self._text_ends = self.vocabulary - len(self.extra)
        # A tokenizer of another make, that parts words otherwise, is left to the library.
        self._words = Words(self._encoded) if _parts_words(content) else None

    def _specials_at_the_end(self) -> tuple[str, ...]:
        """The pre-tokenizer parts "<" from letters, so no token of text is of a special one's form."""
        found: list[str] = []
        last = self.vocabulary - 1
        while last >= SMALLEST and SPECIAL_NAME.fullmatch(name := self._tokenizer.id_to_token(last) or ""):
            found.append(name)
            last -= 1
        return tuple(reversed(found))

    @property
    def vocabulary(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=False)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        return self._sizes

    @cached_property
    def _sizes(self) -> npt.NDArray[np.int64]:
        # A character of a byte-level token is a byte.
        text = [len(self._tokenizer.id_to_token(i) or "") for i in range(FIRST, self._text_ends)]
        return np.array([0] * FIRST + text + [0] * len(self.extra), np.int64)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self._content.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        return self._words.encode_many(list(texts)) if self._words else self._encoded(texts)

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        text = [int(i) for i in ids if FIRST <= i < self._text_ends]
        return self._tokenizer.decode(text, skip_special_tokens=False)

    def save(self, path: Path) -> None:
        write_atomic(path, self._content)


def _parts_words(content: str) -> bool:
    """Whether it encodes each of GPT-2's words by itself, and does nothing else to a text."""
    made = json.loads(content)
    parts = made.get("pre_tokenizer") or {}
    return (
        made["model"].get("type") == "BPE"
        and not made.get("normalizer")
        and not made.get("added_tokens")
        and parts.get("type") == "ByteLevel"
        and not parts.get("add_prefix_space", True)
        and parts.get("use_regex", True)
    )


def train_tokenizer(texts: Iterable[str], vocabulary: int, extra: Sequence[str] = ()) -> BPETokenizer:
    """Train byte-level BPE (Sennrich 2016, on bytes as GPT-2) of exactly `vocabulary` tokens, the special ones
    and those of `extra` among them; deterministic.

    Raises UserError where the vocabulary cannot hold every byte or the text has too few repeated pairs to
    fill it.
    """
    if vocabulary < SMALLEST + len(extra):
        raise UserError(
            f"vocabulary {vocabulary} is too small: {SMALLEST + len(extra)} hold the special tokens and every byte"
        )
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - FIRST - len(extra),
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    trained.train_from_iterator(texts, trainer)
    found = trained.get_vocab_size(with_added_tokens=False) + FIRST + len(extra)
    if found < vocabulary:
        raise UserError(
            f"the training text is too small for a vocabulary of {vocabulary}: it yields {found} tokens; "
            f"give more text or ask for a vocabulary of at most {found}"
        )
    content = json.loads(trained.to_str())
    # The specials take ids 0..6 and the last ones as plain vocabulary entries. They are not declared as added
    # tokens: those would be found in text. The pre-tokenizer splits "<" from letters, so no merge builds one.
    shifted = {token: i + FIRST for token, i in content["model"]["vocab"].items()}
    last = {name: FIRST + len(shifted) + i for i, name in enumerate(extra)}
    content["model"]["vocab"] = {name: i for i, name in enumerate(SPECIALS)} | shifted | last
    return BPETokenizer(json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def load_tokenizer(path: Path) -> Tokenizer:
    """Load what `save` wrote. Raises UserError for a file missing, malformed or of another kind."""
    content = read_json(path, "tokenizer")
    if isinstance(content, dict) and content.get("bytes") is True:
        made = ByteTokenizer(content.get("extra", ()))
        if content == json.loads(made.content):
            return made
    try:
        vocabulary = content["model"]["vocab"]
        if [vocabulary.get(name) for name in SPECIALS] != list(range(FIRST)):
            raise UserError(
                f"{path} is not a headtohead tokenizer: its first {FIRST} tokens are not {' '.join(SPECIALS)}"
            )
        return BPETokenizer(path.read_text(encoding="utf-8"))
    except UserError:
        raise
    except Exception as problem:  # the library raises bare Exception for a malformed description
        raise UserError(
            f"{path} is not a tokenizer that can be read: {str(problem).splitlines()[0]}"
        ) from None
