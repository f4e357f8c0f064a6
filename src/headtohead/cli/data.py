"""The command that makes shards of text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headtohead.cli.base import TRAIN, ManyValues, app, at_least
from headtohead.cli.progress import Line
from headtohead.errors import Interrupted, UserError

if TYPE_CHECKING:
    from headtohead.data.sharding import Progress
    from headtohead.data.sources import Source
    from headtohead.data.stream import Sharded

TEXT, CUT = "Your own data", "How it is cut"


@app.command(cls=ManyValues, rich_help_panel=TRAIN, short_help="Make shards of a large text, to train from.")
def shard(
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write, or to go on with.")],
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH...",
            help="Files or folders of .txt, .md, .jsonl (also .jsonl.gz, .jsonl.zst) and .parquet.",
            rich_help_panel=TEXT,
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A folder that the library datasets saved, or a name on the Hugging Face hub, streamed.",
            rich_help_panel=TEXT,
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="The split of the dataset.", rich_help_panel=TEXT)
    ] = None,
    field: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The field of a line, or the column, that holds the text.",
            rich_help_panel=TEXT,
        ),
    ] = "text",
    mixture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Several sources with weights: a TOML file of sources, each with name, weight and text or dataset.",
            rich_help_panel=TEXT,
        ),
    ] = None,
    validation: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=0.49,
            help="The share of documents held out, by a hash of their text.",
            rich_help_panel=TEXT,
        ),
    ] = 0.01,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="How windows become examples, see headtohead objectives; given again, the same windows once more.",
            show_default="causal",
            rich_help_panel=CUT,
        ),
    ] = None,
    window_bytes: Annotated[
        int,
        typer.Option(
            metavar="N", parser=at_least(16), help="Bytes of text in a window.", rich_help_panel=CUT
        ),
    ] = 1024,
    row: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=at_least(8),
            help="Tokens of a row that windows have to fit: longer ones are cut.",
            show_default="half of --window-bytes; of bytes, all and 64",
            rich_help_panel=CUT,
        ),
    ] = None,
    side: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=at_least(4),
            help="Tokens of an input or of an output, in a network of two stacks.",
            show_default="as --row",
            rich_help_panel=CUT,
        ),
    ] = None,
    vocabulary: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=at_least(1),
            help="Tokens of the byte-level BPE that is trained on a sample of the text.",
            show_default="8192",
            rich_help_panel=CUT,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A tokenizer.json that headtohead wrote, in place of one that is trained; or the word bytes.",
            rich_help_panel=CUT,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=at_least(1),
            help="Processes that tokenize; the shards don't depend on it.",
            show_default="one per core",
        ),
    ] = None,
    shard_mb: Annotated[
        int, typer.Option(metavar="N", parser=at_least(1), help="Megabytes of text in a shard.")
    ] = 64,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read finished shards in DIR and compare every checksum.")
    ] = False,
) -> None:
    """Make memory-mapped shards of text of any size, in little memory.

    Documents that are the same text as another are left out, and counted. Stopped or killed, the same command
    goes on with the shards that are whole. Training from the folder starts at once.
    """
    from headtohead.data.stream import Sharded

    if verify:
        Sharded.open(out).verify()
        typer.echo(f"{out}: every checksum is right")
        return
    if vocabulary is not None and tokenizer is not None:
        raise UserError(
            "--vocabulary is for a tokenizer that is trained, and --tokenizer gives one: choose one"
        )

    from headtohead.data.blocks import Sharding
    from headtohead.data.sharding import shard as make
    from headtohead.data.tokenizers import load_tokenizer
    from headtohead.validation import validated

    of_bytes = tokenizer == "bytes"
    row = row or (window_bytes + 64 if of_bytes else max(64, window_bytes // 2))
    settings = validated(
        Sharding,
        {
            "objectives": objective or ["causal"],
            "window_bytes": window_bytes,
            "row": row,
            "side": side or row,
            "validation": validation,
            "shard_bytes": shard_mb * 1_000_000,
            "tokenizer": "bytes" if of_bytes else "bpe",
            "vocabulary": vocabulary or 8192,
        },
        "shard",
    )
    given = None if tokenizer is None or of_bytes else load_tokenizer(Path(tokenizer))
    sources = _sources(text or [], dataset, split, field, mixture)
    shown = _Shown()
    try:
        made = make(
            sources,
            settings,
            out,
            workers=workers or _cores(),
            tokenizer=given,
            on_progress=shown,
        )
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; {shown.shards} shards in {out} are whole: the same command goes on with them"
        ) from None
    shown.end()
    _tell(out, made)


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sources(
    text: list[Path], dataset: str | None, split: str | None, field: str, mixture: Path | None
) -> list[Source]:
    from headtohead.data.mixture import read_mixture
    from headtohead.data.sources import dataset_source, files_source

    if sum((bool(text), dataset is not None, mixture is not None)) != 1:
        raise UserError("give the text by one of --text PATH..., --dataset NAME or --mixture FILE")
    if mixture is not None:
        if split is not None or field != "text":
            raise UserError("with --mixture, field and split are said in the file, for each source")
        return [
            dataset_source(one.dataset, one.split, one.field, one.name, one.weight)
            if one.dataset is not None
            else files_source([Path(path) for path in one.text], one.field, one.name, one.weight)
            for one in read_mixture(mixture)
        ]
    if dataset is not None:
        return [dataset_source(dataset, split, field)]
    if split is not None:
        raise UserError("--split is for --dataset: files have no splits")
    return [files_source(text, field)]


class _Shown(Line):
    """What is made and read, and about when it ends: one line a minute where it doesn't pass."""

    def __init__(self) -> None:
        import time

        super().__init__()
        self.clock = time.monotonic
        self.began = self.shown = self.clock()
        self.first: tuple[float, int] | None = None
        self.shards = 0
        self.stage = ""

    def __call__(self, progress: Progress) -> None:
        self.shards = progress.shards
        now = self.clock()
        new, self.stage = progress.stage != self.stage, progress.stage
        if not new and now - self.shown < (0.5 if self.live else 60):
            return
        self.shown = now
        if progress.stage == "tokenizer":
            return typer.echo("preparing the tokenizer", err=True)
        if self.first is None and progress.made:
            self.first = now, progress.read
        line = f"{progress.shards} shards, {(progress.made + progress.kept) / 1e6:,.0f} MB of text"
        if progress.total and self.first is not None and progress.read > self.first[1]:
            from headtohead.study.display import duration

            pace = (now - self.first[0]) / (progress.read - self.first[1])
            left = max(0.0, pace * (progress.total - progress.read))
            line += f" ({min(1, progress.read / progress.total):.0%}), {duration(left)} left"
        self.show(line)


def _tell(out: Path, made: Sharded) -> None:
    for source in made.description["sources"]:
        train, validation = ([*source["parts"][part]["shards"]] for part in ("train", "validation"))
        left: list[Any] = [
            f"{source[kind]:,} {word} left out"
            for kind, word in (("duplicates", "duplicates"), ("empty", "empty"))
            if source[kind]
        ]
        typer.echo(
            f"{source['name']}: {source['documents']:,} documents, "
            f"{sum(s['bytes'] for s in train + validation) / 1e6:,.1f} MB, "
            f"{sum(s['examples'] for s in train):,} windows to train on, "
            f"{sum(s['examples'] for s in validation):,} held out" + "".join(f", {each}" for each in left)
        )
    typer.echo(
        f"{out}: vocabulary {made.vocabulary}, rows of {made.row} tokens, {', '.join(made.objectives)}"
    )
