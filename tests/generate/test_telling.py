"""Text while it is written: what is told bit by bit is the text, and stop strings end it wherever they begin."""

from __future__ import annotations

import json

import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models

from headtohead.data.tokenizers import ByteTokenizer
from headtohead.generate.telling import Decode, Telling
from headtohead.interop.tokens import ForeignTokenizer

BYTES = ByteTokenizer()


def told(decode: Decode, ids: list[int], stop: tuple[str, ...] = ()) -> tuple[str, bool]:
    telling = Telling(decode, stop)
    text = ""
    for token in ids:
        text += telling.push(token)
        if telling.stopped:
            return text, True
    return text + telling.flush(), telling.stopped


@given(st.text(max_size=30))
def test_the_pieces_are_the_text(text: str) -> None:
    assert told(BYTES.decode, BYTES.encode(text)) == (text, False)


@given(st.binary(max_size=30))
def test_bytes_that_are_no_text_come_as_a_whole_decoding_gives_them(data: bytes) -> None:
    ids = [7 + byte for byte in data]
    assert told(BYTES.decode, ids) == (BYTES.decode(ids), False)


@given(
    st.text(alphabet="abé", max_size=20),
    st.lists(st.text(alphabet="abé", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_a_stop_string_ends_the_text_before_it(text: str, stop: list[str]) -> None:
    found, stopped = told(BYTES.decode, BYTES.encode(text), tuple(stop))
    places = [at for one in stop if (at := text.find(one)) >= 0]
    assert stopped == bool(places)
    if not places:
        assert found == text
    else:
        # Bytes come one at a time, so the stop that is whole first ends it.
        ends = min(text.find(one) + len(one) for one in stop if one in text)
        whole = text[:ends]
        assert found == whole[: min(whole.find(one) for one in stop if one in whole)]


def test_nothing_of_a_stop_string_is_told_before_it_is_sure() -> None:
    telling = Telling(BYTES.decode, ("\n\nQ:",))
    pieces = [telling.push(token) for token in BYTES.encode("A\n\nP: b\n\nQ: c")]
    assert "".join(pieces) == "A\n\nP: b"
    assert telling.stopped and telling.flush() == ""


def test_spaces_of_a_metaspace_tokenizer_stay() -> None:
    made = tokenizers.Tokenizer(
        models.WordLevel({"▁the": 0, "▁cat": 1, "s": 2, "<unk>": 3}, unk_token="<unk>")
    )
    made.decoder = decoders.Metaspace()  # type: ignore[assignment]
    foreign = ForeignTokenizer(json.dumps(json.loads(made.to_str())))
    ids = [0, 1, 2, 0, 1]
    assert told(foreign.decode, ids) == (foreign.decode(ids), False)
    assert foreign.decode(ids) == "the cats the cat"
