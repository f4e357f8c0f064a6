"""`headtohead lengths`: networks beyond the length they were trained on, in a table, as JSON and as a chart."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from headtohead.data.corpora import load_corpus
from headtohead.data.shards import ExampleStore
from headtohead.data.stream import Sharded
from headtohead.errors import UserError, about
from headtohead.files import write_atomic
from headtohead.interop.folders import read_folder
from headtohead.interop.loading import Model, load
from headtohead.measure.lengths import as_json, at_lengths, blocks_of
from headtohead.study.results import read_run
from headtohead.study.tables import print_wide

SUFFIXES = (".svg", ".png", ".json")


def trained_bytes_of(folder: Path) -> int:
    """The longest example that a run was trained on, in bytes of input and output.

    Raises:
        UserError: it is no run of ours, so nothing says it.
    """
    if not (folder / "run.json").is_file():
        raise UserError(f"{folder} doesn't say how long its training texts were: give --length BYTES")
    data = read_run(folder)["data"]
    where = (folder / data["folder"]).resolve()
    if data.get("shards"):
        return int(Sharded.open(where).description["settings"]["window_bytes"])
    store = ExampleStore.open(where, data.get("train", "train"))
    return int((store.column("input_bytes") + store.column("output_bytes")).max())


def lengths_of_runs(
    folders: Sequence[Path],
    text: Sequence[Path],
    *,
    field: str = "text",
    trained_bytes: int | None = None,
    up_to: int = 8,
    most_blocks: int = 32,
    attention: bool = True,
    report: Callable[[float, str], None] | None = None,
) -> dict[str, Any]:
    """The figures of each run, as a document that JSON can hold. See `measure.lengths`.

    Args:
        trained_bytes: what counts as 1; the shortest of what the runs were trained on if left out.
        up_to: the longest length, as a multiple of it: 1, 2, 4, … up to it.

    Raises:
        UserError: as `load`, `load_corpus` and `blocks_of`; a network without a pseudo-likelihood.
    """
    ours = [folder for folder in folders if (folder / "run.json").is_file()] or folders[:1]
    trained = trained_bytes or min(trained_bytes_of(folder) for folder in ours)
    times = [2**power for power in range(up_to.bit_length()) if 2**power <= up_to]
    if times[-1] != up_to:
        times.append(up_to)
    texts = [d.text for d in load_corpus(text, field).documents]
    blocks = [block for _, block in blocks_of(texts, trained * up_to, most_blocks)]
    for folder in folders:  # what can't be read is told before the first one is scored
        read_folder(folder)
    runs = []
    for number, folder in enumerate(folders):
        model = load(folder)

        def tell(share: float, number: int = number, folder: Path = folder) -> None:
            if report is not None:
                report((number + share) / len(folders), str(folder))

        tell(0.0)
        with about(folder):
            found = at_lengths(
                model.reader,
                blocks,
                trained,
                times,
                attention=attention and model.likelihood == "exact",
                on_progress=tell,
            )
        runs.append(
            {
                "run": str(folder),
                "likelihood": model.likelihood,
                "positions": _positions(model),
                "at": as_json(found),
            }
        )
    return {
        "text": [str(path) for path in text],
        "trained_bytes": trained,
        "blocks": len(blocks),
        "runs": runs,
    }


def _positions(model: Model) -> str:
    a = model.architecture
    found = a.positions.kind
    if a.context is not None:
        found += f", {a.context} places"
    across = getattr(a.positions, "across", "continuous")
    return found if across == "continuous" or not a.two_streams else f"{found}, {across}"


def print_lengths(told: Mapping[str, Any]) -> None:
    """Tables for people: bits per byte by length, and where attention looks."""
    console = Console(highlight=False, soft_wrap=True)
    times = [at["times"] for at in told["runs"][0]["at"]]
    table = Table("", "positions", box=box.SIMPLE_HEAD, title="bits per byte, ± s.e.", title_justify="left")
    for each in times:
        table.add_column(f"{each}×", justify="right")
    table.add_column(f"rise at {times[-1]}×", justify="right")
    for run in told["runs"]:
        mark = " (pseudo)" if run["likelihood"] == "pseudo" else ""
        last = run["at"][-1]
        rise = "" if "refused" in last else f"{last['rise']:+.3f} ± {last['rise_error'] or math.nan:.3f}"
        table.add_row(run["run"] + mark, run["positions"], *map(_cell, run["at"]), rise)
    print_wide(table)
    looked = [run for run in told["runs"] if any(at.get("attention") for at in run["at"])]
    if looked:
        seen = Table("", "", box=box.SIMPLE_HEAD, title="attention weight", title_justify="left")
        for each in times:
            seen.add_column(f"{each}×", justify="right")
        for run in looked:
            for key, name in (
                ("local", "on the last 5 tokens"),
                ("cross_local", "on the input's last 5"),
                ("input", "on the input"),
            ):
                cells = [_share(at, key) for at in run["at"]]
                if any(cell not in ("", "-") for cell in cells):
                    seen.add_row(run["run"] if key == "local" else "", name, *cells)
        print_wide(seen)
    refusals = {
        f"{run['run']} at {at['times']}×: {at['refused']}"
        for run in told["runs"]
        for at in run["at"]
        if "refused" in at
    }
    for line in sorted(refusals):
        console.print(line, markup=False)
    console.print(
        f"1× is {told['trained_bytes']:,} bytes; {told['blocks']} blocks of text, whose second half is scored at every "
        "length; ± is one standard error, over blocks"
    )


def _cell(at: Mapping[str, Any]) -> str:
    if "refused" in at:
        return "no such position"
    error = at["standard_error"]
    return f"{at['bits_per_byte']:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _share(at: Mapping[str, Any], key: str) -> str:
    if "refused" in at:
        return "-"
    looked = at.get("attention")
    return "" if not looked or looked[key] is None else f"{looked[key]:.3f}"


def write_chart(told: Mapping[str, Any], path: Path) -> None:
    """Bits per byte by total length, and by position in the longest example of each length, as .svg, .png, or Vega-Lite
    (.json).

    Raises:
        UserError: another kind of file, or one that can't be written.
    """
    check_chart(path)
    import altair as alt
    import vl_convert

    from headtohead.study.charting import BITS, CONFIG, inline
    from headtohead.study.palette import PAPER_LIGHT, inks

    trained = told["trained_bytes"]
    names = [run["run"] for run in told["runs"]]
    scale = alt.Scale(domain=names, range=[ink.light for ink in inks(len(names))])
    colour = alt.Color(
        "run:N", scale=scale, legend=alt.Legend(title=None, orient="bottom", columns=2, labelLimit=360)
    )
    by_length, by_position = [], []
    for run in told["runs"]:
        reached: set[int] = set()
        for at in (at for at in run["at"] if "refused" not in at):
            error = at["standard_error"] or 0.0
            value = at["bits_per_byte"]
            by_length.append(
                {
                    "run": run["run"],
                    "times": at["times"],
                    "bits": value,
                    "low": value - error,
                    "high": value + error,
                }
            )
            for stretch in at["by_position"]:
                if stretch["first"] not in reached:  # a position is told by the shortest length that has it
                    reached.add(stretch["first"])
                    middle = (stretch["first"] + stretch["last"]) / 2 / trained
                    by_position.append(
                        {"run": run["run"], "position": middle, "bits": stretch["bits_per_byte"]}
                    )
    y = alt.Y("bits:Q", title=BITS, scale=alt.Scale(zero=False))
    times = sorted({row["times"] for row in by_length})
    x = alt.X(
        "times:Q", title="total length, of the training length", scale=alt.Scale(type="log", base=2)
    ).axis(values=times)
    one = alt.Chart(inline(by_length)).encode(x=x, color=colour)
    left = one.mark_line(point=True).encode(y=y) + one.mark_rule().encode(
        y=alt.Y("low:Q", title=BITS), y2="high:Q"
    )
    right = (
        alt.Chart(inline(by_position))
        .mark_line()
        .encode(x=alt.X("position:Q", title="position, of the training length"), y=y, color=colour)
    )
    chart = alt.hconcat(left.properties(width=340, height=260), right.properties(width=340, height=260))
    spec = json.dumps({**chart.to_dict(), "background": PAPER_LIGHT, "config": CONFIG})
    if path.suffix == ".json":
        write_atomic(path, spec + "\n")
        return
    svg = vl_convert.vegalite_to_svg(spec)
    write_atomic(path, svg if path.suffix == ".svg" else vl_convert.svg_to_png(svg, scale=2))


def check_chart(path: Path) -> None:
    """Raises UserError for a kind of file that charts aren't written as."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"--chart {path}: give a file that ends in {', '.join(SUFFIXES)}")
