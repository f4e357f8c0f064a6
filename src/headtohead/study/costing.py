"""`headtohead cost`: what a dialogue costs turn by turn, as tables, as JSON and as a chart. torch is imported only to
measure.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from rich import box
from rich.table import Table

from headtohead.errors import UserError
from headtohead.files import read_json, write_atomic
from headtohead.measure.cost import (
    Dialogue,
    Machine,
    Turn,
    correlation,
    default_networks,
    dialogue_cost,
)
from headtohead.model.architecture import Architecture
from headtohead.model.budget import parameters
from headtohead.model.presets import architecture, preset_names
from headtohead.study.charting import CONFIG, Row, apart, colour_of, inline, names_beside
from headtohead.study.devices import device
from headtohead.study.palette import PAPER_LIGHT, Ink, inks
from headtohead.study.results import read_run
from headtohead.study.tables import decimal, print_wide
from headtohead.validation import validated

CHARTS = (".html", ".svg", ".png")
ROUNDS = 3


@dataclass(frozen=True)
class Line:
    """One network in a chart: what `charting` asks of an arm."""

    arm: str
    ink: Ink


@dataclass(frozen=True)
class Costed:
    """A network and the turns of its dialogue."""

    network: Architecture
    turns: Sequence[Turn]


def print_cost(
    names: Sequence[str],
    dialogue: Dialogue,
    *,
    measure: bool = False,
    rounds: int = ROUNDS,
    on: str | None = None,
    as_json: bool = False,
    chart: Path | None = None,
) -> None:
    """Print what a dialogue costs on each of the networks `names` (presets, runs or model folders; those of claim C12
    if none is named), and draw it to `chart`.

    on: a device of `study.devices`, whose data sheet gives milliseconds; with `measure` this machine does, and the
    dialogue is held with it.

    Raises:
        UserError: an unknown name, a dialogue or a chart that can't be, both `on` and `measure`.
    """
    if chart is not None and chart.suffix.lower() not in CHARTS:
        raise UserError(f"--chart {chart}: give a file that ends in {', '.join(CHARTS)}")
    if on is not None and measure:
        raise UserError("--measure times this machine, and --device asks for another: give one of them")
    networks = [network_of(name) for name in names] if names else default_networks()
    machine = None
    if on is not None:
        chosen = device(on)
        machine = Machine(chosen.flops, chosen.bandwidth)
    costed = [
        Costed(a, dialogue_cost(a, dialogue)) for a in networks
    ]  # what can't be is refused before it takes time
    if measure:
        machine, costed = _measured(costed, dialogue, rounds)
    elif machine is not None:
        costed = [Costed(a, dialogue_cost(a, dialogue, machine)) for a in networks]
    if chart is not None:
        write_chart(chart, costed)
    if as_json:
        print(json.dumps(entry(costed, dialogue, machine), indent=1))
        return
    print_tables(costed, dialogue, machine)
    if chart is not None:
        print(f"drawn: {chart}")


def network_of(name: str) -> Architecture:
    """The network that is meant: a preset, a run or a model folder.

    Raises:
        UserError: it is none of them.
    """
    folder = Path(name)
    if name in preset_names() or not folder.is_dir():
        return architecture(name)
    if (folder / "run.json").is_file():
        described, where = read_run(folder)["architecture"], folder / "run.json"
    elif (folder / "model.json").is_file():
        record = read_json(folder / "model.json", "the model")
        described, where = (
            (record if isinstance(record, dict) else {}).get("architecture"),
            folder / "model.json",
        )
    else:
        raise UserError(f"{folder} holds neither model.json nor run.json, so it is no network's folder")
    if not isinstance(described, dict):
        raise UserError(f"{where} is damaged, its architecture is no table: write the folder again")
    return validated(Architecture, described, f"{where}: architecture")


def _measured(costed: Sequence[Costed], dialogue: Dialogue, rounds: int) -> tuple[Machine, list[Costed]]:
    from headtohead.measure.timed import measured_machine, time_dialogues

    report = reporter(len(costed) * (rounds + 1))
    timed = time_dialogues([one.network for one in costed], dialogue, rounds, report)
    machine = measured_machine(dialogue.dtype)
    report("")
    found: list[Costed] = []
    for one, turns in zip(costed, timed, strict=True):
        modelled = dialogue_cost(one.network, dialogue, machine)
        check_kept(one.network.name, modelled, [was.kept for was in turns])
        found.append(Costed(one.network, as_measured(modelled, [was.milliseconds for was in turns])))
    return machine, found


def check_kept(network: str, modelled: Sequence[Turn], kept: Sequence[Mapping[str, int]]) -> None:
    """Compare what the visibility rules let each turn of a dialogue keep with what the decoding engine kept.

    Raises:
        AssertionError: they differ, so one of the two is wrong.
    """
    for turn, was in zip(modelled, kept, strict=True):
        if dict(turn.kept) != dict(was):
            raise AssertionError(
                f"{network}, turn {turn.number}: {turn.kept} modelled as kept, {dict(was)} were"
            )


def as_measured(turns: Sequence[Turn], milliseconds: Sequence[float]) -> list[Turn]:
    """Turns with the times they took."""
    return [replace(turn, measured=took) for turn, took in zip(turns, milliseconds, strict=True)]


def reporter(steps: int) -> Callable[[str], None]:
    """One line on a terminal that says what is being timed, and how long it will take by what it took so far."""
    began, done = time.monotonic(), 0

    def report(line: str) -> None:
        nonlocal done
        if not sys.stderr.isatty():
            return
        left = (time.monotonic() - began) / done * (steps - done) if done else None
        rest = "" if left is None or not line else f", about {left:.0f} s left"
        print(f"\r\x1b[2K{line}{rest}", end="", file=sys.stderr, flush=True)
        done += 1

    return report


def entry(costed: Sequence[Costed], dialogue: Dialogue, machine: Machine | None) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "dialogue": {
            "turns": dialogue.turns,
            "input": dialogue.input,
            "output": dialogue.output,
            "dtype": dialogue.dtype,
        },
        "machine": None
        if machine is None
        else {"flops_per_second": machine.peak, "bytes_per_second": machine.bandwidth},
        "correlation": correlated(costed),
        "networks": {
            one.network.name: {
                "parameters": parameters(one.network)["total"],
                "layers": list(one.network.depths),
                "turns": [_turn(turn) for turn in one.turns],
            }
            for one in costed
        },
    }


def correlated(costed: Sequence[Costed]) -> float | None:
    """Pearson's correlation of modelled and measured milliseconds over networks and turns; None without both."""
    pairs = [
        (turn.milliseconds, turn.measured)
        for one in costed
        for turn in one.turns
        if turn.milliseconds is not None and turn.measured is not None
    ]
    return correlation(pairs) if len(pairs) > 1 else None


def _turn(turn: Turn) -> dict[str, Any]:
    return {
        "turn": turn.number,
        "kept": dict(turn.kept),
        "read": dict(turn.read),
        "flops": turn.flops,
        "prefill_flops": turn.prefill.flops,
        "bytes": turn.bytes,
        "weight_bytes": turn.weight_bytes,
        "cache_bytes": turn.cache_bytes,
        "milliseconds": turn.milliseconds,
        "measured_milliseconds": turn.measured,
    }


# ------------------------------------------------------------------------------------------------------------

Figure = Callable[[Turn], float]


def print_tables(costed: Sequence[Costed], dialogue: Dialogue, machine: Machine | None = None) -> None:
    """FLOPs, bytes and milliseconds of each turn, for people."""
    shown: list[tuple[str, Callable[[Sequence[Turn]], str]]] = [
        ("FLOPs", lambda turns: decimal(sum(turn.flops for turn in turns))),
        ("bytes", lambda turns: decimal(sum(turn.bytes for turn in turns))),
    ]
    if costed[0].turns[0].milliseconds is not None:
        shown.append(("ms", lambda turns: _milliseconds(turns)))
    for title, cell in shown:
        print_wide(_table(title, costed, cell))
    print(
        f"{dialogue.turns} turns: {dialogue.input:,} tokens said and {dialogue.output:,} written in each, in"
        f" {dialogue.dtype}, one dialogue at a time.\nBytes: weights, and keys and values of the cache, as often as "
        "they are read."
    )
    for one in costed:
        print(f"{one.network.name}: {_what_is_kept(one)}")
    agreement = correlated(costed)
    if machine is not None:
        print(
            f"ms: the longer of FLOPs at {decimal(machine.peak)}FLOP/s and bytes at {decimal(machine.bandwidth)}B/s, "
            "pass by pass" + ("; then as measured." if agreement is not None else ".")
        )
    if agreement is not None:
        print(f"Correlation of modelled and measured milliseconds: {agreement:.3f}")


def _milliseconds(turns: Sequence[Turn]) -> str:
    modelled = sum(turn.milliseconds or 0.0 for turn in turns)
    if turns[0].measured is None:
        return _short(modelled)
    return f"{_short(modelled)} {_short(sum(turn.measured or 0.0 for turn in turns))}"


def _short(milliseconds: float) -> str:
    return f"{milliseconds:,.3g}" if milliseconds < 100 else f"{milliseconds:,.0f}"


def _table(title: str, costed: Sequence[Costed], cell: Callable[[Sequence[Turn]], str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column(f"turn, {title}\nparameters", style="bold")
    for one in costed:
        table.add_column(f"{one.network.name}\n{decimal(parameters(one.network)['total'])}", justify="right")
    count = len(costed[0].turns)
    for number in range(count):
        end = number == count - 1
        table.add_row(
            str(number + 1), *(cell(one.turns[number : number + 1]) for one in costed), end_section=end
        )
    table.add_row("all", *(cell(one.turns) for one in costed), style="bold")
    return table


def _what_is_kept(one: Costed) -> str:
    """What the rules let be kept in the last turn, in words."""
    last = one.turns[-1]
    if last.number == 1:
        return "one turn, so there was nothing to keep"
    words: list[str] = []
    for stream in one.network.streams:
        kept, read = last.kept[stream.name], last.read[stream.name]
        if stream.holds == "output":
            continue  # an answer's stream begins anew, whatever the rules
        rules = ", ".join(
            dict.fromkeys(
                str(r.visibility).replace(" & same_document", "")
                for layer in stream.layers
                for r in layer.reads
                if r.keys == stream.name
            )
        )
        words.append(
            f"{stream.name} ({rules}) keeps {kept:,} of {kept + read:,} tokens in turn {last.number}"
        )
    return "; ".join(words)


# ------------------------------------------------------------------------------------------------------------


def write_chart(path: Path, costed: Sequence[Costed]) -> None:
    """Draw the turns' FLOPs, bytes and milliseconds, one panel each, into an HTML, SVG or PNG file.

    Raises:
        UserError: the file can't be written.
    """
    panels: list[alt.LayerChart] = [
        _panel(costed, "FLOPs", lambda turn: turn.flops),
        _panel(costed, "bytes moved", lambda turn: turn.bytes),
    ]
    if costed[0].turns[0].milliseconds is not None:
        panels.append(_panel(costed, "milliseconds, modelled", lambda turn: turn.milliseconds or 0.0))
    if costed[0].turns[0].measured is not None:
        panels.append(_panel(costed, "milliseconds, measured", lambda turn: turn.measured or 0.0))
    whole = alt.vconcat(*panels, spacing=26)
    spec = json.dumps({**whole.to_dict(), "background": PAPER_LIGHT, "config": CONFIG, "padding": 16})
    kind = path.suffix.lower()
    if kind == ".html":
        write_atomic(path, vl_convert.vegalite_to_html(spec, bundle=True))
        return
    svg = vl_convert.vegalite_to_svg(spec)
    write_atomic(path, svg if kind == ".svg" else vl_convert.svg_to_png(svg, scale=2))


def _panel(
    costed: Sequence[Costed], title: str, figure: Figure, width: int = 760, height: int = 220
) -> alt.LayerChart:
    """One figure of each turn, a line for each network, its name at the line's end."""
    looks = [Line(one.network.name, ink) for one, ink in zip(costed, inks(len(costed)), strict=True)]
    rows: list[Row] = [
        {"arm": one.network.name, "turn": turn.number, "value": figure(turn)}
        for one in costed
        for turn in one.turns
    ]
    top = 1.06 * max(row["value"] for row in rows)
    last = max(row["turn"] for row in rows)
    scale = alt.Scale(domain=[0, top], nice=False)
    across = alt.Scale(domain=[1, last * 1.32], nice=False)
    ticks = alt.Axis(values=list(range(1, last + 1, max(1, last // 10))), format="d", grid=False)
    x = alt.X("turn:Q", scale=across, title="turn", axis=ticks)
    y = alt.Y("value:Q", scale=scale, title=title, axis=alt.Axis(tickCount=5, format="~s"))
    base = alt.Chart(inline(rows))
    shapes = alt.Scale(domain=[a.arm for a in looks], range=[a.ink.mark for a in looks])
    line = base.mark_line(strokeWidth=2).encode(x=x, y=y, color=colour_of(looks), detail="arm:N")
    points = base.mark_point(filled=True, size=42, opacity=1, stroke=PAPER_LIGHT, strokeWidth=0.7).encode(
        x=x,
        y=y,
        color=colour_of(looks),
        shape=alt.Shape("arm:N", scale=shapes, legend=None),
        tooltip=["arm:N", alt.Tooltip("turn:Q"), alt.Tooltip("value:Q", format=".4s", title=title)],
    )
    ends = [figure(one.turns[-1]) for one in costed]
    places = apart(ends, 14.0 * top / height, 0.0, top)
    labels: list[Row] = [
        {"arm": one.network.name, "turn": last, "value": place}
        for one, place in zip(costed, places, strict=True)
    ]
    names = names_beside(labels, x, alt.Y("value:Q", scale=scale), colour_of(looks))
    made = alt.layer(line, points, *names)
    assert isinstance(made, alt.LayerChart)
    return made.properties(width=width, height=height)
