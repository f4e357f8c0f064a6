"""Tokenizers lose nothing, never produce a special token from text, and come out the same every time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headtohead.data.shards import SPECIALS
from headtohead.data.tokenizers import (
    FIRST,
    BPETokenizer,
    ByteTokenizer,
    Tokenizer,
    load_tokenizer,
    train_tokenizer,
)
from headtohead.errors import UserError

from .small import prose, write

BPE = train_tokenizer((prose(i, 4000) for i in range(4)), 400)
BOTH: list[Tokenizer] = [BPE, ByteTokenizer()]


@pytest.mark.parametrize("tokenizer", BOTH, ids=["bpe", "bytes"])
@given(
    text=st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from([*SPECIALS, " ".join(SPECIALS)])
)
def test_any_text_comes_back_and_no_special_token_is_made(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(FIRST <= i < tokenizer.vocabulary for i in ids)
    assert tokenizer.encode_many([text, "x"])[0] == ids


def test_the_vocabulary_is_what_was_asked_and_shortens_text() -> None:
    assert BPE.vocabulary == 400 and ByteTokenizer().vocabulary == 263
    text = prose(1, 1000)
    assert len(BPE.encode(text)) < 0.8 * len(text.encode())


@pytest.mark.parametrize("tokenizer", BOTH, ids=["bpe", "bytes"])
def test_special_and_unknown_ids_decode_to_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([0, 1, *tokenizer.encode("word"), 2, 6, 100_000]) == "word"


@pytest.mark.parametrize("tokenizer", BOTH, ids=["bpe", "bytes"])
def test_saved_and_loaded(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "t.json")
    loaded = load_tokenizer(tmp_path / "t.json")
    assert type(loaded) is type(tokenizer)
    assert (loaded.sha256, loaded.vocabulary) == (tokenizer.sha256, tokenizer.vocabulary)
    assert loaded.encode("naïve <end>") == tokenizer.encode("naïve <end>")


def test_training_is_the_same_with_one_thread_and_with_many() -> None:
    program = (
        "from headtohead.data.tokenizers import train_tokenizer\n"
        "text = [f'{i * 7919 % 1000} words of {i * 31 % 97} kinds' for i in range(2000)]\n"
        "print(train_tokenizer(text, 500).sha256)"
    )
    sums = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "4")
    }
    assert len(sums) == 1


def test_what_cannot_be_trained() -> None:
    with pytest.raises(UserError, match="vocabulary 200 is too small: 263"):
        train_tokenizer(["text"], 200)
    with pytest.raises(UserError, match=r"too small for a vocabulary of 5000: it yields \d+ tokens"):
        train_tokenizer([prose(1, 500)], 5000)


WRONG = {
    "missing": (None, "no such file"),
    "not JSON": ("{", "not valid JSON"),
    "something else": ('{"a": 1}', "is not a tokenizer that can be read"),
    "of others": ('{"model": {"vocab": {"a": 0}}}', "is not a headtohead tokenizer"),
    "damaged": (
        '{"model": {"vocab": {' + ", ".join(f'"{s}": {i}' for i, s in enumerate(SPECIALS)) + "}}}",
        "is not a tokenizer",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_files_that_are_no_tokenizer(case: str, tmp_path: Path) -> None:
    content, said = WRONG[case]
    if content is not None:
        write(tmp_path, {"t.json": content})
    with pytest.raises(UserError, match=said):
        load_tokenizer(tmp_path / "t.json")


def test_a_bpe_tokenizer_is_a_plain_hugging_face_file() -> None:
    assert isinstance(BPE, BPETokenizer)
    import tokenizers

    again = tokenizers.Tokenizer.from_str(BPE._content)
    assert again.encode("the <end>").ids == BPE.encode("the <end>")
    assert [again.token_to_id(name) for name in SPECIALS] == list(range(7))
