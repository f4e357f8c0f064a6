"""Texts that a study names in its file: data that was fetched by name, or a path. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headtohead.data.corpora import load_corpus
from headtohead.data.fetching.catalogue import CATALOGUE
from headtohead.data.fetching.fetch import fetched
from headtohead.errors import UserError
from headtohead.measure.tasks.files import read_task
from headtohead.study.parts import DataSettings
from headtohead.study.prepare import Source, read_source


def text_at(named: str) -> Path:
    """Where a text is: ``english-mix``, ``chinese-poetry/tang.jsonl``, or a path.

    Raises:
        UserError: data that can be fetched and isn't there, or no such path.
    """
    name, _, rest = named.partition("/")
    if name in CATALOGUE:
        found = fetched(name)
        if found is None:
            raise UserError(
                f"the text '{named}' is not there yet: fetch it with headtohead data fetch {name}, or give --text"
            )
        return found.folder / rest if rest else found.folder
    path = Path(named)
    if not path.exists():
        raise UserError(
            f"there is no text '{named}': name data that headtohead data list tells, or a file or folder"
        )
    return path


def source_of(
    data: DataSettings, text: Sequence[Path], pairs: Path | None, field: str, asked: Sequence[str] = ()
) -> Source:
    """What a study reads, and the tasks that it asks: what the command line says, else what its file says, else the
    embedded text.

    Raises:
        UserError: text that isn't there, or can't be read.
    """
    if data.text is not None and not text and pairs is None:
        found = read_source([text_at(data.text)], None, field)
    else:
        found = read_source(text, pairs, field)
    beyond = {Path(named).stem: load_corpus([text_at(named)]) for named in data.out_of_domain}
    tasks = {_called(named): text_at(named) for named in asked}
    for name, path in tasks.items():
        if not read_task(path).by_choice:
            raise UserError(
                f"evaluation.tasks: {name} asks for written answers, which a study doesn't judge: headtohead tasks run"
            )
    return Source(found.material, beyond, tasks)


def _called(named: str) -> str:
    """A task file by its folder and name: ``sentiment/test``."""
    path = Path(named).with_suffix("")
    return "/".join(path.parts[-2:])
