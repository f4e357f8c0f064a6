"""The commands of data sets: what there is, and fetching one by its name."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from headtohead.cli.base import ANSWER, AsJson, Command, Group, app
from headtohead.cli.progress import Line
from headtohead.errors import Interrupted

data = typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(
    data,
    name="data",
    rich_help_panel=ANSWER,
    short_help="Texts, pairs and tasks to try things on: fetch one by its name.",
    help="""Texts, pairs and tasks by name, made of pinned packages and kept in the user's cache (HEADTOHEAD_DATA moves
    it), in forms that train, study, score, tasks run and shard take.""",
)


def _complete(incomplete: str) -> list[str]:
    from headtohead.data.fetching.catalogue import CATALOGUE

    return [name for name in CATALOGUE if name.startswith(incomplete)]


@data.command("list", cls=Command, short_help="What can be fetched, and what is there.")
def list_them(as_json: AsJson = False) -> None:
    """Tell what can be fetched, what it takes to download, under which terms, and what is there already."""
    from headtohead.data.fetching.catalogue import CATALOGUE
    from headtohead.data.fetching.fetch import cache_folder, fetched

    there = {name: fetched(name) for name in CATALOGUE}
    if as_json:
        told = [
            {
                "name": one.name,
                "kind": one.kind,
                "title": one.title,
                "licence": one.licence,
                "download_bytes": sum(archive.size for archive in one.archives),
                "folder": None if (found := there[name]) is None else str(found.folder),
            }
            for name, one in CATALOGUE.items()
        ]
        typer.echo(json.dumps(told, indent=1, ensure_ascii=False))
        return
    for name, one in CATALOGUE.items():
        size = sum(archive.size for archive in one.archives)
        cost = "there" if there[name] else f"{size / 1e6:.1f} MB" if size else "its parts"
        typer.echo(f"{name:18} {one.kind:6} {cost:>9}  {one.title}")
    typer.echo(f"kept in {cache_folder()}")


@data.command(cls=Command, short_help="Fetch a data set into the cache.")
def fetch(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="See headtohead data list.", autocompletion=_complete),
    ],
    newer: Annotated[
        bool,
        typer.Option(
            "--newer", help="Where a pinned version is gone, take the one there is now; it is recorded."
        ),
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Make it anew from what was downloaded.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch data sets, check them against their pinned SHA-256, and print where they are and their licence.

    What is there is not fetched again; what was cut off goes on.
    """
    from headtohead.data.fetching.catalogue import dataset_named
    from headtohead.data.fetching.fetch import fetch as fetch_one

    line = Line()
    told = []
    for name in names:
        dataset_named(name)
    for name in names:
        try:
            found = fetch_one(name, line.show, newer=newer, again=again)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; the same command goes on with {name}") from None
        line.end()
        dataset = dataset_named(name)
        told.append(
            {
                "name": name,
                "folder": str(found.folder),
                "documents": found.documents,
                "bytes": found.bytes,
                "files": found.files,
                "sha256": found.sha256,
                "pinned": found.pinned,
                "licence": dataset.licence,
            }
        )
        if as_json:
            continue
        lines = ", ".join(f"{file} {count:,}" for file, count in found.files.items())
        typer.echo(f"{found.folder}: {lines or f'{found.documents:,} texts'}, {found.bytes / 1e6:,.1f} MB")
        typer.echo(f"  licence: {dataset.licence}")
        if not found.pinned:
            typer.echo("  not the pinned version: figures on it are not those of others")
    if as_json:
        typer.echo(json.dumps(told, indent=1, ensure_ascii=False))
