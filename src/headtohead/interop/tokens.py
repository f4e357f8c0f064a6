"""Text to ids and back: a study's own tokenizers, and any Hugging Face `tokenizer.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, cast

import numpy as np
import tokenizers

from headtohead.data.shards import SPECIALS
from headtohead.data.tokenizers import Tokenizer, load_tokenizer
from headtohead.errors import UserError
from headtohead.interop.frame import Frame
from headtohead.model.architecture import Architecture
from headtohead.model.reach import sees_its_answer

MASKS = ("[MASK]", "<mask>")


class Text(Protocol):
    """What text is needed for: `encode` never gives a special token, whatever the text says."""

    @property
    def vocabulary(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


class ForeignTokenizer:
    """Any `tokenizer.json`. A special token's name in a text is read as text."""

    def __init__(self, content: str) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_str(content)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True

    @property
    def vocabulary(self) -> int:
        """One more than the largest id."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_with_ends(self, text: str) -> tuple[list[int], list[int]]:
        """The ids, and the character of the text after which each ends."""
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return found.ids, [end for _, end in found.offsets]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def around(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer itself puts before and after a text."""
        marked = self._tokenizer.encode("a", add_special_tokens=True)
        inside = [i for i, special in enumerate(marked.special_tokens_mask) if not special]
        if not inside:
            return marked.ids, []
        return marked.ids[: inside[0]], marked.ids[inside[-1] + 1 :]

    def mask(self) -> int | None:
        """The id of the hole, where there is one."""
        found = (self._tokenizer.token_to_id(name) for name in MASKS)
        return next((i for i in found if i is not None), None)


def encoded_with_ends(tokenizer: Text, text: str) -> tuple[list[int], list[int]]:
    """A text's ids, and the byte of the text after which each of them ends; the last ends where the text does.

    Of several tokens that make up one character the first is taken to hold all of it.
    """
    if isinstance(tokenizer, ForeignTokenizer):
        ids, characters = tokenizer.encode_with_ends(text)
        edges = np.cumsum([0, *(len(character.encode()) for character in text)])
        ends = edges[np.maximum.accumulate(np.array(characters, np.int64))] if ids else edges[:0]
    else:
        own = cast(Tokenizer, tokenizer)
        ids = own.encode(text)
        ends = np.cumsum(own.sizes[np.array(ids, np.int64)])
    found = [int(end) for end in ends]
    return ids, [*found[:-1], len(text.encode())] if ids else []


def text_of(content: str, where: object) -> Text:
    """The tokenizer that a tokenizer.json describes; `where` begins the error.

    Raises:
        UserError: it can't be read.
    """
    try:
        described = json.loads(content)
        vocabulary = described.get("model", {}).get("vocab") if isinstance(described, dict) else None
        own = isinstance(vocabulary, dict) and [vocabulary.get(s) for s in SPECIALS] == list(
            range(len(SPECIALS))
        )
        if isinstance(described, dict) and (described.get("bytes") is True or own):
            with TemporaryDirectory() as folder:
                path = Path(folder) / "tokenizer.json"
                path.write_text(content, encoding="utf-8")
                return load_tokenizer(path)
        return ForeignTokenizer(content)
    except Exception as problem:  # the library raises bare Exception for a malformed description
        first = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise UserError(f"{where} is not a tokenizer that can be read: {first}") from None


def foreign_frame(
    a: Architecture,
    tokenizer: ForeignTokenizer | None,
    config: Mapping[str, Any],
    generation: Mapping[str, Any] | None = None,
) -> Frame:
    """The frame of a Hugging Face network: what its tokenizer puts around a text, and the ids of config.json,
    before which generation_config.json goes.

    A network that goes on from its input gets nothing after it, whatever its tokenizer puts there.
    """

    def given(key: str) -> Any:
        for table in (generation or {}, config):
            if table.get(key) is not None:
                return table[key]
        return None

    before, after = tokenizer.around() if tokenizer is not None else ([], [])
    if not a.two_streams and not sees_its_answer(a, "output"):
        after = []
    eos, start = given("eos_token_id"), []
    if a.two_streams:
        start = [
            i for key in ("decoder_start_token_id", "forced_bos_token_id") if (i := given(key)) is not None
        ]
    return Frame(
        before=tuple(before),
        after=tuple(after),
        start=tuple(start),
        ends=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        pad=given("pad_token_id") or 0,
        mask=None if tokenizer is None else tokenizer.mask(),
    )
