"""Tokenizers: byte-level BPE trained on the training text (Hugging Face `tokenizers`), or plain bytes.

Both are lossless on any text and never produce a special token from text: ids 0..6 are the special tokens of
`shards.SPECIALS`, which stand in the vocabulary without a merge that leads to them.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from headtohead.data.shards import SPECIALS
from headtohead.errors import UserError
from headtohead.files import read_json, write_atomic

FIRST = len(SPECIALS)  # id of the first token that is text
SMALLEST = FIRST + 256  # every byte must have a token


class Tokenizer(Protocol):
    """What every tokenizer offers. `decode(encode(text)) == text`, always; specials decode to nothing."""

    @property
    def vocabulary(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    def encode(self, text: str) -> list[int]: ...
    def encode_many(self, texts: Sequence[str]) -> list[list[int]]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def save(self, path: Path) -> None: ...


class ByteTokenizer:
    """One token a byte of UTF-8: vocabulary 7 + 256."""

    CONTENT = json.dumps({"bytes": True, "specials": list(SPECIALS)}) + "\n"
    vocabulary: int = SMALLEST

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.CONTENT.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        return [FIRST + byte for byte in text.encode()]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i - FIRST for i in ids if FIRST <= i < SMALLEST).decode(errors="replace")

    def save(self, path: Path) -> None:
        write_atomic(path, self.CONTENT)


class BPETokenizer:
    """Byte-level BPE in the Hugging Face `tokenizer.json` form."""

    def __init__(self, content: str) -> None:
        self._content = content
        self._tokenizer = tokenizers.Tokenizer.from_str(content)

    @property
    def vocabulary(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=False)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self._content.encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids if i >= FIRST], skip_special_tokens=False)

    def save(self, path: Path) -> None:
        write_atomic(path, self._content)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> BPETokenizer:
    """Train byte-level BPE (Sennrich 2016, on bytes as GPT-2) of exactly `vocabulary` tokens; deterministic.

    Raises UserError where the vocabulary cannot hold every byte or the text has too few repeated pairs to
    fill it.
    """
    if vocabulary < SMALLEST:
        raise UserError(
            f"vocabulary {vocabulary} is too small: {SMALLEST} hold the special tokens and every byte"
        )
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - FIRST,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    trained.train_from_iterator(texts, trainer)
    found = trained.get_vocab_size(with_added_tokens=False) + FIRST
    if found < vocabulary:
        raise UserError(
            f"the training text is too small for a vocabulary of {vocabulary}: it yields {found} tokens; "
            f"give more text or ask for a vocabulary of at most {found}"
        )
    content = json.loads(trained.to_str())
    # The specials take ids 0..6 as plain vocabulary entries. They are not declared as added tokens: those
    # would be found in text. The pre-tokenizer splits "<" from letters, so no merge ever builds one.
    shifted = {token: i + FIRST for token, i in content["model"]["vocab"].items()}
    content["model"]["vocab"] = {name: i for i, name in enumerate(SPECIALS)} | shifted
    return BPETokenizer(json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def load_tokenizer(path: Path) -> Tokenizer:
    """Load what `save` wrote. Raises UserError for a file missing, malformed or of another kind."""
    content = read_json(path, "tokenizer")
    if content == json.loads(ByteTokenizer.CONTENT):
        return ByteTokenizer()
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
