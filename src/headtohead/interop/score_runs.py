"""`headtohead score`: the same texts by several networks, by document, in tables and as JSON.

What was scored is kept in a file if one is named, line by line, and the same command goes on from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from headtohead.data.corpora import load_corpus, load_pairs
from headtohead.data.objectives.windows import passages
from headtohead.data.reading import object_in
from headtohead.data.sources import key_of
from headtohead.errors import UserError, about
from headtohead.files import explain_os_error, make_folder, read_bytes
from headtohead.interop.folders import read_folder
from headtohead.interop.loading import Model, load
from headtohead.measure.likelihood import Likelihood
from headtohead.measure.scoring import over_documents
from headtohead.study.tables import print_wide

PIECES_AT_ONCE = 256
"""Pieces of text, of one document or of several, that are scored before they are kept."""

Report = Callable[[float, str], None]
"""Share of all the work that is done, and what is being done."""


@dataclass(frozen=True)
class Passage:
    """A document as pairs of what is given and what is scored. `key` tells whether it is the same text."""

    name: str
    key: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Bytes that are scored."""
        return sum(len(text.encode()) for text in self.outputs)


@dataclass(frozen=True)
class Line:
    """What one document cost one network, and what it was asked: a line of the file that keeps them."""

    fingerprint: str
    asked: str
    document: str
    key: str
    likelihood: Likelihood
    nats: float
    tokens: int
    bytes: int


def of_texts(paths: Sequence[Path], field: str, window: int, overlap: int) -> list[Passage]:
    """Files of text, each document cut in passages (`data.objectives.windows.passages`).

    Raises:
        UserError: as `load_corpus`; or a window with less than 16 bytes to be scored.
    """
    if window - overlap < 16:
        raise UserError(
            f"--window {window} with --overlap {overlap} leaves {window - overlap} bytes to be scored: at least 16 are "
            "needed"
        )
    found = []
    for document in load_corpus(paths, field).documents:
        if document.text:
            inputs, outputs = zip(*passages(document.text, window, overlap), strict=True)
            found.append(Passage(document.name, f"{key_of(document.text):016x}", inputs, outputs))
    return found


def of_pairs(path: Path) -> list[Passage]:
    """Pairs of a file, each a document of its own."""
    return [
        Passage(pair.name, f"{key_of(repr((pair.input, pair.output))):016x}", (pair.input,), (pair.output,))
        for pair in load_pairs(path).pairs
    ]


def score_runs(
    folders: Sequence[Path],
    documents: Sequence[Passage],
    asked: Mapping[str, Any],
    *,
    batch_size: int,
    keep: Path | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """The figures of each run on the same documents, as a document that JSON can hold.

    asked: how the text was cut; told with the figures, and lines of another way of cutting are not gone on from.

    Raises:
        UserError: a folder that holds no network, a network that can't score, a damaged file of kept lines.
    """
    total = max(1, sum(d.bytes for d in documents) * len(folders))
    how = json.dumps(dict(asked), sort_keys=True)
    found: list[dict[str, Any]] = []
    bits: list[np.ndarray] = []
    done = 0
    for folder in folders:  # what can't be read is told before the first one is scored
        read_folder(folder)
    for folder in folders:
        model = load(folder)
        kept = _kept(keep, model.fingerprint, how) if keep is not None else {}
        lines: dict[str, Line] = {}
        for line in _scored(model, documents, kept, how, batch_size, keep, folder):
            lines[line.document] = line
            done += line.bytes
            if report is not None:
                report(done / total, f"{folder}: {len(lines):,} of {len(documents):,} documents")
        found.append(_figures(folder, [lines[d.name] for d in documents]))
        bits.append(np.array([lines[d.name].nats for d in documents]) / math.log(2))
    sizes = np.array([d.bytes for d in documents])
    for place, one in enumerate(found):
        first = next(i for i, other in enumerate(found) if other["likelihood"] == one["likelihood"])
        if first != place:
            ratio, error = over_documents(bits[place] - bits[first], sizes)
            one["difference"] = {
                "from": found[first]["run"],
                "bits_per_byte": ratio,
                "standard_error": _or_none(error),
            }
    return {**asked, "documents": len(documents), "runs": found}


def _scored(
    model: Model,
    documents: Sequence[Passage],
    kept: Mapping[tuple[str, str], Line],
    how: str,
    batch_size: int,
    keep: Path | None,
    folder: Path,
) -> Iterator[Line]:
    for group in _groups(documents):
        known = {d.name: kept[d.name, d.key] for d in group if (d.name, d.key) in kept}
        new = [d for d in group if d.name not in known]
        inputs = [text for d in new for text in d.inputs]
        outputs = [text for d in new for text in d.outputs]
        with about(folder):
            scored = model.scores(inputs, outputs, batch_size=batch_size)
        made: list[Line] = []
        at = 0
        for d in new:
            these = slice(at, at + len(d.outputs))
            at += len(d.outputs)
            made.append(
                Line(
                    model.fingerprint,
                    how,
                    d.name,
                    d.key,
                    scored.likelihood,
                    float(scored.nats[these].sum()),
                    int(scored.tokens[these].sum()),
                    int(scored.bytes[these].sum()),
                )
            )
        if keep is not None and made:
            _append(keep, made)
        yield from (*known.values(), *made)


def _groups(documents: Sequence[Passage]) -> Iterator[list[Passage]]:
    """Documents in order, as many as have `PIECES_AT_ONCE` pieces together."""
    group: list[Passage] = []
    for document in documents:
        group.append(document)
        if sum(len(d.outputs) for d in group) >= PIECES_AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _kept(path: Path, fingerprint: str, how: str) -> dict[tuple[str, str], Line]:
    """What the file holds of this network and this way of cutting. A last line that was cut short is taken away, once
    it is sure that the file is one of scores.
    """
    if not path.exists():
        return {}
    content = read_bytes(path, "the scores")
    whole = content.rfind(b"\n") + 1
    found: dict[tuple[str, str], Line] = {}
    lines = content[:whole].splitlines()
    for number, text in enumerate(lines, 1):
        try:
            line = Line(**object_in(text, f"{path}:{number}"))
        except TypeError:
            raise _not_ours(f"{path}:{number}") from None
        if (line.fingerprint, line.asked) == (fingerprint, how):
            found[line.document, line.key] = line
    cut, first = content[whole:], next(iter(Line.__dataclass_fields__))
    begins = f'{{"{first}"'.encode()
    if cut and cut[: len(begins)] != begins[: len(cut)]:
        raise _not_ours(f"{path}:{len(lines) + 1}")
    if cut:
        with open(path, "rb+") as file:
            file.truncate(whole)
    return found


def _not_ours(where: str) -> UserError:
    return UserError(f"{where} is not a line that headtohead score wrote: name another file")


def _append(path: Path, lines: Sequence[Line]) -> None:
    make_folder(path.absolute().parent)
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(asdict(line), ensure_ascii=False) + "\n" for line in lines))
    except OSError as error:
        raise UserError(f"cannot write {path}: {explain_os_error(error)}") from error


def _figures(folder: Path, lines: Sequence[Line]) -> dict[str, Any]:
    nats, tokens, sizes = (
        np.array([getattr(line, name) for line in lines]) for name in ("nats", "tokens", "bytes")
    )
    ratio, error = over_documents(nats / math.log(2), sizes)
    return {
        "run": str(folder),
        "likelihood": lines[0].likelihood,
        "bytes": int(sizes.sum()),
        "tokens": int(tokens.sum()),
        "nats": float(nats.sum()),
        "bits_per_byte": ratio,
        "standard_error": _or_none(error),
        "nats_per_token": float(nats.sum() / tokens.sum()) if tokens.sum() else None,
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


TITLES = {
    "exact": "-ln p(text), left to right",
    "pseudo": "Pseudo-log-likelihood, not to be compared with likelihoods",
}


def print_scores(told: Mapping[str, Any]) -> None:
    """Tables for people, one for each kind of score: they never share a column."""
    console = Console(highlight=False, soft_wrap=True)
    for kind, title in TITLES.items():
        runs = [run for run in told["runs"] if run["likelihood"] == kind]
        if not runs:
            continue
        table = Table("", box=box.SIMPLE_HEAD, title=title, title_justify="left")
        for name in ("bits/byte", "± s.e.", "- first", "± s.e.", "nats", "tokens", "nats/token"):
            table.add_column(name, justify="right")
        for run in runs:
            apart = run.get("difference")
            table.add_row(
                run["run"],
                f"{run['bits_per_byte']:.4f}",
                _plain(run["standard_error"]),
                "" if apart is None else f"{apart['bits_per_byte']:+.4f}",
                "" if apart is None else _plain(apart["standard_error"]),
                f"{run['nats']:,.1f}",
                f"{run['tokens']:,}",
                "" if run["nats_per_token"] is None else f"{run['nats_per_token']:.4f}",
            )
        print_wide(table)
    cut = ""
    if "window_bytes" in told:
        cut = (
            f", in windows of {told['window_bytes']} bytes of which the first {told['overlap_bytes']} are given: each "
            "byte is scored once"
        )
    console.print(f"{told['documents']:,} documents{cut}; ± is one standard error, over documents")


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
