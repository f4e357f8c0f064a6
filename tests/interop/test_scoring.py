"""`headtohead score`, and what a loaded network's scores are made of."""

from __future__ import annotations

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

import headtohead
from headtohead.cli import run
from headtohead.data.objectives import Codes, objective
from headtohead.data.objectives.windows import passages
from headtohead.data.tokenizers import ByteTokenizer, train_tokenizer
from headtohead.errors import UserError
from headtohead.generate import prompts
from headtohead.interop.folders import Held, write_folder
from headtohead.interop.frame import Frame, own_frame
from headtohead.interop.loading import Model
from headtohead.interop.scoring import _words, framed_row
from headtohead.interop.tokens import ForeignTokenizer, encoded_with_ends
from headtohead.model.transformer import Transformer
from headtohead.train.checkpoint import named_tensors

from ..data.small import prose
from .test_loading import FILLER, WRITERS, held


def filler(folder: Path) -> Model:
    """A network of masked language modelling, of bytes."""
    by = objective("masked")
    tokenizer = ByteTokenizer(by.specials(64))
    a = FILLER.resized(vocabulary=tokenizer.vocabulary)
    mask = tokenizer.vocabulary - 1
    frame = own_frame(by.manner(Codes(tokenizer)), mask=mask, in_place=True)
    write_folder(folder, Held(a, named_tensors(Transformer(a, seed=3)), frame, tokenizer.content))
    return headtohead.load(folder)


def test_what_fills_holes_has_a_pseudo_likelihood(tmp_path: Path) -> None:
    model = filler(tmp_path / "model")
    assert model.likelihood == "pseudo"
    found = model.scores(["of the", ""], [" people", "it"])
    assert found.likelihood == "pseudo" and found.tokens.tolist() == found.bytes.tolist() == [7, 2]
    # The first byte of "people" is told with all of the word hidden, the last with itself alone.
    frame, mask = model.frame, model.frame.mask
    assert mask is not None
    encode = model.tokenizer.encode
    total = 0.0
    text = " people"
    for at in range(len(text)):
        shown = [*encode(text[:at]), *[mask] * (1 if at == 0 else len(text) - at)]
        if at == 0:
            shown += encode(text[1:])
        ids = [*frame.before, *encode("of the"), *shown]
        streams = prompts.rows_of(model.architecture, [ids], [[]])
        place = len(frame.before) + len(encode("of the")) + at
        logits = model.network.next_logits(model.network.hidden(streams))[0, place]
        total -= float(logits.log_softmax(-1)[encode(text)[at]].detach())
    assert found.nats[0] == pytest.approx(total, abs=1e-4)
    assert model.score("of the", " people") == pytest.approx(total, abs=1e-4)


def test_words_are_those_of_the_text() -> None:
    text = "It's  two-fold,\nno?"
    ids, ends = encoded_with_ends(ByteTokenizer(), text)
    words = _words(text, ends)
    assert len(ids) == len(words) == len(text)
    parted = ["".join(c for c, w in zip(text, words, strict=True) if w == n) for n in dict.fromkeys(words)]
    assert parted == ["It's", "  ", "two", "-", "fold", ",", "\n", "no", "?"]


BPE = train_tokenizer([prose(i, 3000) for i in range(4)] + ["naïve 我们研究语言 " * 3], 400)
with TemporaryDirectory() as _folder:
    BPE.save(Path(_folder) / "tokenizer.json")
    FOREIGN = ForeignTokenizer((Path(_folder) / "tokenizer.json").read_text("utf-8"))


@given(st.text(max_size=40))
def test_tokens_end_at_bytes_of_the_text(text: str) -> None:
    """A foreign tokenizer tells characters, ours sizes: they agree at every end of a character."""
    ids, ends = encoded_with_ends(BPE, text)
    assert ids == BPE.encode(text) and ends == sorted(ends)
    assert (ends[-1] if ends else 0) == len(text.encode())
    foreign_ids, foreign_ends = encoded_with_ends(FOREIGN, text)
    assert foreign_ids == ids
    edges = set(np.cumsum([0, *(len(c.encode()) for c in text)]).tolist())
    assert [e for e in ends if e in edges] == [
        f for e, f in zip(ends, foreign_ends, strict=True) if e in edges
    ]


def test_a_wordpiece_token_ends_where_its_word_does() -> None:
    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({"[UNK]": 0, "peo": 1, "##ple": 2, "the": 3}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    assert encoded_with_ends(ForeignTokenizer(made.to_str()), " the  people\n") == ([3, 1, 2], [4, 9, 13])


@given(st.text(max_size=300), st.integers(0, 40))
def test_passages_give_each_byte_once(text: str, overlap: int) -> None:
    found = passages(text, overlap + 16, overlap)
    assert "".join(piece for _, piece in found) == text
    at = 0
    for before, piece in found:
        assert text[:at].endswith(before) and len(piece.encode()) <= 16
        assert len(before.encode()) >= min(overlap, len(text[:at].encode()))
        at += len(piece)


def test_a_network_without_a_beginning_begins_after_an_end() -> None:
    frame = Frame(ends=(5, 6))
    assert framed_row(WRITERS[0], frame, [], [9]).shown == [5]
    assert framed_row(WRITERS[0], frame, [8], [9]).shown == [8]
    assert framed_row(WRITERS[0], own_frame(), [], [9]).begun == [1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three networks and some text."""
    folder = tmp_path_factory.mktemp("score")
    for a in WRITERS[::2]:
        write_folder(folder / a.name, held(a))
    filler(folder / "filler")
    (folder / "text").mkdir()
    for i in range(5):
        (folder / "text" / f"{i}.txt").write_text(prose(i, 60 + 30 * i), "utf-8")
    pairs = [{"input": prose(i, 20), "output": prose(i + 9, 12 + i)} for i in range(6)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), "utf-8")
    return folder


def asked(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    assert run(["score", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_text_is_scored_once_and_apart_by_kind(
    runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folders = [runs / name for name in ("causal", "two", "filler")]
    words = [*folders, "--text", runs / "text", "--window", "64", "--overlap", "16"]
    told = asked(capsys, *words)
    size = sum(path.stat().st_size for path in (runs / "text").iterdir())
    assert told["documents"] == 5 and [one["bytes"] for one in told["runs"]] == [size] * 3
    assert [one["likelihood"] for one in told["runs"]] == ["exact", "exact", "pseudo"]
    assert [("difference" in one) for one in told["runs"]] == [False, True, False]
    model = headtohead.load(folders[0])
    nats = []
    for path in sorted((runs / "text").iterdir()):
        inputs, outputs = map(list, zip(*passages(path.read_text("utf-8"), 64, 16), strict=True))
        nats.append(sum(model.score(inputs, outputs)))
    first = told["runs"][0]
    assert first["nats"] == pytest.approx(sum(nats), abs=1e-3)
    assert first["bits_per_byte"] == pytest.approx(sum(nats) / math.log(2) / size, abs=1e-6)
    assert 0 < first["standard_error"] < 1
    assert run(["score", *map(str, words)]) == 0
    out = capsys.readouterr().out
    assert "Pseudo-log-likelihood" in out and "each byte is scored once" in out


def test_what_is_kept_is_gone_on_from(
    runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headtohead.interop import score_runs

    keep = tmp_path / "kept" / "scores.jsonl"
    words = [runs / "causal", "--pairs", runs / "pairs.jsonl", "--keep", keep]
    told = asked(capsys, *words)
    lines = keep.read_text("utf-8").splitlines(keepends=True)
    assert len(lines) == 6
    keep.write_text("".join(lines[:4]) + lines[4][:30], "utf-8")  # killed while it wrote the fifth

    scored: list[int] = []
    monkeypatch.setattr(
        score_runs.Model,
        "scores",
        lambda self, inputs, outputs, whole=score_runs.Model.scores, **how: (
            scored.append(len(outputs)) or whole(self, inputs, outputs, **how)
        ),
    )
    assert asked(capsys, *words) == told
    assert scored == [2]
    assert sorted(keep.read_text("utf-8").splitlines(keepends=True)) == sorted(lines)


@pytest.mark.parametrize("content", ['{"width": 64}', "a note", '{"fingerprint": "x"}\nno newline', "\n"])
def test_a_file_of_something_else_is_left_as_it_is(
    content: str, runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "other.json"
    file.write_text(content, "utf-8")
    assert run(["score", *map(str, (runs / "causal", "--pairs", runs / "pairs.jsonl", "--keep", file))]) == 2
    assert str(file) in capsys.readouterr().err
    assert file.read_text("utf-8") == content


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["causal"], "one of --text PATH... and --pairs FILE"),
        (["causal", "--text", "text", "--window", "64", "--overlap", "60"], "leaves 4 bytes to be scored"),
        (["text", "--text", "text"], "holds neither model.json nor run.json"),
        (["causal", "--text", "nowhere"], "nowhere: no such file or folder"),
        (["causal", "--pairs", "text/0.txt"], "pairs are read from a .jsonl file"),
        (
            ["causal", "--pairs", "pairs.jsonl", "--keep", "pairs.jsonl"],
            "not a line that headtohead score wrote",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_asking_is_one_line(
    words: list[str],
    message: str,
    runs: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(runs)
    assert run(["score", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_no_mask_no_pseudo_likelihood(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", held(FILLER))
    with pytest.raises(
        UserError, match="filler fills holes, so that its score is a pseudo-likelihood, and it has no"
    ):
        headtohead.load(tmp_path / "model").score("a", "b")
